"""looks: which models each test split has judged, from git and this work tree, in reports/looks.json.

A model counts as judged if its evaluation, or a list that names it, is committed on any branch of this clone, merged or
not: a model that was tried and dropped is a try too. ``lockstep record`` also keeps each evaluation on the branch
lockstep/looks (``release.record.looks_branch``), so that it stays when the branch of the try is deleted. Models that
were never committed are known only as long as reports/looks.json lists them.
"""

from checks.formats.looks import LooksReport
from checks.formats.verdict import Verdict
from checks.process.errors import RemoteRefused
from checks.storage import files, layout
from release.record import judged_models, lock_check, looks_branch
from release.record.records import Records

_FIX = "run `lockstep run`"


def write(records: Records) -> bool:
    """Write reports/looks.json, unless it is complete; return whether it changed.

    For a model that is on the target branch already nothing is added: what others tried afterwards does not count
    against it. For any other model every branch counts. The record's own model is added when another one is about to
    replace it.
    Raises EvidenceRefused if git or a report here cannot be read, RemoteRefused if the branch of the looks lost some.
    """
    stored = records.work_tree.readable(layout.LOOKS, LooksReport)
    own = _own(records)
    replaced = lock_check.makes_another_model(records.work_tree)
    if (
        stored is not None
        and own is not None
        and not replaced
        and not current(records)
        and _merged(records, own)
    ):
        return False
    looks_branch.bring(records)
    known = judged_models.listed(stored)
    if records.head is not None:
        known |= judged_models.in_history(records.root, "--all", "HEAD")
    if own is not None:
        split = _own_split(records, own)
        splits = known.splits | ({split} if split else frozenset())
        known = judged_models.Known(
            known.looks | {own} if replaced else known.looks - {own}, splits
        )
    if known.report == stored:
        return False
    files.write_json(records.root / layout.LOOKS, known.report)
    return True


def current(records: Records, *, reached: bool = False) -> list[str]:
    """A line if reports/looks.json is missing, or lacks what git knows of this test split or one with rows of it.

    Git knows the evaluations and earlier lists in the history of HEAD, and the looks that the branch lockstep/looks had
    before the look at this model. ``reached``: raise RemoteRefused if the remote does not answer; else what this clone
    has of that branch counts.
    """
    stored = records.work_tree.readable(layout.LOOKS, LooksReport)
    own = _own(records)
    if stored is None:
        return [f"{layout.LOOKS}: is missing or cannot be read; {_FIX}"]
    if own is None or records.head is None:
        return []
    try:
        tips = looks_branch.bring(records, reached=reached)
    except RemoteRefused as refused:
        if reached:
            raise
        return [str(refused)]
    known = judged_models.in_history(records.root, "HEAD") | looks_branch.before(
        records.root, tips, own
    )
    return _lacking(known, stored, own, _own_split(records, own))


def _lacking(
    known: judged_models.Known,
    stored: LooksReport,
    own: judged_models.Look,
    split: judged_models.Split | None,
) -> list[str]:
    """A line on each part of ``known`` that counts for the split of ``own`` and that ``stored`` lacks."""
    shares = known.report.shares(own.test, split.rows if split else None)
    listed = judged_models.listed(stored)
    missing = {look.model for look in known.looks - listed.looks if shares[look.test]} - {own.model}
    unknown = {
        split.test
        for split in known.splits - listed.splits
        if split.test != own.test and shares.get(split.test)
    }
    return [
        f"{layout.LOOKS}: lacks {what.format(len(names))} ({_first_three(names)}); {_FIX}"
        for names, what in (
            (missing, "{} of the models that these test rows judged"),
            (unknown, "the rows of {} test splits with rows of this one"),
        )
        if names
    ]


def _first_three(digests: set[str]) -> str:
    return ", ".join(f"{digest[:19]}…" for digest in sorted(digests)[:3])


def _merged(records: Records, own: judged_models.Look) -> bool:
    """Whether the target branch has the record of this model."""
    tip = records.target()[1]
    return tip is not None and own in judged_models.recorded(records.root, tip)


def _own(records: Records) -> judged_models.Look | None:
    """Return what the record in this work tree is about; None if there is none."""
    evaluated = records.work_tree.readable(layout.EVALUATION, judged_models.Evaluation)
    return judged_models.Look(evaluated.test, evaluated.merged) if evaluated else None


def _own_split(records: Records, own: judged_models.Look) -> judged_models.Split | None:
    """The test split of ``own`` with its rows; None if the verdict in this work tree does not have them."""
    verdict = records.work_tree.readable(layout.VERDICT, Verdict)
    if (
        verdict is None
        or verdict.rows is None
        or verdict.judged.get(judged_models.TEST) != own.test
    ):
        return None
    return judged_models.Split(own.test, verdict.rows)
