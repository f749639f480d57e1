"""gate: checks the verdict against its evidence again, and evaluates the gates again; also under another policy.

`lockstep gate --explain` explains one gate to a reader who did not write it.
"""

from pathlib import Path
from typing import NamedTuple

from checks.decision.policy_judgement import PolicyJudgement
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import ALONE, Gate, decided_at
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.record import running_code, target_policy, verdict_check
from release.record.records import Records


class Explanation(NamedTuple):
    """The lines of the explanation, in order."""

    asks: str
    found: str
    decided: str
    change: str  # Says what would change the answer.
    look: str  # The files and the page that say more.


def gate(root: Path) -> Verdict:
    """Return the verdict in ``root`` if it still holds.

    Raises as ``running_code.check`` and ``release.record.verdict_check.hold``.
    """
    running_code.check(root)
    return verdict_check.hold(Records(root)).verdict


def judge_from(root: Path, ref: str) -> PolicyJudgement:
    """Judge the verdict in ``root`` under the policy of ``ref`` too. Raises as ``gate`` and ``target_policy`` do."""
    running_code.check(root)
    records = Records(root)
    records.target(ref)  # an unknown name is refused before anything is hashed
    return target_policy.judge_from(records, verdict_check.hold(records, ref), ref)


def explain(root: Path, name: str) -> Explanation:
    """Explain the gate ``name`` of the verdict in ``root``. Raises as ``release.record.verdict_check.hold``.

    Raises EvidenceRefused for an unknown name, with the list of gates.
    """
    record = verdict_check.hold(Records(root))
    gate = decided_at(record.params.gates).get(name)
    if gate is None:
        raise EvidenceRefused(
            f"no gate is called {name!r}", f"name one of {', '.join(record.params.gates)}"
        )
    return of(name, gate, record.verdict)


def of(name: str, gate: Gate, verdict: Verdict) -> Explanation:
    """Explain ``gate``, called ``name``, from its finding in ``verdict``."""
    finding = next(finding for finding in verdict.findings if finding.gate == name)
    explained = gate.explain(f"gates.{name}", finding, verdict)
    look = f"{explained.look}; {layout.VERDICT}; docs/reference/gates.md"
    return Explanation(explained.asks, _found(finding), explained.decided, explained.change, look)


def _found(finding: Finding) -> str:
    """Return the figures of a test; for other gates the reason, which contains them."""
    if finding.p is None:
        return f"{finding.status}: {finding.reason}"
    sign = "+" if finding.against else ""
    shown = (
        f"{finding.value:{sign}.4f}, bounds {finding.low:{sign}.4f} and {finding.high:{sign}.4f}"
    )
    against = f" against {finding.against}" if finding.against else ""
    in_slice = f" in slice {finding.slice!r}" if finding.slice else ""
    flips = (
        f", {finding.gained} gained and {finding.lost} lost" if finding.gained is not None else ""
    )
    sees = (
        "no difference"
        if finding.detectable is None
        else f"a difference of {finding.detectable:.4f}"
    )
    worth = f" (witnessed, by suite {finding.suite})" if finding.evidence else ""
    return (
        f"{finding.status}: {finding.metric}{against}{in_slice} {shown}{worth}, on {finding.n} rows{flips}; "
        f"p {finding.p:.3g}, after Holm's correction {finding.p_holm:.3g}; with at least 80 % power it sees {sees} "
        f"{ALONE}"
    )
