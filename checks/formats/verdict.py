"""Findings, and the verdict that they combine to."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.looks import RowSketch
from checks.formats.report import Report
from checks.formats.report import Status as Status
from checks.records.record import Digest, Plugin, PluginName, Sparse

# A path of the pipeline's own folders: no way up, no way out.
Inside = Annotated[
    str, Field(pattern=r"^(reports|data|models)(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){1,4}$")
]


class Finding(Sparse):
    """The question of one gate and its result; a figure is None where the kind has none.

    ``value`` with ``low`` and ``high`` is the estimate and its bounds, each one-sided at the gate's confidence;
    for a paired kind it is the difference to ``against``, the candidate's mean minus the reference's. ``bound`` is
    what had to be cleared (for a paired kind the signed margin), ``n`` the rows behind it (of ``slice``, where it is
    about one). ``p`` is of the hypothesis that the gate must refute to pass, ``p_holm`` the same after Holm's
    correction over the verdict.
    ``gained`` and ``lost`` count the rows that the candidate scores higher or lower than the reference.
    ``detectable`` is the true difference that this gate alone, before Holm's correction, sees with at least 80 %
    power; None where these rows see none. ``rows_needed`` is the number of rows like these with which this gate alone
    would pass with at least 80 % power when it does not with these. Where rows come in groups they must lie in new
    groups of the same structure, ``groups_needed`` in all.
    ``suite`` has the samples; None: the test rows. ``evidence`` is ``witnessed`` where somebody else gave the scores of
    the suite, and no gate computed them again. All other evidence is recomputed, and its findings do not mention it.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"suite", "evidence"})

    gate: str
    kind: str
    status: Status
    reason: str
    metric: str | None = None
    against: str | None = None
    slice: str | None = None
    method: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    n: int | None = None
    gained: int | None = None
    lost: int | None = None
    rows_needed: int | None = None
    groups_needed: int | None = None
    suite: str | None = None
    evidence: Literal["witnessed"] | None = None


class Verdict(Report, Sparse):
    """The decision about one merged model.

    ``judged`` names every digest that the decision rests on; when one of them differs from what lies on disk, the
    verdict does not hold. ``policy`` is the digest of the gates section. ``plugins`` has the packages of users that a
    gate or a scorer came from; a verdict without any does not mention them. ``rows``: of the test split, by which later
    verdicts count this model; None if there are none, and in verdicts of earlier versions.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins", "rows"})

    status: Status
    model: Digest | None
    policy: Digest
    judged: dict[Inside, Digest]
    findings: tuple[Finding, ...]
    plugins: dict[PluginName, Plugin] = Field(default_factory=dict)
    rows: RowSketch | None = None


def combine(findings: Iterable[Finding]) -> Status:
    """``fail`` if any gate fails or there is none, else ``inconclusive`` if any is, else ``pass``."""
    statuses = {finding.status for finding in findings}
    if not statuses or "fail" in statuses:
        return "fail"
    return "inconclusive" if "inconclusive" in statuses else "pass"
