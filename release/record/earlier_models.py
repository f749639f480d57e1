"""earlier_models: the reference models that git names.

``main`` is the model recorded where this branch left the target branch. ``production`` is the model that production
runs as of the target branch's tip (or that of the branch with the environments): what its pointer names, or what ran
last if the pointer was deleted. ``best`` is the release with the highest recorded score of all that production ran
and that were judged on the newest one's test split, without those in quarantine. All three depend on commits alone.
Neither the work tree nor its record is read, so every verb gets the same answer, and no pull request can choose what it
is compared with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from checks.config.release_params import Promote
from checks.formats import pointer as pointers
from checks.formats.evaluation_reports import Earlier, Reference, ReferencesReport
from checks.formats.quarantine import Entries
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.identity import Digest
from checks.storage import files, layout
from release.adapters import commits
from release.ledger import Ledger, Move, held
from release.ledger.moves import history
from release.ledger.walk import walk
from release.record.records import Records

_ENVIRONMENT = "production"
PRODUCTION = layout.ENVIRONMENTS / _ENVIRONMENT / layout.POINTER
_NOTHING_PROMOTED = "nothing has been promoted to production yet"
_NOTHING_RECORDED = "no model was recorded where this branch left the target branch"


class Place(NamedTuple):
    """The target branch and its tip, and ``base``, the commit where HEAD left it."""

    target: str
    tip: str
    base: str


class _Stood(NamedTuple):
    """A model that was main's or production's; ``model`` None: that commit has no record of one."""

    model: str | None
    commit: str


class _Ran(NamedTuple):
    """The release that production ran, and the name of its pointer in messages."""

    pointer: pointers.Pointer
    at: str


class _Production(NamedTuple):
    """Production; ``runs`` is None without a current pointer. ``moves``: newest first. ``held``: the quarantine."""

    runs: _Ran | None
    moves: tuple[Move, ...]
    held: Entries = ()


class _Mean(BaseModel):
    value: float


class _Result(BaseModel):
    predictions: Digest
    metrics: dict[str, _Mean] = {}


class _Rules(BaseModel):
    promote: Promote


class _Models(BaseModel):
    candidate: _Result


class _Record(BaseModel):
    """The fields that are read of reports/evaluation.json; other fields, of any version of Lockstep, are ignored."""

    schema_version: Literal[1]
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    models: _Models


def place(records: Records, target: str, tip: str) -> Place:
    """Where HEAD left ``target``, whose commit is ``tip``. Raises EvidenceRefused if they share no history."""
    head = records.head
    base = commits.merge_base(records.root, head, tip) if head else None
    if base is None:
        raise EvidenceRefused(
            f"HEAD and {target} share no history", "start the branch from the target branch"
        )
    return Place(target, tip, base)


def now(records: Records, where: Place, name: Earlier) -> Reference | str:
    """The reference model ``name``, or why there is none yet. Raises EvidenceRefused and RemoteRefused."""
    if name == "main":
        return _main(records, where)
    return _running(records, where) if name == "production" else _best(records, where)


def runs(records: Records, where: Place) -> pointers.Pointer | None:
    """The pointer of production; None if nothing runs there, or if no environment is called so.

    Raises EvidenceRefused and RemoteRefused.
    """
    rules = _rules(records, where)
    if rules is not None and _ENVIRONMENT not in rules.environments:
        return None
    ran = _running_pointer(records, where)
    return ran.pointer if ran else None


def quarantine(records: Records, where: Place) -> Entries:
    """The quarantine of the environments, by its history. Raises EvidenceRefused if its file cannot be read, and
    RemoteRefused.
    """
    rules = _rules(records, where)
    if rules is None or _is_here(records.root, where, rules):
        path = (commits.prefix(records.root) / layout.QUARANTINE).as_posix()
        quarantined = held.history(
            records.git, walk(records.git, where.tip, [path]), path, str(layout.QUARANTINE), None
        )
    else:
        ledger, tip = _elsewhere(records.root, rules)
        if tip is None:
            return ()
        quarantined = ledger.quarantine(tip)
    if quarantined.unreadable:
        raise quarantined.unreadable
    return quarantined.entries


def replaced(records: Records, where: Place, name: Earlier, model: str) -> Iterator[str | None]:
    """The models that ``model`` was compared with, from git, when it became main's or production's.

    None: there was none. For ``main`` this includes what the model before it was compared with: a branch merged by
    fast-forward brings every record that was made on it.
    """
    if name == "best":
        yield from _bests_before(records, where, model)
        return
    stood = _mains(records, where) if name == "main" else _ran_before(records, where)
    for before in _replaced(stood, model):
        yield before.model if before else None
        if before and name == "main":
            yield from _mains_then(records, before.commit)


def record(records: Records, commit: str) -> Reference | None:
    """The candidate of the evaluation recorded in ``commit``; None if there is no record."""
    try:
        evaluated = records.at(commit).report(layout.EVALUATION, _Record)
    except ValidationError as error:
        raise EvidenceRefused(
            f"{layout.EVALUATION} at {commit[:12]}: {files.first(error)}",
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
        predictions=evaluated.models.candidate.predictions,
    )


def _main(records: Records, where: Place) -> Reference | str:
    if (model := record(records, where.base)) is not None:
        return model
    if record(records, where.tip) is not None:
        raise EvidenceRefused(
            f"{where.target} has a record and the commit where this branch left it, {where.base[:12]}, has none",
            f"merge {where.target} into this branch",
        )
    return _NOTHING_RECORDED


def _mains(records: Records, where: Place) -> Iterator[_Stood]:
    """The models recorded on the target branch up to the base, newest first."""
    for commit in commits.touching(records.root, where.base, layout.EVALUATION):
        try:
            model = record(records, commit)
        except EvidenceRefused:
            continue  # no model can be read there
        yield _Stood(model.merged if model else None, commit)


def _mains_then(records: Records, commit: str) -> Iterator[str | None]:
    """Yield what the record in ``commit`` was compared with as main; empty if it does not say."""
    try:
        then = records.at(commit).report(layout.REFERENCES, ReferencesReport)
    except ValidationError:
        return
    if then is None:
        return
    if "main" in then.absent:
        yield None
    elif "main" in then.found:
        yield then.found["main"].merged


def _running(records: Records, where: Place) -> Reference | str:
    ran = _running_pointer(records, where)
    return _NOTHING_PROMOTED if ran is None else _of_pointer(records, where, ran)


def _running_pointer(records: Records, where: Place) -> _Ran | None:
    """Return what production runs; what ran last, if its pointer was deleted."""
    production = _production(records, where)
    return production.runs or next(_ran(production.moves), None)


def _ran_before(records: Records, where: Place) -> Iterator[_Stood]:
    """The models that production ran, newest first."""
    return (
        _Stood(move.pointer.model, move.pointer.commit)
        for move in _ran(_production(records, where).moves)
    )


def _best(records: Records, where: Place) -> Reference | str:
    """The release with the highest score; of equal ones the newest."""
    return _highest(records, _releases(_production(records, where))) or _NOTHING_PROMOTED


def _bests_before(records: Records, where: Place, model: str) -> Iterator[str | None]:
    """The best releases at the times when ``model`` was promoted; None: there was none."""
    releases = _releases(_production(records, where))
    for number, release in enumerate(releases):
        before = releases[number + 1 :]
        if release.model == model and (not before or before[0].model != model):
            best = _highest(records, before)
            yield best.merged if best else None


def _releases(production: _Production) -> list[_Stood]:
    """Return what production ran, newest first, without models in quarantine."""
    quarantined = {entry.model for entry in production.held}
    ran = [*([production.runs] if production.runs else []), *_ran(production.moves)]
    return [
        _Stood(release.pointer.model, release.pointer.commit)
        for release in ran
        if release.pointer.model not in quarantined
    ]


def _highest(records: Records, releases: Iterable[_Stood]) -> Reference | None:
    """The release with the highest score in its own record, by the first scorer of the newest one.

    Scores on other test rows, or by other scorers, than those of the newest release cannot be compared with its score.
    """
    best: tuple[float, str] | None = None
    newest: _Record | None = None
    for release in releases:
        try:
            evaluated = records.at(release.commit).report(layout.EVALUATION, _Record)
        except (ValidationError, EvidenceRefused):
            continue  # Another version of Lockstep recorded it otherwise.
        if (
            evaluated is None
            or evaluated.merged != release.model
            or not (scores := evaluated.models.candidate.metrics)
        ):
            continue
        newest = newest or evaluated
        score = scores.get(next(iter(newest.models.candidate.metrics)))
        if score is None or (evaluated.test, evaluated.scorers) != (newest.test, newest.scorers):
            continue
        if best is None or score.value > best[0]:
            best = score.value, release.commit
    return record(records, best[1]) if best else None


def _ran(moves: Iterable[Move]) -> Iterator[_Ran]:
    """Every pointer on the branch's first-parent history. A deleted pointer counts, a side branch's does not."""
    return (
        _Ran(move.after, f"{PRODUCTION} at {move.commit[:12]}")
        for move in moves
        if move.after and move.ran
    )


def _production(records: Records, where: Place) -> _Production:
    """Production as of the tip of the target, or of the branch that holds the environments.

    Raises EvidenceRefused if its pointer cannot be read, RemoteRefused if that branch cannot be fetched.
    """
    root, rules = records.root, _rules(records, where)
    if rules is not None and _ENVIRONMENT not in rules.environments:
        what = f"no environment is called {_ENVIRONMENT}, and a gate compares with production"
        raise EvidenceRefused(
            f"{where.target}:{layout.PARAMS}: {what}", "give one that name, or compare with main"
        )
    if rules is None or _is_here(root, where, rules):
        prefix, git = commits.prefix(root).as_posix(), records.git
        path, listed = (
            f"{prefix}/{path_below}".removeprefix("./")
            for path_below in (PRODUCTION, layout.QUARANTINE)
        )
        walked = walk(git, where.tip, [path, listed])
        moves = history(git, walked, {_ENVIRONMENT: path})[_ENVIRONMENT][::-1]
        text, shown = records.at(where.tip).data(PRODUCTION), f"{PRODUCTION} at {where.tip[:12]}"
        kept = held.history(git, walked, listed, str(layout.QUARANTINE), None).entries
        return _Production(
            None if text is None else _Ran(pointers.parse(text, shown), shown), moves, kept
        )
    ledger, tip = _elsewhere(root, rules)
    if tip is None:
        return _Production(None, ())
    runs = ledger.pointer(tip, _ENVIRONMENT)
    shown = f"{PRODUCTION} of {ledger.shown} at {tip[:12]}"
    return _Production(
        None if runs is None else _Ran(runs, shown),
        ledger.moves(tip, _ENVIRONMENT),
        ledger.quarantine(tip).entries,
    )


def _elsewhere(root: Path, rules: Promote) -> tuple[Ledger, str | None]:
    """The ledger on another branch or in another repository, and its tip; None if nothing was promoted yet."""
    ledger = Ledger.open(root, rules)
    # A branch of this repository may not exist yet; in another repository a missing branch is a mistake.
    return ledger, ledger.begun() if rules.repository is None else ledger.tip()


def _rules(records: Records, where: Place) -> Promote | None:
    """The target's environments; None if this version cannot read them, which means that nothing is promoted."""
    try:
        rules = (
            records.at(where.tip)
            .sections(_Rules, f"{where.target}:{layout.PARAMS}", "fix it")
            .promote
        )
    except ParamsRefused:
        return None
    return rules


def _is_here(root: Path, where: Place, rules: Promote) -> bool:
    """Whether the environments are on the target branch itself."""
    tracked = commits.resolve(root, f"refs/remotes/{where.target}") is not None
    branch = where.target.partition("/")[2] if tracked else where.target
    return rules.repository is None and (
        rules.branch == branch or where.tip == commits.resolve(root, f"refs/heads/{rules.branch}")
    )


def _of_pointer(records: Records, where: Place, ran: _Ran) -> Reference:
    """The record that a pointer names. It must be in the target's history, and about the pointer's model."""
    todo = "restore the pointer from git's history, or promote again"
    named, at = ran
    if not commits.is_ancestor(records.root, named.commit, where.tip):
        raise EvidenceRefused(
            f"{at}: commit {named.commit[:12]} is not in the history of {where.target}", todo
        )
    model = record(records, named.commit)
    if model is None:
        raise EvidenceRefused(f"{at}: commit {named.commit[:12]} has no {layout.EVALUATION}", todo)
    if model.merged != named.model:
        raise EvidenceRefused(
            f"{at}: names {named.model[:19]}…, and the record of commit {named.commit[:12]} is about "
            f"{model.merged[:19]}…",
            todo,
        )
    return model


def _replaced(stood: Iterable[_Stood], model: str) -> Iterator[_Stood | None]:
    """Yield what came before each unbroken run of ``model``, newest first; None: nothing."""
    inside = False
    for model_before in stood:
        if inside and model_before.model != model:
            yield model_before
        inside = model_before.model == model
    if inside:
        yield None
