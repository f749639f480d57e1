"""Gathers what the page of each release says: from the ledger, the signed statements and the records they name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.decision import policy
from checks.decision.policy import Change
from checks.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.evaluation import baselines
from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries
from checks.formats.signers import Signers
from checks.formats.statement import Release
from checks.formats.verdict import Verdict
from release.cards import card_record, commands, released, trade, writing
from release.cards.release_page import Advised, Against, Home, LeftOut, Part, ReleasePage, Site
from release.cards.released import Released
from release.evidence import freshness, trust
from release.ledger import Ledger
from release.ledger.ran import Ran, ran
from release.promotion import held as quarantined
from release.record.records import Named, Records
from release.review import advice, kept, making, pairs, same_rows, same_samples, side_by_side, situations
from release.review.comparison import Comparison, Cost, Metric
from release.review.kept import Kept
from release.review.sides import Side

_CONFIDENCE = 0.95  # where no evaluation says one


class _Ledger(NamedTuple):
    """What all pages have in common. ``releases``: the last that came first. ``moves``: of each environment."""

    records: Records
    releases: tuple[Released, ...]
    moves: Mapping[str, tuple[Ran, ...]]
    held: Entries
    known: Signers | str  # the signers that count, or why that is not known
    sides: dict[str, Side]

    def side(self, pointer: Pointer) -> Side:
        """The record of a release; its reports and answers are read once."""
        if pointer.image not in self.sides:
            of = Named(pointer.version, pointer.commit, pointer)
            self.sides[pointer.image] = Side(self.records, of, pointer.version)
        return self.sides[pointer.image]

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
    moves = {each: ran(ledger.moves(tip, each)) for each in names}
    found = _Ledger(
        records, released.every(ledger, tip, names), moves,
        quarantined.here(root, ledger, tip, params.promote).entries, _signers(root), {},
    )  # fmt: skip
    pages, left_out, paged = list[ReleasePage](), list[LeftOut](), list[trade.Candidate]()
    for release in found.releases if name is None else (released.named(found.releases, moves, name),):
        try:
            pages.append(page := _page(found, release, params.serve.name))
            paged.append(trade.Candidate(page.version, page.file, found.side(release.pointer)))
        except Refusal as refused:
            if name is not None:
                raise
            left_out.append(LeftOut(version=release.pointer.version, image=release.pointer.image, why=refused.what))
    if not found.releases:
        raise EvidenceRefused(
            f"{ledger.shown}: nothing was promoted yet, so no release has a page",
            "promote one: `lockstep promote ENVIRONMENT`",
        )
    runs = {each: its[0].after.version if its and its[0].after else None for each, its in moves.items()}
    return Site(
        name=params.serve.name, branch=ledger.shown, tip=tip, alone=name is not None, environments=runs,
        pages=tuple(pages), left_out=tuple(left_out), trades=tuple(trade.of(paged)) if name is None else (),
    )  # fmt: skip


def _signers(root: Path) -> Signers | str:
    try:
        return trust.known(root)
    except EvidenceRefused as refused:
        return refused.what


def file(found: Sequence[Released], release: Released) -> str:
    """The name of its file. A version that two images have, which no move of Lockstep makes, has the image's too."""
    its = release.pointer
    same = [each for each in found if each.pointer.version == its.version]
    return f"{its.version}.html" if len(same) == 1 else f"{its.version}-{its.digest.removeprefix('sha256:')[:12]}.html"


def _page(found: _Ledger, release: Released, name: str) -> ReleasePage:
    stated = released.stated(found.records, release)
    its, this = release.pointer, found.side(release.pointer)
    verdict = found.records.at(its.commit).report(layout.VERDICT, Verdict)
    assert verdict is not None  # the statement names its digest
    before = _before(found, release)
    compared = None if before is None else side_by_side.compare(found.side(before), this)
    signer, unsigned = (None, found.known) if isinstance(found.known, str) else released.signer(release, found.known)
    notes = list[str]()
    entry = quarantine.find(found.held, its.digest, its.model)
    against = tuple(_against(found, its, this, before, compared))
    confidence = this.evaluation.confidence if this.evaluation else _CONFIDENCE
    suites = tuple(_suites(this, confidence, verdict))
    homes = tuple(_homes(found, its))
    where = homes[0].environment if homes else release.moves[0].environment
    answers = this.answers
    page = ReleasePage(
        name=name, version=its.version, file=file(found.releases, release), pointer=its, homes=homes,
        quarantined=None if entry is None else entry.why,
        advice=_advised(its, verdict, entry), verdict=verdict, signer=signer, unsigned=unsigned,
        headline=compared.headline if compared else "The first release: there is none to compare it with",
        confidence=confidence, against=against, suites=suites, before=before.version if before else None,
        comparison=compared,
        policy=None if before is None else _policy(found, before, its, stated, notes),
        cost=compared.cost if compared else tuple(_alone(this)), image=stated.image, serving=stated.serving,
        tries=() if entry else commands.tries(
            its, stated.image, found.records.at(its.commit).serve, where, answers[0].prompt if answers else None
        ),
        cards=_cards(found, release, notes), parts=tuple(_parts(its, stated)),
        checks=commands.checks(its, before.version if before else None),
        moves=release.moves, rollbacks=commands.rollbacks(its, found.moves, found.held), notes=(),
    )  # fmt: skip
    return page.model_copy(
        update={"notes": tuple(dict.fromkeys((*notes, *(compared.notes if compared else this.notes))))}
    )


def _before(found: _Ledger, release: Released) -> Pointer | None:
    """The release of another model that came first, the last before ``release``."""
    at = found.releases.index(release)
    return next(
        (each.pointer for each in found.releases[at + 1 :] if each.pointer.model != release.pointer.model), None
    )


def _homes(found: _Ledger, its: Pointer) -> Iterator[Home]:
    for name, moves in found.moves.items():
        now = moves[0] if moves else None
        if now and now.after and now.after.digest == its.digest:
            yield Home(environment=name, since=now.at, by=now.by, why=now.why, kind=now.kind, doubt=now.doubt)


def _against(
    found: _Ledger, its: Pointer, this: Side, before: Pointer | None, compared: Comparison | None
) -> Iterator[Against]:
    """Beside the release before, what production runs, the best cheap baseline, and the base."""
    name, runs = found.production
    if before is not None and compared is not None:
        also = f", which {name} runs" if runs and runs.model == before.model else ""
        yield _first(f"{before.version}, the release before{also}", compared.metrics)
    if runs is not None and runs.model not in (its.model, before.model if before else None):
        other = side_by_side.compare(found.side(runs), this)
        yield _first(f"{runs.version}, which {name} runs", other.metrics)
    if this.evaluation is None or this.candidate is None:
        return
    metric = next(iter(this.candidate.metrics))
    scores = {
        each: result.metrics[metric].value
        for each, result in this.evaluation.models.items()
        if each in baselines.NAMES and metric in result.metrics
    }
    models = {"base": "the base model"}
    if scores:
        best = max(scores, key=scores.__getitem__)
        models = {best: f"{_called(best)}, the best cheap baseline"} | models
    for each, what in models.items():
        if each in this.evaluation.models:
            yield _model(this, each, what, metric)


def _called(name: str) -> str:
    return next(said for baseline, said in baselines.NAMES.items() if baseline == name)


def _first(what: str, metrics: Sequence[Metric]) -> Against:
    first = next((each for each in metrics if each.suite is None), None)
    if first is None:
        return Against(what=what, metric="", ours=None, theirs=None, difference=None, note="no metric is in both")
    return Against(
        what=what, metric=first.name, ours=first.b, theirs=first.a, difference=first.difference, note=first.note
    )


def _model(this: Side, name: str, what: str, metric: str) -> Against:
    """Beside another model of its own evaluation, on the same rows."""
    assert this.evaluation is not None
    assert this.candidate is not None
    ours, theirs = this.answers, this.answers_of(name)
    far = None
    if ours is not None and theirs is not None:
        paired = pairs.pair(theirs, ours)
        far = same_rows.difference(paired, range(len(paired.new)), metric, this.evaluation.confidence)
    return Against(
        what=what, metric=metric, ours=this.candidate.metrics.get(metric),
        theirs=this.evaluation.models[name].metrics.get(metric), difference=far,
        note="" if far else "its answers are not here",
    )  # fmt: skip


def _advised(its: Pointer, verdict: Verdict, entry: quarantine.Entry | None) -> Advised:
    found = advice.advise(situations.of_release(its.version, verdict.status, entry.why if entry else None))
    return Advised(mark=found.mark, headline=found.headline.plain, why=found.why.plain, todo=found.todo.plain)


def _suites(this: Side, confidence: float, verdict: Verdict) -> Iterator[Against]:
    """Each metric of each suite beside the base, on the same samples. What people compared is in the gates."""
    changes = {(row.suite, row.metric): row for row in kept.of_report(this.suites, verdict)}
    for name, suite in this.suites.suites.items() if this.suites else ():
        if suite.compared is not None:
            continue
        base = suite.means.get("base", {})
        for metric, mean in suite.means.get("candidate", {}).items():
            far = same_samples.against_base(this, name, metric, confidence) if metric in base else None
            note = "" if far else "its samples are not here" if metric in base else "the base was not asked"
            yield Against(
                what=f"{name}: {metric}", metric=metric, ours=mean, theirs=base.get(metric), difference=far, note=note,
                allowed=_allowed(changes[name, metric]),
            )  # fmt: skip


def _allowed(row: Kept) -> str:
    change = f"Change: {row.change}" if row.change else ""
    return "; ".join(part for part in (change, f"allowed: {row.allowed}" if row.allowed else "") if part)


def _policy(
    found: _Ledger, before: Pointer, its: Pointer, stated: Release, notes: list[str]
) -> tuple[Change, ...] | None:
    """What changed of the policy since the release before; None if that is not known, for a reason in ``notes``."""
    earlier = next(each for each in found.releases if each.pointer.image == before.image)
    try:
        tests = [
            released.stated(found.records, earlier).materials.splits.get("test"),
            stated.materials.splits.get("test"),
        ]
        old, new = (
            policy.of(found.records.at(each.commit).params(f"{layout.PARAMS} of {each.version}"), test)
            for each, test in zip((before, its), tests, strict=True)
        )
    except (ParamsRefused, EvidenceRefused) as refused:
        notes.append(f"the policies are not compared: {refused.what}")
        return None
    return policy.changes(old, new)


def _cards(found: _Ledger, release: Released, notes: list[str]) -> dict[str, str]:
    """The cards of the model and of its data. Empty, with a reason in ``notes``, if its commit lacks a part."""
    try:
        return writing.readable(card_record.of_release(found.records, release))
    except (ParamsRefused, EvidenceRefused) as refused:
        notes.append(f"no cards: {refused.what}")
        return {}


def _alone(this: Side) -> Iterator[Cost]:
    """What the first release took, beside nothing."""
    for each in making.costs(this, this, []):
        yield each.model_copy(update={"a": None})


def _parts(its: Pointer, stated: Release) -> Iterator[Part]:
    made, image = stated.materials, stated.image
    yield Part(what="image", digest=its.digest, says=f"{image.place}, {image.size:,} bytes, for {image.runtime}")
    yield Part(what="signed statement", digest=its.evidence, says="names everything below")
    yield Part(what="verdict", digest=made.verdict, says=f"{layout.VERDICT} at commit {its.commit[:12]}")
    yield Part(what="weights", digest=its.model, says="the merged model that was evaluated and is served")
    yield Part(what="adapter", digest=made.adapter, says="what training made, merged into the base")
    yield Part(what="base model", digest=made.base, says="its files, as a tree")
    yield Part(what="evaluation", digest=made.reports.get(str(layout.EVALUATION)), says="the scores of this page")
    for name, value in made.splits.items():
        yield Part(what=f"{name} split", digest=value, says="the rows, after the rules of prepare")
    yield Part(what="raw data", digest=made.raw, says="what was fetched")
    yield Part(what="parameters", digest=made.params, says=f"{layout.PARAMS} at commit {its.commit[:12]}")
    yield Part(what="pipeline", digest=made.lock, says=f"{layout.LOCK} at commit {its.commit[:12]}")
    yield Part(what="bill of materials", digest=stated.sbom, says="CycloneDX with a model card, attached to the image")
