"""gate: checks the verdict against its evidence again, and evaluates the gates again."""

from pathlib import Path

from checks.formats.verdict import Verdict
from release.record import held
from release.record.records import Records


def gate(root: Path) -> Verdict:
    """Return the verdict in ``root`` if it still holds. Raises as ``release.record.held.hold``."""
    return held.hold(Records(root)).verdict
