"""gate: hold the verdict to the evidence that it is about, and the evidence to the gates, once more."""

from pathlib import Path

from checks.verdict import Verdict
from release.record import held
from release.record.records import Records


def gate(root: Path) -> Verdict:
    """Return the verdict in ``root`` if it still holds; raise as ``release.record.held.hold`` does."""
    return held.hold(Records(root)).verdict
