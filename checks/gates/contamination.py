"""contamination: to come."""

from checks.chain import Evidence
from checks.gate_kinds import ContaminationGate
from checks.verdict import Finding


def ask(name: str, gate: ContaminationGate, evidence: Evidence) -> Finding:
    """Not there yet."""
    raise NotImplementedError
