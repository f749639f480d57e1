"""Whether the verdict of the work tree still holds: its evidence is hashed again, and every gate is asked again."""

from collections.abc import Collection
from pathlib import Path

from checks import chain, gates, judging, layout, plugins, scoring
from checks.errors import EvidenceRefused, ParamsRefused
from checks.held import HeldVerdict
from checks.verdict import Verdict
from release.record import lock_check, references
from release.record.records import Records, WorkTree

_AGAIN = "install the package, or run `./lockstep dvc repro --force --single-item evaluate gate`, then ask again"


def hold(records: Records, target: str | None = None, trusting: Collection[Path] = ()) -> HeldVerdict:
    """Return the verdict of the work tree, and what it is about, if it still holds.

    Everything that the verdict judged is hashed again, weights included; dvc.lock must say that every stage ran with
    these parameters, modules and reports; the earlier models are looked up in git again, and every gate of
    params.yaml is asked again. ``target`` is the branch that this one is held against; None: as ``commits.target``
    finds it. Judged paths in ``trusting`` are not hashed here: the caller does, or needs only what the reports say of
    them. Raises EvidenceRefused, listing every mismatch, when the verdict is void: something it judged differs or
    is gone, a package that a kind came from has other code or is gone, or the gates now answer otherwise.
    """
    tree = records.work_tree
    try:
        params = tree.params
    except ParamsRefused as refused:  # a kind whose package is gone is an unknown kind
        if lines := _packages(tree):
            raise EvidenceRefused(f"the verdict is void: {lines[0]}", _AGAIN, (*lines[1:], str(refused))) from refused
        raise
    stored = tree.report(layout.VERDICT, Verdict)
    trusted = {path.as_posix() for path in trusting}
    differences = chain.compare(
        records.root, {name: value for name, value in stored.judged.items() if name not in trusted}
    )
    if stored.policy != gates.policy_digest(params.gates):
        differences.append(f"{layout.PARAMS}: the gates are not those of the verdict")
    differences += (packages := plugins.differences(stored.plugins))
    differences += lock_check.differences(tree)
    differences += references.current(records, target)
    evidence = tree.evidence(scoring.digest_of(params.evaluate.scorers))
    again = judging.judge(params, evidence)
    if again != stored and not differences:
        before = {finding.gate: finding for finding in stored.findings}
        differences = [
            f"gate {finding.gate}: answers {finding.status} ({finding.reason}), not as {layout.VERDICT} says"
            for finding in again.findings
            if before.get(finding.gate) != finding
        ] or [f"{layout.VERDICT}: is not what the gates make of the evidence"]
    if differences:
        first, *others = differences
        todo = _AGAIN if packages else "run `./lockstep run`, then ask again"
        raise EvidenceRefused(f"the verdict is void: {first}", todo, tuple(others))
    return HeldVerdict(params, evidence, stored)


def _packages(tree: WorkTree) -> list[str]:
    """Where the installed packages are not those of the verdict here; nothing when it cannot be read."""
    try:
        return plugins.differences(tree.report(layout.VERDICT, Verdict).plugins)
    except EvidenceRefused:
        return []
