"""Whether the verdict of the work tree still holds: hashes its evidence and evaluates every gate again."""

from collections.abc import Collection, Sequence
from pathlib import Path

from checks.config.params import Params
from checks.decision.held import HeldVerdict, refusal
from checks.formats.verdict import Verdict
from checks.gating import chain
from checks.kinds import plugins
from checks.kinds.gate import policy_digest
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import layout
from release.record import earlier_models, lock_check, looks, references, running_code
from release.record.records import Records

# The weights, large and named by digest: what needs only the reports on them trusts these paths.
WEIGHTS = (layout.BASE, layout.RAW, layout.ADAPTER, layout.MERGED)
_AGAIN = "install the package, or run `./lockstep dvc repro --force --single-item evaluate gate`, then ask again"


_RUN = "run `./lockstep run`, then ask again"


def hold(
    records: Records,
    target: str | None = None,
    trusting: Collection[Path] = (),
    *,
    reached: bool = False,
) -> HeldVerdict:
    """Return the verdict of the work tree and its evidence, if the verdict still holds.

    Hashes again everything that the verdict judged, weights included. dvc.lock must say that every stage ran with these
    parameters, modules and reports, and code.lock which defaults this version has. The reference models are looked up
    in git, and every gate of params.yaml is evaluated again. ``target`` is the target branch (default:
    ``commits.target``). Paths in ``trusting`` are not hashed: the caller does so, or needs only what the reports say of
    them. ``reached``: raise RemoteRefused if the remote with the branch of the looks does not answer.

    Raises EvidenceRefused with every mismatch if the verdict does not hold: something judged differs or is missing, a
    package of a kind was changed or removed, or the gates give another result.
    """
    from checks.decision import judging  # It imports numpy.

    tree = records.work_tree
    try:
        params = tree.params
    except ParamsRefused as refused:  # a kind whose package is gone is an unknown kind
        unread = tree.readable(layout.VERDICT, Verdict)
        if unread and (lines := plugins.differences(unread.plugins)):
            refuse((*lines, str(refused)), _AGAIN)
        raise
    stored = tree.report(layout.VERDICT, Verdict)
    trusted = {path.as_posix() for path in trusting}
    hashed = {name: value for name, value in stored.judged.items() if name not in trusted}
    packages = plugins.differences(stored.plugins)
    differences = [
        *chain.compare(records.root, hashed),
        *other_policy(stored, params),
        *packages,
        *lock_check.differences(tree, trusting=trusted),
        *lock_check.other_defaults(tree),
        *references.current(records, target),
        *looks.current(records, reached=reached),
    ]
    again = judging.judge(params, tree.evidence)
    if again != stored and not differences:
        before = {finding.gate: finding for finding in stored.findings}
        differences = [
            f"gate {finding.gate}: is now {finding.status} ({finding.reason}), unlike in {layout.VERDICT}"
            for finding in again.findings
            if before.get(finding.gate) != finding
        ] or [f"{layout.VERDICT}: is not what the gates make of the evidence"]
    refuse(differences, _AGAIN if packages else _RUN)
    return HeldVerdict(params, tree.evidence, stored)


def other_policy(verdict: Verdict, params: Params) -> list[str]:
    """Return a line if the gates of ``params`` are not those of the verdict."""
    if verdict.policy == policy_digest(params.gates):
        return []
    return [f"{layout.PARAMS}: the gates are not those of the verdict"]


def refuse(differences: Sequence[str], todo: str = _RUN) -> None:
    """Raise EvidenceRefused with the differences of a verdict that does not hold. Do nothing if there are none."""
    if differences:
        first, *others = differences
        raise EvidenceRefused(f"the verdict does not hold: {first}", todo, tuple(others))


def passing(
    records: Records, target: str | None = None, trusting: Collection[Path] = ()
) -> HeldVerdict:
    """Return the verdict of the work tree, if it holds, is ``pass``, and the code here is committed.

    A verdict that an exception could excuse in an environment is returned too: what is built of it and signed moves no
    environment, because only ``lockstep promote --emergency`` asks for the exception.

    Raises as ``running_code.check`` and ``hold``, and VerdictFailed or VerdictInconclusive for another verdict.
    """
    running_code.check(records.root, committed=True)
    record = hold(records, target, trusting)
    if refusal(record.verdict) and (
        refused := refusal(record.verdict, _excusable(records, target))
    ):
        raise refused
    return record


def _excusable(records: Records, target: str | None) -> frozenset[str]:
    """The gates that the target branch lets people except in some environment. Raises ParamsRefused."""
    name, commit = records.target(target)
    if commit is None:
        return frozenset()
    called = f"{name}:{layout.PARAMS}"
    rules = (
        records.at(commit)
        .sections(earlier_models.Rules, called, "fix it on the target branch")
        .promote
    )
    policies = [environment.emergency for environment in rules.environments.values()]
    return frozenset(gate for policy in policies if policy for gate in policy.gates)
