"""earlier_models: the reference models that git names.

``main`` is the model recorded where this branch left the target branch. ``production`` is the model that production
runs as of the target branch's tip (or that of the branch with the environments): what its pointer names, or what ran
last if the pointer was deleted. ``best`` is the release with the highest recorded score of all that production ran
and that were judged on the newest one's test split, without those in quarantine. All three depend on commits alone.
Neither the work tree nor its record is read, so every verb gets the same answer, and no pull request can choose what it
is compared with.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import AliasPath, BaseModel, Field, ValidationError

from checks.config.release_params import Promote
from checks.formats.evaluation_reports import Earlier, Reference, ReferencesReport
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.record import Digest
from checks.storage import files, layout
from release.adapters import commits
from release.ledger import Ledger
from release.ledger.types import Place
from release.record.records import Records

_ENVIRONMENT = "production"
PRODUCTION = layout.ENVIRONMENTS / _ENVIRONMENT / layout.POINTER
_NOTHING_PROMOTED = "nothing has been promoted to production yet"
_NOTHING_RECORDED = "no model was recorded where this branch left the target branch"


class TargetBranch(NamedTuple):
    """The target branch and its tip, and ``base``, the commit where HEAD left it."""

    target: str
    tip: str
    base: str


class _Main(NamedTuple):
    """A model that was main's; ``model`` None: that commit has no record of one."""

    model: str | None
    commit: str


class _Production(NamedTuple):
    """The releases that production ran, newest first. ``newest_at``: the name of the newest pointer."""

    releases: Sequence[Pointer]
    newest_at: str
    quarantined: Entries


class _Mean(BaseModel):
    value: float


class Rules(BaseModel):
    """The section of params.yaml about environments; the others may be invalid or of another version."""

    promote: Promote


class _Record(BaseModel):
    """The fields that are read of reports/evaluation.json; other fields, of any version of Lockstep, are ignored."""

    schema_version: Literal[1]
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    predictions: Digest = Field(validation_alias=AliasPath("models", "candidate", "predictions"))
    metrics: dict[str, _Mean] = Field(
        {}, validation_alias=AliasPath("models", "candidate", "metrics")
    )


def place(records: Records, target: str, tip: str) -> TargetBranch:
    """Where HEAD left ``target``, whose commit is ``tip``. Raises EvidenceRefused if they share no history."""
    head = records.head
    base = commits.merge_base(records.root, head, tip) if head else None
    if base is None:
        raise EvidenceRefused(
            f"HEAD and {target} share no history", "start the branch from the target branch"
        )
    return TargetBranch(target, tip, base)


def now(records: Records, branch: TargetBranch, name: Earlier) -> Reference | str:
    """The reference model ``name``, or why there is none yet. Raises EvidenceRefused and RemoteRefused."""
    if name == "main":
        return _main(records, branch)
    production = _production(records, branch)
    if not production.releases:
        return _NOTHING_PROMOTED
    if name == "production":
        return _newest(records, branch, production)
    return _highest(records, _free(production)) or _NOTHING_PROMOTED


def runs(records: Records, branch: TargetBranch) -> Pointer | None:
    """The pointer of production; None if nothing runs there, or if no environment is called so.

    Raises EvidenceRefused and RemoteRefused.
    """
    rules = _rules(records, branch)
    if rules is not None and _ENVIRONMENT not in rules.environments:
        return None
    return next(iter(_production(records, branch).releases), None)


def promoted(records: Records, branch: TargetBranch) -> bool:
    """Whether a release was ever promoted to any environment; True if they are elsewhere than on this branch."""
    rules = _rules(records, branch)
    if rules is None or not _is_here(records.root, branch, rules):
        return True
    return bool(
        commits.touching(records.root, branch.tip, layout.ENVIRONMENTS / "*" / layout.POINTER)
    )


def quarantine(records: Records, branch: TargetBranch) -> Entries:
    """The quarantine of the environments, by its history. Raises EvidenceRefused if its file cannot be read, and
    RemoteRefused.
    """
    ledger, tip = _ledger(records, branch)
    if tip is None:
        return ()
    return ledger.quarantine(tip).readable().entries


def replaced(
    records: Records, branch: TargetBranch, name: Earlier, model: str
) -> Iterator[str | None]:
    """The models that ``model`` was compared with, from git, when it became main's or production's.

    None: there was none. For ``main`` this includes what the model before it was compared with: a branch merged by
    fast-forward brings every record that was made on it.
    """
    if name == "best":
        yield from _bests_before(records, branch, model)
        return
    stood: Iterable[_Main | Pointer] = (
        _mains(records, branch) if name == "main" else _production(records, branch).releases
    )
    for before in _replaced(stood, model):
        yield before.model if before else None
        if before and name == "main":
            yield from _mains_then(records, before.commit)


def record(records: Records, commit: str) -> Reference | None:
    """The candidate of the evaluation recorded in ``commit``; None if there is no record."""
    try:
        evaluated = records.at(commit).report(layout.EVALUATION, _Record)
    except ValidationError as error:
        raise files.unfit(
            f"{layout.EVALUATION} at {commit[:12]}",
            error,
            "restore it on the target branch from an earlier commit; without it there is no reference model",
        ) from error
    if evaluated is None:
        return None
    return Reference(
        commit=commit,
        merged=evaluated.merged,
        test=evaluated.test,
        scorers=evaluated.scorers,
        prompt_format=evaluated.prompt_format,
        predictions=evaluated.predictions,
    )


def _main(records: Records, branch: TargetBranch) -> Reference | str:
    if (model := record(records, branch.base)) is not None:
        return model
    if record(records, branch.tip) is not None:
        raise EvidenceRefused(
            f"{branch.target} has a record and the commit where this branch left it, {branch.base[:12]}, has none",
            f"merge {branch.target} into this branch",
        )
    return _NOTHING_RECORDED


def _mains(records: Records, branch: TargetBranch) -> Iterator[_Main]:
    """The models recorded on the target branch up to the base, newest first."""
    for commit in commits.touching(records.root, branch.base, layout.EVALUATION):
        try:
            model = record(records, commit)
        except EvidenceRefused:
            continue  # no model can be read there
        yield _Main(model.merged if model else None, commit)


def _mains_then(records: Records, commit: str) -> Iterator[str | None]:
    """Yield what the record in ``commit`` was compared with as main; empty if it does not say."""
    then = records.at(commit).readable(layout.REFERENCES, ReferencesReport)
    if then and "main" in then.absent:
        yield None
    elif then and "main" in then.found:
        yield then.found["main"].merged


def _bests_before(records: Records, branch: TargetBranch, model: str) -> Iterator[str | None]:
    """The best releases at the times when ``model`` was promoted; None: there was none."""
    releases = _free(_production(records, branch))
    for number, release in enumerate(releases):
        before = releases[number + 1 :]
        if release.model == model and (not before or before[0].model != model):
            best = _highest(records, before)
            yield best.merged if best else None


def _free(production: _Production) -> list[Pointer]:
    """The releases whose models are not in quarantine."""
    bad_models = {entry.model for entry in production.quarantined}
    return [release for release in production.releases if release.model not in bad_models]


def _highest(records: Records, releases: Iterable[Pointer]) -> Reference | None:
    """The release with the highest score in its own record, by the first scorer of the newest one.

    Scores on other test rows, or by other scorers, than those of the newest release cannot be compared with its score.
    """
    best: tuple[float, str] | None = None
    newest: _Record | None = None
    for release in releases:
        # None where another version of Lockstep recorded it otherwise.
        evaluated = records.at(release.commit).readable(layout.EVALUATION, _Record)
        if (
            evaluated is None
            or evaluated.merged != release.model
            or not (scores := evaluated.metrics)
        ):
            continue
        newest = newest or evaluated
        score = scores.get(next(iter(newest.metrics)))
        if score is None or (evaluated.test, evaluated.scorers) != (newest.test, newest.scorers):
            continue
        if best is None or score.value > best[0]:
            best = score.value, release.commit
    return record(records, best[1]) if best else None


def _production(records: Records, branch: TargetBranch) -> _Production:
    """Production as of the tip of the target, or of the branch that holds the environments.

    A deleted pointer counts as what ran, and that of a side branch does not. Raises EvidenceRefused if the current
    pointer cannot be read, RemoteRefused if that branch cannot be fetched.
    """
    rules = _rules(records, branch)
    if rules is not None and _ENVIRONMENT not in rules.environments:
        what = f"no environment is called {_ENVIRONMENT}, and a gate compares with production"
        raise EvidenceRefused(
            f"{branch.target}:{layout.PARAMS}: {what}", "give one that name, or compare with main"
        )
    ledger, tip = _ledger(records, branch)
    if tip is None:
        return _Production((), "", ())
    ran = [move for move in ledger.moves(tip, _ENVIRONMENT) if move.ran and move.after]
    newest_at = f"{PRODUCTION} of {ledger.shown} at {tip[:12]}"
    if not ledger.shown:
        newest_at = f"{PRODUCTION} at {tip[:12]}"
    if ledger.pointer(tip, _ENVIRONMENT) is None and ran:
        newest_at = f"{PRODUCTION} at {ran[0].commit[:12]}"
    return _Production(
        [move.after for move in ran if move.after], newest_at, ledger.quarantine(tip).entries
    )


@functools.lru_cache(maxsize=1)
def _ledger(records: Records, branch: TargetBranch) -> tuple[Ledger, str | None]:
    """The ledger with production, and its tip, asked once; None if nothing was promoted yet."""
    rules = _rules(records, branch)
    if rules is None or _is_here(records.root, branch, rules):
        prefix = records.git.prefix()
        return Ledger(Place(records.git, "", None, prefix), (_ENVIRONMENT,)), branch.tip
    ledger = Ledger.open(records.root, rules)
    # A branch of this repository may not exist yet; in another repository a missing branch is a mistake.
    return ledger, ledger.begun() if rules.repository is None else ledger.tip()


def _rules(records: Records, branch: TargetBranch) -> Promote | None:
    """The target's environments; None if this version cannot read them, which means that nothing is promoted."""
    called = f"{branch.target}:{layout.PARAMS}"
    try:
        return records.at(branch.tip).sections(Rules, called, "fix it").promote
    except ParamsRefused:
        return None


def _is_here(root: Path, branch: TargetBranch, rules: Promote) -> bool:
    """Whether the environments are on the target branch itself."""
    tracked = commits.resolve(root, f"refs/remotes/{branch.target}") is not None
    name = branch.target.partition("/")[2] if tracked else branch.target
    return rules.repository is None and (
        rules.branch == name or branch.tip == commits.resolve(root, f"refs/heads/{rules.branch}")
    )


def _newest(records: Records, branch: TargetBranch, production: _Production) -> Reference:
    """The record that the newest pointer names. It must be in the target's history, and about the pointer's model."""
    todo = "restore the pointer from git's history, or promote again"
    pointer, at = production.releases[0], production.newest_at
    commit = pointer.commit[:12]
    if not commits.is_ancestor(records.root, pointer.commit, branch.tip):
        raise EvidenceRefused(
            f"{at}: commit {commit} is not in the history of {branch.target}", todo
        )
    model = record(records, pointer.commit)
    if model is None:
        raise EvidenceRefused(f"{at}: commit {commit} has no {layout.EVALUATION}", todo)
    if model.merged != pointer.model:
        names = f"names {pointer.model[:19]}…, and the record of commit {commit} is about"
        raise EvidenceRefused(f"{at}: {names} {model.merged[:19]}…", todo)
    return model


def _replaced(stood: Iterable[_Main | Pointer], model: str) -> Iterator[_Main | Pointer | None]:
    """Yield what came before each unbroken run of ``model``, newest first; None: nothing."""
    inside = False
    for model_before in stood:
        if inside and model_before.model != model:
            yield model_before
        inside = model_before.model == model
    if inside:
        yield None
