"""The report of `lockstep drill --incident`: when a worse model was detected and rolled back, and at what cost.

Times are of the machine that it ran on.
"""

from collections.abc import Sequence

from checks.formats.pointer import Pointer
from checks.formats.serving import Seconds
from checks.records.identity import Digest
from checks.records.rows import Record
from release.monitoring import detection
from release.monitoring.detection import Detection

SIMULATED = (
    "the worse model was promoted without checks, image, signature or approval: only its commit is as promote makes it",
    "this command was the load balancer, and labels came within seconds",
    "no cluster followed the rollback, and no mirror was updated",
)


class Look(Record):
    """One decision. ``requests``: answered before it; ``seconds``: since the first request."""

    seconds: Seconds
    requests: int
    pairs: int
    labelled: int
    decision: str


class Back(Record):
    """The rollback in the scratch clone. ``seconds``: of the commit alone, from the decision to the scratch remote."""

    to: Pointer
    seconds: Seconds
    signed: bool  # git's signature of the commit


class Expected(Detection):
    """``requests`` and ``seconds``: what ``pairs`` take at this drill's share, labels and rate."""

    requests: int | None
    seconds: float | None


class Incident(Record):
    """The course of an incident. ``detected``: the look that decided to roll back; None: no look did.

    ``worse_requests``: the requests that the worse model answered until the rollback, or until the end. ``lost``: how
    many more of these production would have answered right, by the first scorer. ``right``: production's score.
    ``reached``: requests a second. ``false_rollbacks``: the largest share of good candidates that such a canary rolls
    back.
    """

    environment: str
    production: Pointer
    worse: Digest
    worse_from: str
    rate: float
    share: float
    labelled: float
    label_delay: float
    window: float
    looks: tuple[Look, ...]
    detected: Look | None
    why: str | None
    back: Back | None
    rolled_back_after: Seconds | None  # since the first request
    requests: int
    reached: float
    worse_requests: int
    lost: float
    right: float | None
    margin: float
    false_rollbacks: float
    expected: tuple[Expected, ...]
    simulated: tuple[str, ...]


def expected(
    right: float, margin: float, alpha: float, share: float, each: float, reached: float
) -> tuple[Expected, ...]:
    """How soon smaller losses would be found. ``each``: labelled pairs that a request makes.

    ``alpha``: the question's share of the allowed error. The rest is as in ``Incident``.
    """
    rows = list[Expected]()
    for case in detection.expected(right, margin, alpha, share):
        requests = None if case.pairs is None else round(case.pairs / each)
        seconds = None if requests is None else round(requests / reached, 1)
        rows.append(Expected(**case.model_dump(), requests=requests, seconds=seconds))
    return tuple(rows)


def lost(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many more of the candidate's answers (scores ``theirs``) would have been right from production."""
    return round(max(0.0, len(theirs) * sum(ours) / len(ours) - sum(theirs)), 1) if ours else 0.0
