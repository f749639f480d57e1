"""The record of the work tree, for commands that go on only from a verdict that holds and is ``pass``."""

from collections.abc import Collection
from pathlib import Path

from checks.decision.held import HeldVerdict, refusal
from release.record import running_code
from release.record.held import hold
from release.record.records import Records


def passing(
    records: Records, target: str | None = None, trusting: Collection[Path] = ()
) -> HeldVerdict:
    """Return the verdict of the work tree, which holds and is ``pass``, with its evidence.

    Raises as ``running_code.check`` and ``held.hold``, and VerdictFailed or VerdictInconclusive for another verdict.
    """
    running_code.check(records.root, committed=True)
    record = hold(records, target, trusting)
    if refused := refusal(record.verdict):
        raise refused
    return record
