"""license: to come."""

from checks.chain import Evidence
from checks.gate_kinds import LicenseGate
from checks.params import Params
from checks.verdict import Finding


def ask(name: str, gate: LicenseGate, params: Params, evidence: Evidence) -> Finding:
    """Not there yet."""
    raise NotImplementedError
