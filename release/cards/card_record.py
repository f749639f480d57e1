"""The record that a card is made of: of the work tree, if its verdict still holds, or of a release that was signed."""

from collections.abc import Iterable
from pathlib import Path

from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused
from checks.storage import digest, layout
from release.cards import card_facts, production, released
from release.evidence import freshness, trust
from release.image import image as images
from release.ledger import Ledger, Move
from release.record import verdict_check
from release.record.records import Named, Records
from release.review.sides import CANDIDATE, Side

_REPORTS = (
    layout.FETCH_REPORT, layout.PREPARE_REPORT, layout.DATA_REPORT, layout.TRAIN_REPORT, layout.EVALUATION,
)  # fmt: skip


def gather(root: Path, name: str | None) -> card_facts.CardFacts:
    """The facts of the work tree, or of the release that ``name`` means: an environment, a version, or an image.

    Raises EvidenceRefused if the verdict does not hold, if the release's evidence does not, or if prose is missing;
    as ``released.at`` for a name.
    """
    records = Records(root)
    if name is None:
        verdict_check.hold(records, trusting=verdict_check.WEIGHTS)
        return _facts(records, None)
    promote = records.work_tree.params.promote
    ledger = Ledger.open(root, promote)
    tip = freshness.tip(root, ledger, promote)
    release = released.at(ledger, tip, promote.ordered, name)
    moves = released.moves(ledger, tip, promote.ordered)
    return of_release(records, release, moves)


def of_release(
    records: Records, release: released.Released, moves: Iterable[Move]
) -> card_facts.CardFacts:
    """Return the facts of a release, of which ``moves`` of all environments may have moved away.

    Raises EvidenceRefused if its evidence does not hold, or if prose is missing.
    """
    released.stated(records, release)
    return _facts(records, release, production.away(moves, release.pointer.digest))


def _facts(
    records: Records, release: released.Released | None, rollbacks: Iterable[Move] | None = None
) -> card_facts.CardFacts:
    its = release.pointer if release else None
    commit = records.at(its.commit) if its else None
    side = Side(
        records, Named(its.version if its else ".", its.commit if its else None, its), "the record"
    )

    verdict = (commit or records.work_tree).report(layout.VERDICT, Verdict)
    read = (side.fetch, side.prepare, side.data, side.train, side.evaluation)
    missing = [str(path) for path, report in zip(_REPORTS, read, strict=True) if report is None]
    fetch, prepare, checked, train, evaluation = read
    if (
        not (fetch and prepare and checked and train and evaluation and verdict)
        or CANDIDATE not in evaluation.models
    ):
        why = ", ".join(missing) or f"the candidate of {layout.EVALUATION}"
        raise EvidenceRefused(
            f"{why}: is missing, or cannot be read by this version", "run `./lockstep run`"
        )
    params = (
        commit.params(f"{layout.PARAMS} of {its.version}")
        if commit and its
        else records.work_tree.params
    )
    named = (
        layout.VERDICT,
        *_REPORTS,
        layout.SUITES_REPORT,
        *([layout.TRAIN_MEASURED] if side.took else []),
    )
    digests = {str(path): digest.of_bytes(text) for path in named if (text := side.read(path))}
    prose = card_facts.prose(card_facts.MODEL, side.read(card_facts.MODEL))
    return card_facts.CardFacts(
        name=params.serve.name, version=its.version if its else None, image=its.image if its else None,
        license=images.spdx(params), params=params, fetch=fetch, prepare=prepare, data=checked, train=train,
        took=side.took, evaluation=evaluation, suites=side.suites, verdict=verdict, digests=digests,
        sizes={} if its else {split.name: split.stat().st_size for split in (records.root / layout.SPLITS).glob("*")},
        model_prose=prose, data_prose=card_facts.prose(card_facts.DATA, side.read(card_facts.DATA)),
        carbon=card_facts.carbon_of(prose.front, card_facts.MODEL, side.took.energy if side.took else None),
        production=production.gather(records.root, trust.signers_or_why(records.root), evaluation.merged, rollbacks)[0],
    )  # fmt: skip
