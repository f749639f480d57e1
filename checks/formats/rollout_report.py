"""The report of `lockstep shadow` and `lockstep canary`: whether a candidate loses against production.

It holds no text of a request.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from checks.formats.captures import Release
from checks.formats.report import Count, Report
from checks.formats.verdict import Status
from checks.records.record import Digest, Record

Decision = Literal["keep", "roll back", "go on"]


class RolloutFinding(Record):
    """One question about both releases, and its answer. All figures hold at every look together.

    ``loss``: by how much the candidate's mean is lower, in [-1, 1], over ``pairs``, with the bounds ``low`` and
    ``high``. ``p_loss`` is of the hypothesis that the loss is at most the margin: at the finding's share of alpha or
    less the finding fails. ``p_fine`` is of the hypothesis that the loss is the margin or more: at alpha or less it
    passes.
    """

    name: str
    status: Status
    reason: str
    pairs: Count
    production: float | None = None
    candidate: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    p_loss: float
    p_fine: float


class RolloutReport(Report):
    """The results of the pairs since ``since``. ``agreement``: share of equal answers to the same prompts, in a shadow.

    A pair is an answer of each release to one prompt; in a canary one or more answers of each to other prompts.
    ``labelled``: pairs whose answers all have a score.

    ``runs_in``: the environment that runs the candidate, if it is known. ``evidence``: digest of the answers and labels
    that were read.
    """

    kind: Literal["shadow", "canary"]
    environment: str
    production: Release
    candidate: Release
    runs_in: str | None
    since: AwareDatetime
    decision: Decision
    margin: Annotated[float, Field(ge=0, lt=1)]
    alpha: float
    evidence: Digest
    pairs: Count
    labelled: Count
    agreement: float | None
    findings: tuple[RolloutFinding, ...]
    notes: tuple[str, ...]
