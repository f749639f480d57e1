"""Findings and the verdict they combine to."""

from collections.abc import Iterable
from typing import Literal

from checks.evidence import Digest, Report
from checks.rows import Record

Status = Literal["pass", "fail", "inconclusive"]


class Finding(Record):
    """What one gate asked and what was found.

    ``value`` with ``low`` and ``high`` is the estimate and its interval, ``bound`` what had to be
    cleared, ``n`` the rows behind it; each is None where the kind has no such figure.
    """

    gate: str
    kind: str
    status: Status
    reason: str
    metric: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    n: int | None = None


class Verdict(Report):
    """The decision about one merged model.

    ``judged`` names every digest that the decision rests on; when one of them differs from what
    lies on disk, the verdict is void. ``policy`` is the digest of the gates section.
    """

    status: Status
    model: Digest | None
    policy: Digest
    judged: dict[str, Digest]
    findings: tuple[Finding, ...]


def combine(findings: Iterable[Finding]) -> Status:
    """``fail`` if any gate fails or there is none, else ``inconclusive`` if any is, else ``pass``."""
    statuses = {finding.status for finding in findings}
    if not statuses or "fail" in statuses:
        return "fail"
    return "inconclusive" if "inconclusive" in statuses else "pass"
