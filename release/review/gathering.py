"""Gathers the facts of a comment: the record, checked as `lockstep gate` checks it, and the target branch's record.

The weights need not be present; then the reports' digests stand in for them, and the comment says so. Splits,
predictions and probes are needed to evaluate the gates again. Without them the recorded verdict is shown, but does not
count.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checks.config.params import Params
from checks.decision import policy
from checks.decision.policy_judgement import PolicyJudgement
from checks.formats import pointer
from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport, ValidScores
from checks.formats.quarantine import Entries
from checks.formats.suite_report import SuitesMeasured
from checks.formats.training_reports import TrainMeasured
from checks.formats.verdict import Verdict
from checks.gating import chain
from checks.kinds import plugins
from checks.process.errors import EvidenceRefused, ParamsRefused, RemoteRefused
from checks.storage import layout
from release.adapters import commits
from release.record import (
    earlier_models,
    lock_check,
    looks,
    pipeline_lock,
    references,
    refusals,
    target_policy,
)
from release.record.records import Commit, Records
from release.record.verdict_check import WEIGHTS, hold, other_policy, refuse
from release.review import details
from release.review.facts import Facts, Target
from release.review.sides import at

_DATA = ("fetch", "prepare", "validate")
_DECIDE = tuple(
    path.as_posix() for path in (layout.PARAMS, layout.PIPELINE, layout.CODE_LOCK, layout.LOCK)
)


def gather(records: Records, ref: str | None) -> Facts:
    """The facts of the work tree and of ``ref`` (default: ``commits.target``).

    Raises EvidenceRefused if git has no such branch, MachineRefused without git.
    """
    target, commit = _target(records, ref), records.head
    refused = refusals.current(records.root, commit)
    try:
        document = records.work_tree.document
        params = records.work_tree.params
    except ParamsRefused as why:
        lines = [
            line.removeprefix(f"{records.root.as_posix()}/") for line in (why.what, *why.others)
        ]
        return Facts(
            "refused" if refused else "not-held",
            target,
            commit,
            None,
            refusal=ParamsRefused(lines[0], why.todo, tuple(lines[1:])),
            refused=refused,
        )
    data = records.work_tree.readable(layout.DATA_REPORT, DataReport)
    prepare = records.work_tree.readable(layout.PREPARE_REPORT, PrepareReport)
    prefix = commits.prefix(records.root).as_posix() if commit else "."
    common: dict[str, Any] = {
        "data": data, "prepare": prepare, "params": params, "behind": _behind(records, target),
        "folder": "" if prefix == "." else f"{prefix}/",
    }  # fmt: skip
    # Reports are older than the refusal of an early stage, and may be of other data.
    is_older = refused is not None and refused.stage in ("fetch", "prepare")
    # The data report is outdated unless it is about the splits that prepare made last.
    splits = prepare and {name: split.sha256 for name, split in prepare.splits.items()}
    if data is not None and not data.success and data.splits == splits and not is_older:
        return Facts(
            "bad-data",
            target,
            commit,
            document,
            changes=_changes(records, target, params, prepare),
            **common,
        )
    try:
        return _judged(records, target, commit, document, params, common)
    except (
        EvidenceRefused,
        RemoteRefused,
    ) as why:  # the latter where the environments lie elsewhere
        common |= {"changes": _changes(records, target, params, prepare), "refusal": why}
        common |= {"unrun": tuple(_unrun(records))}
    if refused is None:
        return Facts("not-held", target, commit, document, **common)
    # The data reports are those of an earlier run.
    if lock_check.differences(records.work_tree, _DATA):
        common |= {"data": None, "prepare": None}
    return Facts("refused", target, commit, document, refused=refused, **common)


def _judged(
    records: Records,
    target: Target,
    commit: str | None,
    document: Mapping[str, Any],
    params: Params,
    common: dict[str, Any],
) -> Facts:
    root = records.root
    stored = records.work_tree.report(layout.VERDICT, Verdict)
    # Files that DVC caches may be missing here; files in git may not.
    cached = (name for name in stored.judged if not name.startswith(f"{layout.REPORTS}/"))
    missing = [name for name in cached if not (root / name).exists()]
    lock = lock_check.differences(records.work_tree)
    if not (root / layout.PROBES).exists() and any(
        text.startswith(f"{layout.PROBES}: ") for text in lock
    ):
        missing.append(layout.PROBES.as_posix())
    heavy = {path.as_posix() for path in WEIGHTS}
    judgement: PolicyJudgement | None = None
    if set(missing) <= heavy:
        trusting = [Path(name) for name in missing]
        held_verdict = hold(records, None if target.commit is None else target.ref, trusting)
        verdict = held_verdict.verdict
        # Else this is the first pull request of all.
        if target.commit is not None and target.document is not None:
            judgement = target_policy.judge_from(records, held_verdict, target.ref)
        elif target.commit is not None and commits.touching(
            records.root, target.commit, layout.PARAMS
        ):
            raise EvidenceRefused(
                f"{layout.PARAMS}: {target.ref} had one, and its policy would count for nobody",
                f"restore it on {target.ref}: git log -- {layout.PARAMS}",
            )
    else:
        verdict = stored
        _hold_what_is_here(records, target, stored, lock, set(missing), params)
    changes = _changes(records, target, params, common["prepare"])
    if judgement and target.base == target.commit:
        changes = judgement.changes
    evidence = records.work_tree.evidence
    training = records.work_tree.readable(layout.TRAIN_MEASURED, TrainMeasured)
    answering = records.work_tree.readable(layout.EVALUATE_MEASURED, EvaluateMeasured)
    suites = records.work_tree.readable(layout.SUITES_MEASURED, SuitesMeasured)
    about = evidence.judged
    return Facts(
        "held" if set(missing) <= heavy else "recorded", target, commit, document, verdict=verdict,
        judgement=judgement, changes=changes, missing=tuple(missing), evidence=evidence,
        training=training if training and training.adapter == about.get(layout.ADAPTER.as_posix()) else None,
        answering=answering if answering and answering.merged == about.get(layout.MERGED.as_posix()) else None,
        scores=records.work_tree.readable(layout.METRICS, ValidScores),
        suites=suites if suites and suites.merged == about.get(layout.MERGED.as_posix()) else None,
        quarantine=_quarantine(records, target),
        **common,
    )  # fmt: skip


def _quarantine(records: Records, target: Target) -> Entries:
    """The quarantine of the environments. Raises EvidenceRefused and RemoteRefused if it cannot be read."""
    if target.commit is None:
        return ()
    return earlier_models.quarantine(
        records, earlier_models.place(records, target.ref, target.commit)
    )


def _hold_what_is_here(
    records: Records,
    target: Target,
    stored: Verdict,
    lock: list[str],
    missing: set[str],
    params: Params,
) -> None:
    """``held.hold`` without the gates. Raises EvidenceRefused if a file that is here is not what was judged."""
    here = {name: value for name, value in stored.judged.items() if name not in missing}
    differences = [
        *chain.compare(records.root, here),
        *other_policy(stored, params),
        *plugins.differences(stored.plugins),
        *(text for text in lock if text.partition(": ")[0] not in missing),
        *references.current(records, None if target.commit is None else target.ref),
        *looks.current(records),
    ]
    refuse(differences)


def _changes(
    records: Records, target: Target, params: Params, prepare: PrepareReport | None
) -> tuple[policy.Change, ...]:
    """Changes of policy that this branch makes; empty if the target's cannot be read."""
    if target.document is None or target.base is None:
        return ()
    try:
        theirs = records.at(target.base).params(f"{target.ref}:{layout.PARAMS}")
    except ParamsRefused:
        return ()
    here = prepare.splits["test"].sha256 if prepare and "test" in prepare.splits else None
    there = (
        target.prepare.splits["test"].sha256
        if target.prepare and "test" in target.prepare.splits
        else here
    )
    return policy.changes(policy.of(theirs, there), policy.of(params, here))


def _target(records: Records, ref: str | None) -> Target:
    if not commits.has_repository(records.root):
        return Target("HEAD", None, None, None, None)
    name, commit = records.target(ref)
    if commit is None:
        return Target(name, None, None, None, None)
    base = commits.merge_base(records.root, records.head, commit) if records.head else None
    there = records.at(base or commit)
    if (
        there.data(layout.PARAMS) is None
    ):  # The target branch may have got it since this branch began.
        there = records.at(commit)
    document: Mapping[str, Any] | None = None
    try:
        if there.data(layout.PARAMS) is not None:
            document = there.document(f"{name}:{layout.PARAMS}")
    except (ParamsRefused, EvidenceRefused):
        document = {}
    runs = _runs(records.at(commit), document)
    verdicts = {
        environment: records.at(release.commit).readable(layout.VERDICT, Verdict)
        for environment, release in runs.items()
    }
    return Target(
        name,
        commit,
        document,
        there.readable(layout.PREPARE_REPORT, PrepareReport),
        there.readable(layout.TRAIN_MEASURED, TrainMeasured),
        there.readable(layout.VERDICT, Verdict),
        runs,
        there.readable(layout.METRICS, ValidScores),
        base or commit,
        {
            environment: verdict
            for environment, verdict in verdicts.items()
            if verdict and verdict.model == runs[environment].model and verdict.status != "pass"
        },
        there.readable(layout.EVALUATION, EvaluationReport),
    )


def _behind(records: Records, target: Target) -> int:
    """How many commits of the target this branch lacks, if they changed the parameters, the pipeline or the model."""
    base, tip = target.base, target.commit
    if base is None or tip is None or base == tip or commits.same(records.root, base, _DECIDE, tip):
        return 0
    return commits.count(records.root, base, tip)


def _unrun(records: Records) -> Iterator[str]:
    """The parameters that differ from those of the recorded run."""
    try:
        document, lock = records.work_tree.document, records.work_tree.lock
    except EvidenceRefused:
        return
    recorded = {
        key: value for ran in lock.values() for key, value in pipeline_lock.parameters(ran).items()
    }
    ours = {key: at(document, *key.split(".")) for key in recorded}
    yield from (changed.what for changed in details.differing(recorded, ours))


def _runs(there: Commit, document: object) -> dict[str, pointer.Pointer]:
    """Return what each environment of ``document`` runs, if its pointer can be read."""
    names = at(document, "promote", "environments")
    pointers = {}
    for name in [key for key in names if isinstance(key, str)] if isinstance(names, dict) else []:
        path = layout.ENVIRONMENTS / name / layout.POINTER
        with contextlib.suppress(EvidenceRefused):
            if (data := there.data(path)) is not None:
                pointers[name] = pointer.parse(data, str(path))
    return pointers
