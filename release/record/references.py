"""references: finds the reference models, and records them in reports/references.json.

``earlier_models`` finds them in git. This module writes them and checks what was written: a record stays valid while
git names the same models, and after its own model was merged or promoted.
"""

import contextlib
from typing import NamedTuple

from checks.formats.evaluation_reports import EARLIER, Earlier, Reference, ReferencesReport
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import files, layout
from checks.training import steps
from release.adapters import commits
from release.record import earlier_models, judged_models, lock_check
from release.record.records import Records

PRODUCTION = earlier_models.PRODUCTION
OTHER_START = "name another model with `lockstep start`, or the base with `lockstep start base`"


class Written(NamedTuple):
    """The result of ``write``. ``report``: the content of the file; ``now``: what git names at this moment.

    They differ after the record's own model was merged or promoted: ``report`` then names what it replaced. ``target``
    is the target branch.
    """

    report: ReferencesReport
    now: ReferencesReport
    target: str
    changed: bool


def write(records: Records, target: str | None = None) -> Written:
    """Write reports/references.json, unless its content still holds.

    A record whose model was merged or promoted is kept while the pipeline would make no other model. A new model is
    compared with what git names now. ``target`` is the target branch (default: ``commits.target``). Raises as
    ``resolve``.
    """
    name, report, place = resolve(records, target)
    _hold_start(records, target)
    stored = records.work_tree.readable(layout.REFERENCES, ReferencesReport)
    if stored is not None:
        lines = _differences(records, stored, report, None)
        if (
            lines
            and not _differences(records, stored, report, place)
            and not lock_check.makes_another_model(records.work_tree)
        ):
            lines = []
        if not lines:
            return Written(stored, report, name, changed=False)
    files.write_json(records.root / layout.REFERENCES, report)
    return Written(report, report, name, changed=True)


def current(records: Records, target: str | None = None) -> list[str]:
    """One line for each difference between reports/references.json and git."""
    try:
        _hold_start(records, target)
        stored = records.work_tree.report(layout.REFERENCES, ReferencesReport)
        _, report, place = resolve(records, target)
        return _differences(records, stored, report, place)
    except EvidenceRefused as refusal:
        return [str(refusal)]


def refuse_foreign_start(records: Records, commit: str, target: str | None) -> None:
    """Raise EvidenceRefused if the target branch never had ``commit``, from whose record training would start."""
    branch, tip = records.target(target)
    known = commits.resolve(records.root, commit) == commit
    if not known or tip is None or not commits.is_ancestor(records.root, commit, tip):
        raise EvidenceRefused(
            f"train.start: commit {commit[:12]} is not in the history of {branch}", OTHER_START
        )


def _hold_start(records: Records, target: str | None) -> None:
    commit = steps.of(records.work_tree.params.training)[0].start
    if commit is not None:
        refuse_foreign_start(records, commit, target)


def resolve(
    records: Records, target: str | None = None
) -> tuple[str, ReferencesReport, earlier_models.TargetBranch | None]:
    """The target branch's name, the reference models from git, and the branch, if there is one to compare with.

    The models are main, and those that a gate names: the gates of params.yaml here and on the target count, because
    both judge. Raises EvidenceRefused if git cannot tell (no repository, a shallow clone, no common history, an unknown
    target) or if a pointer or record is invalid; RemoteRefused if the environments are on another branch or in another
    repository that does not answer.
    """
    root = records.root
    if not commits.has_repository(root):
        if named := _named(records, None):
            raise EvidenceRefused(
                f"{root.resolve()}: is not a git repository, and gates compare with {' and '.join(named)}",
                "clone the repository; a copy of its files has no history",
            )
        nothing = ReferencesReport(found={}, absent={"main": "this is not a git repository"})
        return "HEAD", nothing, None
    name, tip = records.target(target)
    wanted = [name for name in EARLIER if name == "main" or name in _named(records, tip)]
    if tip is None:
        absent = dict.fromkeys(wanted, "git had no commit when the models were looked up")
        return name, ReferencesReport(found={}, absent=absent), None
    if commits.is_shallow(root):
        raise EvidenceRefused(
            "the clone is shallow: where this branch left the target cannot be seen",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )
    place = earlier_models.place(records, name, tip)
    answers = {name: earlier_models.now(records, place, name) for name in wanted}
    known = {name: answer for name, answer in answers.items() if isinstance(answer, Reference)}
    absent = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    return name, ReferencesReport(found=known, absent=absent), place


def _named(records: Records, tip: str | None) -> tuple[Earlier, ...]:
    """The reference models that a gate names, in this policy or the target branch's."""
    named = {getattr(gate, "against", None) for gate in records.work_tree.params.gates.values()}
    if tip is not None:
        with contextlib.suppress(ParamsRefused, AttributeError, KeyError, TypeError):
            # A policy that cannot be read is refused later, when it judges.
            theirs = records.at(tip).document(f"{layout.PARAMS} at {tip[:12]}")
            named |= {gate.get("against") for gate in theirs["gates"].values()}
    return tuple(name for name in EARLIER if name in named)


def _differences(
    records: Records,
    stored: ReferencesReport,
    now: ReferencesReport,
    place: earlier_models.TargetBranch | None,
) -> list[str]:
    """One line for each reference model for which ``stored`` does not hold.

    ``place``: where to look for what the record's own model replaced, if git names that model now; None: nowhere.
    """
    todo = "run `lockstep run`"
    lines = []
    for name in EARLIER:
        old, new = stored.found.get(name), now.found.get(name)
        named = name in stored.absent or old is not None
        wanted = name in now.absent or new is not None
        if named != wanted:
            whether = "is named, and no gate asks for it" if named else "is not named"
            lines.append(f"{layout.REFERENCES}: {name} {whether}; {todo}")
        elif not _same(old, new):
            if place is None or not _was_replaced(records, place, name, old, new):
                lines.append(
                    f"{layout.REFERENCES}: {name} is {_shown(old)}, git now has {_shown(new)}; {todo}"
                )
        elif old is not None and old != new and not _agrees(records, old):
            lines.append(
                f"{layout.REFERENCES}: {name} is not the record of commit {old.commit[:12]}; {todo}"
            )
    return lines


def _same(old: Reference | None, new: Reference | None) -> bool:
    """Whether both are the same record, in whatever commit."""
    if old is None or new is None:
        return old is new
    return old.model_copy(update={"commit": new.commit}) == new


def _was_replaced(
    records: Records,
    place: earlier_models.TargetBranch,
    name: Earlier,
    old: Reference | None,
    new: Reference | None,
) -> bool:
    """Whether git names the record's own model now, and ``old`` is what it replaced.

    A model is not compared with itself after it was merged or promoted.
    """
    evaluated = records.work_tree.readable(layout.EVALUATION, judged_models.Evaluation)
    if new is None or evaluated is None or new.merged != evaluated.merged:
        return False
    own = evaluated.merged
    if old is not None and not (
        commits.is_ancestor(records.root, old.commit, place.tip) and _agrees(records, old)
    ):
        return False
    model = old.merged if old else None
    return model == own or model in earlier_models.replaced(records, place, name, own)


def _agrees(records: Records, reference: Reference) -> bool:
    """Whether git has this record at its commit."""
    try:
        return (
            commits.resolve(records.root, reference.commit) is not None
            and earlier_models.record(records, reference.commit) == reference
        )
    except EvidenceRefused:
        return False


def _shown(reference: Reference | None) -> str:
    return (
        "none"
        if reference is None
        else f"{reference.merged[:19]}… of commit {reference.commit[:12]}"
    )
