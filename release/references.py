"""references: which models were released before, as git names them.

``main`` is the model of the commit where this branch left the target branch. ``champion`` is what the pointer of
production names on the branch that holds the environments, by the target's params.yaml: the work tree's own is not
asked, so that no pull request chooses what it is compared with.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from checks import files, layout, params_file, plain_yaml, pointer
from checks.errors import EvidenceRefused, ParamsRefused
from checks.evidence import Digest, Earlier, Reference, ReferencesReport
from checks.gate_kinds import EARLIER
from checks.params import Promote
from release import commits, sections_at
from release.ledger import Ledger

_ENVIRONMENT = "production"
PRODUCTION = layout.ENVIRONMENTS / _ENVIRONMENT / layout.POINTER

_NOTHING_PROMOTED = "nothing has been promoted to production yet"
# What decides a model and its verdict: while it is as in HEAD, there is nothing new to judge.
_INPUTS = (layout.PARAMS.as_posix(), "dvc.yaml", "dvc.lock", "stages", "checks")


class Written(NamedTuple):
    """What ``write`` found; ``target`` is the branch that it held this one against."""

    report: ReferencesReport
    target: str
    changed: bool


class _Place(NamedTuple):
    """Where this work tree stands: the target branch and its tip, the merge base, and whether it was judged already.

    ``judged``: the work tree is a commit of the target branch with the inputs that were merged there. Its record was
    made before, against what main and production were then, and must not be held against itself.
    """

    target: str
    tip: str
    base: str
    judged: bool


class _Result(BaseModel):
    predictions: Digest


class _Rules(BaseModel):
    promote: Promote


class _Models(BaseModel):
    candidate: _Result


class _Record(BaseModel):
    """What is needed of reports/evaluation.json there; what another version of Lockstep wrote beside it is not read."""

    schema_version: Literal[1]
    merged: Digest
    test: Digest
    scorers: Digest
    prompt_format: Digest
    models: _Models


def write(root: Path, target: str | None = None) -> Written:
    """Write reports/references.json, unless it says the same already: a later commit with the same record is no change.

    ``target`` is the branch to compare with; None: as ``commits.target`` finds it. Raises as ``resolve`` does.
    """
    name, report = resolve(root, target)
    stored = _stored(root)
    if stored is not None and not _differences(root, stored, report):
        return Written(stored, name, changed=False)
    files.write_json(root / layout.REFERENCES, report)
    return Written(report, name, changed=True)


def current(root: Path, target: str | None = None) -> list[str]:
    """One line for each place where reports/references.json is no longer what git names."""
    try:
        stored = files.read_json(root / layout.REFERENCES, ReferencesReport)
        return _differences(root, stored, resolve(root, target)[1])
    except EvidenceRefused as refusal:
        return [str(refusal)]


def resolve(root: Path, target: str | None = None) -> tuple[str, ReferencesReport]:
    """The target branch's name, and every earlier model that a gate names: of params.yaml here, or of the target's.

    Raises EvidenceRefused when git cannot say (no repository, a shallow clone, no common history, an unknown target),
    or when a pointer or a record is there and cannot be believed; RemoteRefused when the environments lie on another
    branch or in another repository that does not answer.
    """
    if not commits.has_repository(root):
        if wanted := _named(root, None):
            raise EvidenceRefused(
                f"{root}: is no git repository, and gates compare with {' and '.join(wanted)}",
                "clone the repository; a copy of its files has no history",
            )
        return "HEAD", ReferencesReport(found={}, absent={})
    name, tip = commits.target(root, target)
    wanted = _named(root, tip)
    if tip is None:
        return name, ReferencesReport(found={}, absent=dict.fromkeys(wanted, "git has no commit yet"))
    if wanted and commits.is_shallow(root):
        raise EvidenceRefused(
            "the clone is shallow: where this branch left the target cannot be seen",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )
    ask = {"main": _main, "champion": _champion}
    place = _place(root, name, tip) if wanted else None
    answers = {reference: ask[reference](root, place) for reference in wanted if place}
    found = {reference: answer for reference, answer in answers.items() if isinstance(answer, Reference)}
    absent = {reference: answer for reference, answer in answers.items() if isinstance(answer, str)}
    return name, ReferencesReport(found=found, absent=absent)


def _named(root: Path, tip: str | None) -> tuple[Earlier, ...]:
    """The earlier models that a gate names: under this policy or, since both judge, under the target branch's."""
    named = {getattr(gate, "against", None) for gate in params_file.load(root / layout.PARAMS).gates.values()}
    text = commits.read(root, tip, layout.PARAMS) if tip else None
    if text is not None:
        try:
            theirs: Any = plain_yaml.load(text.decode())
            named |= {gate.get("against") for gate in theirs["gates"].values()}
        except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError):
            pass  # a policy that cannot be read is refused where it judges
    return tuple(name for name in EARLIER if name in named)


def _place(root: Path, target: str, tip: str) -> _Place:
    head = commits.resolve(root, "HEAD")
    base = commits.merge_base(root, head, tip) if head else None
    if base is None:
        raise EvidenceRefused(f"HEAD and {target} share no history", "start the branch from the target branch")
    judged = base == head and commits.same(root, base, _INPUTS)
    return _Place(target, tip, base, judged)


def _main(root: Path, place: _Place) -> Reference | str:
    if place.judged and (stored := _stored(root)):
        kept = stored.found.get("main")
        if kept and commits.is_ancestor(root, kept.commit, place.base) and _agrees(root, kept):
            return kept
        if "main" in stored.absent:
            return stored.absent["main"]
    if (record := _record(root, place.base)) is not None:
        return record
    if _record(root, place.tip) is not None:
        raise EvidenceRefused(
            f"{place.target} has a record and the commit where this branch left it, {place.base[:12]}, has none",
            f"merge {place.target} into this branch",
        )
    return "no model was recorded where this branch left the target branch"


def _champion(root: Path, place: _Place) -> Reference | str:
    own = _record(root, place.base) if place.judged else None
    for where, named in _pointers(root, place):
        if own is None or named.model != own.merged:
            return _of_pointer(root, place, named, where)
    return _NOTHING_PROMOTED


def _pointers(root: Path, place: _Place) -> Iterator[tuple[str, pointer.Pointer]]:
    """What production ran, the last first, each with what messages call it.

    A pointer that was taken away since counts: what ran last is still what a model must keep up with.
    """
    if elsewhere := _elsewhere(root, place):
        ledger = Ledger.open(root, elsewhere)
        # A branch of this repository may not be made yet; another repository that lacks it is a mistake.
        tip = ledger.begun() if elsewhere.repository is None else ledger.tip()
        for move in ledger.moves(tip, _ENVIRONMENT) if tip else ():
            if move.after:
                yield f"{PRODUCTION} of {ledger.shown} at {move.commit[:12]}", move.after
        return
    for commit in commits.touching(root, place.tip, PRODUCTION):
        if (text := commits.read(root, commit, PRODUCTION)) is not None:
            where = f"{PRODUCTION} at {commit[:12]}"
            yield where, pointer.parse(text, where)


def _elsewhere(root: Path, place: _Place) -> Promote | None:
    """Where the environments are, by the target branch; None: on that very branch.

    Sections that this version cannot read move nothing: promotions refuse them.
    """
    try:
        told = sections_at.read(root, place.tip, _Rules, layout.PARAMS.as_posix(), "mend it").promote
    except ParamsRefused:
        return None
    if _ENVIRONMENT not in told.environments:
        what = f"no environment is called {_ENVIRONMENT}, and a gate compares with champion"
        raise EvidenceRefused(f"{place.target}:{layout.PARAMS}: {what}", "give one that name, or compare with main")
    tracked = commits.resolve(root, f"refs/remotes/{place.target}") is not None
    branch = place.target.partition("/")[2] if tracked else place.target
    if told.repository is None and (
        told.branch == branch or place.tip == commits.resolve(root, f"refs/heads/{told.branch}")
    ):
        return None
    return told


def _of_pointer(root: Path, place: _Place, named: pointer.Pointer, where: str) -> Reference:
    """The record that a pointer names; it must be in the target's history, and about the pointer's model."""
    todo = "restore the pointer from git's history, or promote again"
    if not commits.is_ancestor(root, named.commit, place.tip):
        raise EvidenceRefused(f"{where}: commit {named.commit[:12]} is not in the history of {place.target}", todo)
    record = _record(root, named.commit)
    if record is None:
        raise EvidenceRefused(f"{where}: commit {named.commit[:12]} has no {layout.EVALUATION}", todo)
    if record.merged != named.model:
        raise EvidenceRefused(
            f"{where}: names {named.model[:19]}…, and the record of commit {named.commit[:12]} is about "
            f"{record.merged[:19]}…",
            todo,
        )
    return record


def _record(root: Path, commit: str) -> Reference | None:
    """What the evaluation recorded in ``commit`` says of its candidate; None when nothing is recorded there."""
    text = commits.read(root, commit, layout.EVALUATION)
    if text is None:
        return None
    try:
        record = _Record.model_validate_json(text)
    except ValidationError as error:
        raise EvidenceRefused(
            f"{layout.EVALUATION} at {commit[:12]}: {files.first(error)}",
            "on the target branch, restore it from a commit where it is whole; without it there is no earlier model",
        ) from error
    return Reference(
        commit=commit,
        merged=record.merged,
        test=record.test,
        scorers=record.scorers,
        prompt_format=record.prompt_format,
        predictions=record.models.candidate.predictions,
    )


def _stored(root: Path) -> ReferencesReport | None:
    """What is written already; None when it is absent or nothing that this version can read."""
    try:
        return files.read_json(root / layout.REFERENCES, ReferencesReport)
    except EvidenceRefused:
        return None


def _agrees(root: Path, reference: Reference) -> bool:
    """Whether git has this record at its commit."""
    try:
        return commits.resolve(root, reference.commit) is not None and _record(root, reference.commit) == reference
    except EvidenceRefused:
        return False


def _differences(root: Path, stored: ReferencesReport, now: ReferencesReport) -> list[str]:
    todo = "run `lockstep run`"
    lines = []
    for name in EARLIER:
        old, new = stored.found.get(name), now.found.get(name)
        named, wanted = name in stored.absent or old is not None, name in now.absent or new is not None
        if named != wanted:
            whether = "is named, and no gate asks for it" if named else "is asked for by a gate, and not named"
            lines.append(f"{layout.REFERENCES}: {name} {whether}; {todo}")
        elif old is None or new is None:
            if old is not new:
                lines.append(f"{layout.REFERENCES}: {name} is {_shown(old)}, git now has {_shown(new)}; {todo}")
        elif old.model_copy(update={"commit": new.commit}) != new:
            lines.append(f"{layout.REFERENCES}: {name} is {_shown(old)}, git now has {_shown(new)}; {todo}")
        elif old != new and not _agrees(root, old):
            lines.append(f"{layout.REFERENCES}: {name} is not the record of commit {old.commit[:12]}; {todo}")
    return lines


def _shown(reference: Reference | None) -> str:
    return "none" if reference is None else f"{reference.merged[:19]}… of commit {reference.commit[:12]}"
