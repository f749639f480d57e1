"""budget: to come."""

from checks.chain import Evidence
from checks.gate_kinds import BudgetGate
from checks.verdict import Finding


def ask(name: str, gate: BudgetGate, evidence: Evidence) -> Finding:
    """Not there yet."""
    raise NotImplementedError
