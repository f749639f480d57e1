"""Gathers what the page of each release says: from the ledger, the signed statements and the records they name."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.decision import policy
from checks.evaluation import baselines
from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.signers import Signers
from checks.formats.statement import Release
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.records.record import Digest
from checks.storage import layout
from release.cards import card_record, commands, production, released, trade, writing
from release.cards.release_page import STAGES, Against, Home, LeftOut, Part, ReleasePage, Site
from release.evidence import freshness, trust
from release.ledger import Ledger, Move
from release.ledger.moves import ran
from release.promotion import emergency, quarantined
from release.record.records import Named, Records
from release.review import (
    advice,
    kept_abilities,
    same_rows,
    same_samples,
    side_by_side,
    situations,
)
from release.review.comparison import Answer, Comparison, Cost, Metric
from release.review.sides import Side
from release.runtimes import lookup


class _SiteFacts(NamedTuple):
    """The common facts of all pages. ``releases``: the last that came first. ``moves``: of each environment."""

    records: Records
    releases: tuple[released.Released, ...]
    moves: Mapping[str, tuple[Move, ...]]
    held: quarantine.Entries
    known: Signers | str  # the signers that count, or why that is not known
    sides: dict[str, Side]
    standings: Mapping[str, emergency.Standing]

    def side(self, pointer: Pointer) -> Side:
        """The record of a release; its reports and answers are read once."""
        if pointer.image not in self.sides:
            of = Named(pointer.version, pointer.commit, pointer)
            self.sides[pointer.image] = Side(self.records, of, pointer.version)
        return self.sides[pointer.image]

    @property
    def every_move(self) -> Iterator[Move]:
        """Return the moves of all environments."""
        return itertools.chain.from_iterable(self.moves.values())

    @property
    def production(self) -> tuple[str, Pointer | None]:
        """The last environment, and what it runs."""
        name, moves = list(self.moves.items())[-1]
        return name, moves[0].after if moves else None


def gather(root: Path, name: str | None) -> Site:
    """Every release, or the one that ``name`` means: an environment, a version, or the digest of an image.

    Raises EvidenceRefused if nothing was promoted, if there is no such release, or if its evidence does not hold;
    RemoteRefused if the ledger's remote does not answer; ParamsRefused if params.yaml cannot be read. Of all releases,
    those whose evidence does not hold are left out, with the reason.
    """
    records = Records(root)
    params = records.work_tree.params
    ledger = Ledger.open(root, params.promote)
    tip, names = freshness.tip(root, ledger, params.promote), params.promote.ordered
    moves = {environment: ran(ledger.moves(tip, environment)) for environment in names}
    facts = _SiteFacts(
        records, released.every(ledger, tip, names), moves,
        quarantined.here(root, ledger, tip, params.promote).entries, trust.signers_or_why(root), {},
        emergency.here(records, ledger, tip, params.promote),
    )  # fmt: skip
    pages, left_out, paged = list[ReleasePage](), list[LeftOut](), list[trade.Candidate]()
    for release in (
        facts.releases if name is None else (released.named(facts.releases, moves, name),)
    ):
        try:
            pages.append(page := _page(facts, release, params.serve.name))
            paged.append(trade.Candidate(page.version, page.file, facts.side(release.pointer)))
        except Refusal as refused:
            if name is not None:
                raise
            left_out.append(
                LeftOut(
                    version=release.pointer.version, image=release.pointer.image, why=refused.what
                )
            )
    if not facts.releases:
        raise EvidenceRefused(
            f"{ledger.shown}: nothing was promoted yet, so no release has a page",
            "promote one: `lockstep promote ENVIRONMENT`",
        )
    runs = {
        place: history[0].after.version if history and history[0].after else None
        for place, history in moves.items()
    }
    return Site(
        name=params.serve.name, branch=ledger.shown, tip=tip, alone=name is not None, environments=runs,
        pages=tuple(pages), left_out=tuple(left_out), trades=tuple(trade.of(paged)) if name is None else (),
    )  # fmt: skip


def file(releases: Sequence[released.Released], release: released.Released) -> str:
    """The name of its file. A version that two images have, which no move of Lockstep makes, has the image's too."""
    pointer = release.pointer
    same = [other for other in releases if other.pointer.version == pointer.version]
    image = f"-{pointer.digest.removeprefix('sha256:')[:12]}" if len(same) > 1 else ""
    return f"{pointer.version}{image}.html"


def _mistakes(side: Side) -> list[Answer]:
    if side.evaluation is None or side.candidate is None or not side.answers:
        return []
    metric = next(iter(side.candidate.metrics))
    return same_rows.mistakes(side.answers, metric, side.evaluation.thinking)


def _page(facts: _SiteFacts, release: released.Released, name: str) -> ReleasePage:
    stated = released.stated(facts.records, release)
    pointer = release.pointer
    side = facts.side(pointer)
    moved_away = production.away(facts.every_move, pointer.digest)
    shown, notes = production.gather(facts.records.root, facts.known, pointer.model, moved_away)
    verdict = facts.records.at(pointer.commit).report(layout.VERDICT, Verdict)
    assert verdict is not None  # the statement names its digest
    before = _before(facts, release)
    compared = None if before is None else side_by_side.compare(facts.side(before), side)
    signer, unsigned = (
        (None, facts.known)
        if isinstance(facts.known, str)
        else released.signer(release, facts.known)
    )
    entry = quarantine.find(facts.held, pointer.digest, pointer.model)
    advised = advice.advise(
        situations.of_release(pointer.version, verdict.status, entry.why if entry else None)
    )
    against = tuple(_against(facts, pointer, side, before, compared))
    suites = tuple(_suites(side, verdict))
    homes = tuple(_homes(facts, pointer))
    environment = homes[0].environment if homes else release.moves[0].environment
    answers = side.answers
    page = ReleasePage(
        name=name, version=pointer.version, file=file(facts.releases, release), pointer=pointer, homes=homes,
        quarantined=None if entry is None else entry.why,
        advice=advised.plain, verdict=verdict, signer=signer, unsigned=unsigned,
        headline=compared.headline if compared else "The first release: there is none to compare it with",
        test=stated.materials.splits.get("test"), confidence=side.confidence,
        against=against, suites=suites, before=before.version if before else None,
        comparison=compared, mistakes=() if compared else tuple(_mistakes(side)),
        policy=None if before is None else _policy(facts, before, pointer, stated, notes),
        cost=compared.cost if compared else _alone(side), image=stated.image, serving=stated.serving,
        tries=() if entry else commands.tries(
            facts.records.root, pointer, stated.image, facts.records.at(pointer.commit).serve, environment,
            answers[0].prompt if answers else None,
        ),
        cards=_cards(facts, release, notes), parts=tuple(_parts(facts.records.root, pointer, stated, side)),
        checks=commands.checks(pointer, before.version if before else None),
        moves=release.moves, production=shown, rollbacks=commands.rollbacks(pointer, facts.moves, facts.held), notes=(),
    )  # fmt: skip
    return page.model_copy(
        update={
            "notes": tuple(dict.fromkeys((*notes, *(compared.notes if compared else side.notes))))
        }
    )


def _before(facts: _SiteFacts, release: released.Released) -> Pointer | None:
    """The release of another model that came first, the last before ``release``."""
    at = facts.releases.index(release)
    return next(
        (
            other.pointer
            for other in facts.releases[at + 1 :]
            if other.pointer.model != release.pointer.model
        ),
        None,
    )


def _homes(facts: _SiteFacts, pointer: Pointer) -> Iterator[Home]:
    for name, moves in facts.moves.items():
        now = moves[0] if moves else None
        if now and now.after and now.after.digest == pointer.digest:
            yield Home(
                environment=name,
                since=now.at,
                by=now.by,
                why=now.why,
                kind=now.kind,
                doubt=now.doubt,
                emergency=facts.standings[name].line,
            )


def _against(
    facts: _SiteFacts,
    pointer: Pointer,
    side: Side,
    before: Pointer | None,
    compared: Comparison | None,
) -> Iterator[Against]:
    """Beside the release before, what production runs, the best cheap baseline, and the base."""
    name, runs = facts.production
    if before is not None and compared is not None:
        also = f", which {name} runs" if runs and runs.model == before.model else ""
        yield _first(f"{before.version}, the release before{also}", compared.metrics)
    if runs is not None and runs.model not in (pointer.model, before.model if before else None):
        other = side_by_side.compare(facts.side(runs), side)
        yield _first(f"{runs.version}, which {name} runs", other.metrics)
    if side.evaluation is None or side.candidate is None:
        return
    metric = next(iter(side.candidate.metrics))
    asked = side.evaluation.models
    cheap = [key for key in baselines.NAMES if key in asked and metric in asked[key].metrics]
    models: dict[str, str] = {"base": "the base model"}
    if cheap:
        best = max(cheap, key=lambda key: asked[key].metrics[metric].value)
        models = {best: f"{baselines.NAMES[best]}, the best cheap baseline"} | models
    for model, what in models.items():
        if model in asked:
            yield _model(side, model, what, metric)


def _first(what: str, metrics: Sequence[Metric]) -> Against:
    first = next((metric for metric in metrics if metric.suite is None), None)
    if first is None:
        return Against(
            what=what,
            metric="",
            ours=None,
            theirs=None,
            difference=None,
            note="no metric is in both",
        )
    return Against(
        what=what,
        metric=first.name,
        ours=first.b,
        theirs=first.a,
        difference=first.difference,
        note=first.note,
    )


def _model(side: Side, name: str, what: str, metric: str) -> Against:
    """Beside another model of its own evaluation, on the same rows."""
    assert side.evaluation is not None
    assert side.candidate is not None
    far = same_rows.against(side, name, metric)
    return Against(
        what=what, metric=metric, ours=side.candidate.metrics.get(metric),
        theirs=side.evaluation.models[name].metrics.get(metric), difference=far,
        note="" if far else "its answers are not here",
    )  # fmt: skip


def _suites(side: Side, verdict: Verdict) -> Iterator[Against]:
    """Each metric of each suite beside the base, on the same samples. What people compared is in the gates."""
    suites = side.suites.suites if side.suites else {}
    for row in kept_abilities.of_report(side.suites, verdict):
        if suites[row.suite].compared is not None:
            continue
        is_asked = row.base is not None
        far = same_samples.against_base(side, row.suite, row.metric) if is_asked else None
        missing = "its samples are not here" if is_asked else "the base was not asked"
        yield Against(
            what=f"{row.suite}: {row.metric}", metric=row.metric, ours=row.own, theirs=row.base, difference=far,
            note="" if far else missing, allowed=_allowed(row),
        )  # fmt: skip


def _allowed(row: kept_abilities.Kept) -> str:
    change = f"Change: {row.change}" if row.change else ""
    return "; ".join(
        part for part in (change, f"allowed: {row.allowed}" if row.allowed else "") if part
    )


def _policy(
    facts: _SiteFacts, before: Pointer, pointer: Pointer, stated: Release, notes: list[str]
) -> tuple[policy.Change, ...] | None:
    """Return what changed in the policy since the release before. None: not known, for a reason in ``notes``."""
    earlier = next(release for release in facts.releases if release.pointer.image == before.image)
    try:
        tests = [
            released.stated(facts.records, earlier).materials.splits.get("test"),
            stated.materials.splits.get("test"),
        ]
        old, new = (
            policy.of(
                facts.records.at(ran.commit).params(f"{layout.PARAMS} of {ran.version}"), test
            )
            for ran, test in zip((before, pointer), tests, strict=True)
        )
    except (ParamsRefused, EvidenceRefused) as refused:
        notes.append(f"the policies are not compared: {refused.what}")
        return None
    return policy.changes(old, new)


def _cards(facts: _SiteFacts, release: released.Released, notes: list[str]) -> dict[str, str]:
    """The cards of the model and of its data. Empty, with a reason in ``notes``, if its commit lacks a part."""
    try:
        return writing.readable(card_record.of_release(facts.records, release, facts.every_move))
    except (ParamsRefused, EvidenceRefused) as refused:
        notes.append(f"no cards: {refused.what}")
        return {}


def _alone(side: Side) -> tuple[Cost, ...]:
    """Return what the first release took, beside nothing."""
    return tuple(cost.model_copy(update={"a": None}) for cost in side_by_side.costs(side, side, []))


def _archived(root: Path, image: ImageReport) -> str:
    """Since when the server of an image is archived; empty if it is not, or cannot be read."""
    try:
        archived = lookup.at(root, image.commit, image.runtime).archived
    except Refusal:
        return ""
    return f", archived {archived}" if archived else ""


def _parts(root: Path, pointer: Pointer, stated: Release, side: Side) -> Iterator[Part]:
    made, image, commit = stated.materials, stated.image, pointer.commit[:12]
    files_of_image = {name for layer in image.layers for name in layer.files}
    apart = any(name.startswith(f"{layout.SHIPPED_ADAPTER}/") for name in files_of_image)
    ships, how = (
        ("the base with the adapter", "added to the base by the server")
        if apart
        else ("the merged model", "merged into the base")
    )
    served = f"{image.place}, {image.size:,} bytes, for {image.runtime}{_archived(root, image)}"
    fetched, prepared, trained, merged, judged, built = STAGES
    parts: list[tuple[str, str, Digest | None, str]] = [
        (built, "image", pointer.digest, served),
        (built, "signed statement", pointer.evidence, "names everything below"),
        (judged, "verdict", made.verdict, f"{layout.VERDICT} at commit {commit}"),
        (merged, "weights", pointer.model, f"{ships} that was evaluated and is served"),
        *(
            (merged, "GGUF file", layer.files[layout.GGUF], "the same model, for llama.cpp")
            for layer in image.layers
            if layout.GGUF in layer.files
        ),
        (trained, "adapter", made.adapter, f"what training made, {how}"),
        *(
            (fetched, "start", start.adapter, f"the adapter of model {start.model} that training began with")
            for start in [made.start]
            if start
        ),
        (fetched, "base model", made.base, "its files, as a tree"),
        (judged, "evaluation", made.reports.get(str(layout.EVALUATION)), "the scores of this page"),
        *(
            (prepared, f"{name} split", split, "the rows, after the rules of prepare")
            for name, split in made.splits.items()
        ),
        (fetched, "raw data", made.raw, "what was fetched"),
        *(
            (fetched, f"source {name}", source.digest, f"{source.uri}, in the raw data")
            for name, source in (side.fetch.sources.items() if side.fetch else ())
        ),
        ("", "parameters", made.params, f"{layout.PARAMS} at commit {commit}"),
        ("", "pipeline", made.lock, f"{layout.LOCK} at commit {commit}"),
        ("", "bill of materials", stated.sbom, "CycloneDX with a model card, attached to the image"),
    ]  # fmt: skip
    return (
        Part(what=what, digest=value, says=says, stage=stage) for stage, what, value, says in parts
    )
