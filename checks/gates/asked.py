"""What a kind of gate answers: a finding, or a test whose finding waits for Holm's correction."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from checks.chain import Evidence
from checks.gate_kinds import Gate
from checks.verdict import Finding


@dataclass(frozen=True)
class Test:
    """A gate that is decided by p-values.

    ``p`` is of the hypothesis that must be refuted to pass; ``p_worse``, where the kind asks it, of the hypothesis that
    the candidate is not worse, which must be refuted to fail. ``decide`` takes both, corrected over the verdict.
    ``claim`` is what the test is of: gates with the same claim ask one question, and are corrected for as one. None:
    no other gate has it.
    """

    p: float
    p_worse: float | None
    decide: Callable[[float, float | None], Finding]
    claim: Hashable = None


Asked = Finding | Test


def failed(name: str, gate: Gate, reason: str) -> Finding:
    """A finding that fails for want of evidence, or over evidence that does not hold."""
    return Finding(gate=name, kind=gate.kind, status="fail", reason=reason)


def gap(evidence: Evidence, paths: Iterable[Path]) -> str | None:
    """Why the first of ``paths`` that is missing or unreadable is so; None when all were read."""
    return next((f"no evidence: {evidence.gaps[p.as_posix()]}" for p in paths if p.as_posix() in evidence.gaps), None)


def figure(value: float) -> float:
    """Rounded, so that another machine's last digit does not make the finding another."""
    return round(value, 6)


def held_back(level: float, p: float, p_holm: float) -> float:
    """The level that a plan is made for: the gate's own, or where Holm's correction alone holds it back, what is left.

    Without the correction no more rows would be needed, so a plan for the gate alone would say nothing.
    """
    return level * p / p_holm if p <= level < p_holm and p > 0 else level


def small(p: float) -> float:
    """A p-value to three digits, however small."""
    return float(f"{p:.3g}")
