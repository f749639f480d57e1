"""earlier_models: the models that git names as released before.

``main`` is the model recorded where this branch left the target branch. ``champion`` is the model that production runs
as of the target branch's tip, or of the branch that holds the environments: what its pointer names, and where the
pointer was deleted, what ran last. Both are functions of commits alone: neither the work tree nor the record in it is
read, so that every verb gets the same answer and no pull request chooses what it is compared with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from checks import files, layout
from checks import pointer as pointers
from checks.errors import EvidenceRefused, ParamsRefused
from checks.evidence import Earlier, Reference, ReferencesReport
from checks.identity import Digest
from checks.release_params import Promote
from release.adapters import commits
from release.ledger import Ledger, Move
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
    """A model that stood as main's or production's; ``model`` None: none was recorded in that commit."""

    model: str | None
    commit: str


class _Ran(NamedTuple):
    """What production ran, and what messages call the pointer."""

    pointer: pointers.Pointer
    at: str


class _Production(NamedTuple):
    """``runs`` is None where there is no pointer now. ``moves``: the latest first."""

    runs: _Ran | None
    moves: tuple[Move, ...]


class _Result(BaseModel):
    predictions: Digest


class _Rules(BaseModel):
    promote: Promote


class _Models(BaseModel):
    candidate: _Result


class _Record(BaseModel):
    """What is read of reports/evaluation.json there; what another version of Lockstep wrote beside it is ignored."""

    schema_version: Literal[1]
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    models: _Models


def place(root: Path, target: str, tip: str) -> Place:
    """Where HEAD left ``target``, whose commit is ``tip``. Raises EvidenceRefused when they share no history."""
    head = commits.resolve(root, "HEAD")
    base = commits.merge_base(root, head, tip) if head else None
    if base is None:
        raise EvidenceRefused(f"HEAD and {target} share no history", "start the branch from the target branch")
    return Place(target, tip, base)


def now(records: Records, where: Place, name: Earlier) -> Reference | str:
    """The earlier model ``name``, or why there is none yet. Raises EvidenceRefused and RemoteRefused."""
    return _main(records, where) if name == "main" else _champion(records, where)


def replaced(records: Records, where: Place, name: Earlier, model: str) -> Iterator[str | None]:
    """The models that ``model`` was compared with, as git has it, when it became main's or production's.

    None: there was none. For ``main`` also what the model before was compared with: a branch that is merged by
    fast-forward brings every record that was made on it.
    """
    stood = _mains(records, where) if name == "main" else _champions(records, where)
    for before in _replaced(stood, model):
        yield before.model if before else None
        if before and name == "main":
            yield from _mains_then(records, before.commit)


def record(records: Records, commit: str) -> Reference | None:
    """What the evaluation recorded in ``commit`` says of its candidate; None when nothing is recorded there."""
    try:
        found = records.at(commit).report(layout.EVALUATION, _Record)
    except ValidationError as error:
        raise EvidenceRefused(
            f"{layout.EVALUATION} at {commit[:12]}: {files.first(error)}",
            "on the target branch, restore it from a commit where it is whole; without it there is no earlier model",
        ) from error
    if found is None:
        return None
    return Reference(
        commit=commit,
        merged=found.merged,
        test=found.test,
        scorers=found.scorers,
        prompt_format=found.prompt_format,
        predictions=found.models.candidate.predictions,
    )


def _main(records: Records, where: Place) -> Reference | str:
    if (found := record(records, where.base)) is not None:
        return found
    if record(records, where.tip) is not None:
        raise EvidenceRefused(
            f"{where.target} has a record and the commit where this branch left it, {where.base[:12]}, has none",
            f"merge {where.target} into this branch",
        )
    return _NOTHING_RECORDED


def _mains(records: Records, where: Place) -> Iterator[_Stood]:
    """The models recorded on the target branch up to the base, the latest first."""
    for commit in commits.touching(records.root, where.base, layout.EVALUATION):
        try:
            found = record(records, commit)
        except EvidenceRefused:
            continue  # no model can be read there
        yield _Stood(found.merged if found else None, commit)


def _mains_then(records: Records, commit: str) -> Iterator[str | None]:
    """What the record in ``commit`` was compared with as main; nothing where it does not say."""
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


def _champion(records: Records, where: Place) -> Reference | str:
    production = _production(records, where)
    ran = production.runs or next(_ran(production.moves), None)
    return _NOTHING_PROMOTED if ran is None else _of_pointer(records, where, ran)


def _champions(records: Records, where: Place) -> Iterator[_Stood]:
    """The models that production ran, the latest first."""
    return (_Stood(each.pointer.model, each.pointer.commit) for each in _ran(_production(records, where).moves))


def _ran(moves: Iterable[Move]) -> Iterator[_Ran]:
    """Every pointer that the branch itself had: one that was deleted since still ran, one of a side branch did not."""
    return (_Ran(move.after, f"{PRODUCTION} at {move.commit[:12]}") for move in moves if move.after and move.ran)


def _production(records: Records, where: Place) -> _Production:
    """Production as of the target's tip, or of the tip of the branch that holds the environments.

    Raises EvidenceRefused when its pointer cannot be read, RemoteRefused when that branch cannot be asked for.
    """
    root, rules = records.root, _rules(records, where)
    if rules is None or _is_here(root, where, rules):
        path = f"{commits.prefix(root).as_posix()}/{PRODUCTION}".removeprefix("./")
        git = records.git
        moves = history(git, walk(git, where.tip, [path]), {_ENVIRONMENT: path})[_ENVIRONMENT][::-1]
        text, shown = records.at(where.tip).data(PRODUCTION), f"{PRODUCTION} at {where.tip[:12]}"
        return _Production(None if text is None else _Ran(pointers.parse(text, shown), shown), moves)
    ledger = Ledger.open(root, rules)
    # A branch of this repository may not be made yet; another repository that lacks it is a mistake.
    tip = ledger.begun() if rules.repository is None else ledger.tip()
    if tip is None:
        return _Production(None, ())
    runs = ledger.pointer(tip, _ENVIRONMENT)
    shown = f"{PRODUCTION} of {ledger.shown} at {tip[:12]}"
    return _Production(None if runs is None else _Ran(runs, shown), ledger.moves(tip, _ENVIRONMENT))


def _rules(records: Records, where: Place) -> Promote | None:
    """What the target says of its environments; None where this version cannot read it: then nothing is promoted."""
    try:
        rules = records.at(where.tip).sections(_Rules, f"{where.target}:{layout.PARAMS}", "fix it").promote
    except ParamsRefused:
        return None
    if _ENVIRONMENT not in rules.environments:
        what = f"no environment is called {_ENVIRONMENT}, and a gate compares with champion"
        raise EvidenceRefused(f"{where.target}:{layout.PARAMS}: {what}", "give one that name, or compare with main")
    return rules


def _is_here(root: Path, where: Place, rules: Promote) -> bool:
    """Whether the environments lie on the target branch itself."""
    tracked = commits.resolve(root, f"refs/remotes/{where.target}") is not None
    branch = where.target.partition("/")[2] if tracked else where.target
    return rules.repository is None and (
        rules.branch == branch or where.tip == commits.resolve(root, f"refs/heads/{rules.branch}")
    )


def _of_pointer(records: Records, where: Place, ran: _Ran) -> Reference:
    """The record that a pointer names; it must be in the target's history, and about the pointer's model."""
    todo = "restore the pointer from git's history, or promote again"
    named, at = ran
    if not commits.is_ancestor(records.root, named.commit, where.tip):
        raise EvidenceRefused(f"{at}: commit {named.commit[:12]} is not in the history of {where.target}", todo)
    found = record(records, named.commit)
    if found is None:
        raise EvidenceRefused(f"{at}: commit {named.commit[:12]} has no {layout.EVALUATION}", todo)
    if found.merged != named.model:
        raise EvidenceRefused(
            f"{at}: names {named.model[:19]}…, and the record of commit {named.commit[:12]} is about "
            f"{found.merged[:19]}…",
            todo,
        )
    return found


def _replaced(stood: Iterable[_Stood], model: str) -> Iterator[_Stood | None]:
    """What stood before each unbroken run of ``model``, the latest first; None: nothing did."""
    inside = False
    for each in stood:
        if inside and each.model != model:
            yield each
        inside = each.model == model
    if inside:
        yield None
