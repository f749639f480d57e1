"""The report of `lockstep watch`: what one window of an environment's traffic showed. It holds no text of a request."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from checks.formats.report import Count, Report, Status
from checks.records.record import Digest, Record

Kind = Literal["objective", "drift", "proxy", "quality"]


class WatchFinding(Record):
    """One question about the window, and its answer.

    ``value`` with its bounds ``low`` and ``high``, each one-sided at monitor.confidence. ``reference`` is the same
    figure of the reference; the bounds of a share that is compared are of the difference ``value - reference``.
    ``bound``: the objective, the margin, or the change that must be detectable. ``p_alarm`` is of the hypothesis that
    nothing is wrong, ``p_holm`` the same after Holm's correction over the window: at ``alpha`` or less the finding
    fails. ``p_pass``, where there is one, is of the hypothesis that the bound is not kept. ``detectable``: the change
    that raises the alarm with 80 % power, before Holm's correction. ``rows_needed``: rows of a window that can pass.
    """

    name: str
    kind: Kind
    status: Status
    reason: str
    method: str | None = None
    unit: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    bound: float | None = None
    p_alarm: float | None = None
    p_holm: float | None = None
    p_pass: float | None = None
    detectable: float | None = None
    n: Count | None = None
    n_reference: Count | None = None
    rows_needed: Count | None = None


class Costs(Record):
    """The price of the devices in the window over its requests. Estimated where a sample was captured."""

    per_1000_requests: Annotated[float, Field(ge=0)]
    requests: Annotated[float, Field(ge=0)]
    device_hours: Annotated[float, Field(ge=0)]
    estimated: bool


class Service(Record):
    """The speed of the window's requests. ``errors``: requests that the server owed an answer and did not give.

    ``p50`` and ``p95``: seconds within which half and 95 % of the answered requests were answered; None without any.
    """

    errors: Count
    p50: float | None
    p95: float | None


class WatchReport(Report):
    """The results of an environment's requests from ``since`` up to ``until``, about the release that it runs.

    ``traffic``: digest of the requests that were read; ``reference``: digests of what they were compared with.
    """

    environment: str
    since: AwareDatetime
    until: AwareDatetime
    version: str
    model: Digest
    commit: str
    status: Status
    alpha: float
    confidence: float
    traffic: Digest
    reference: dict[str, Digest]
    requests: Count
    prompts: Count  # Different prompts.
    labelled: Count
    findings: tuple[WatchFinding, ...]
    costs: Costs | None
    notes: tuple[str, ...]
    service: Service | None = None  # None: of an older version
