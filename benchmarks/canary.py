"""Whether a canary's decision about quality holds where labels come sooner for some answers than for others.

    python -m benchmarks.canary [--streams 200] [--seed 20261130]

A stream is a canary: requests of both releases, each with a label that comes later. The loss is how many points fewer
of the candidate's answers are right. Each stream goes through the code of `lockstep canary`
(release/monitoring/canary.py), looked at after every pair: a rollback at its share of the allowed error, for four
questions; kept where the loss of the margin is ruled out.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from checks.scorers.exact_match import ExactMatch
from checks.stats.anytime import running
from release.monitoring import canary, detection
from release.monitoring.canary import CanaryRequest
from release.monitoring.store import GivenLabel

RIGHT = 0.85  # The share of production's answers that are right.
MARGIN, ALPHA, QUESTIONS = 0.05, 0.05, 4
SCORER = ExactMatch(kind="exact-match")
WAIT = timedelta(hours=24)
AN_HOUR = 60  # Labelled requests.
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)
PRODUCTION, CANDIDATE = "a" * 12, "c" * 12
Labels = Mapping[str, GivenLabel]
Row = tuple[object, ...]


class Traffic(NamedTuple):
    """How requests and labels come.

    ``wrong`` and ``right``: mean hours until a label, drawn from an exponential distribution. ``session``: the mean
    number of requests in a row that are equally hard. ``by_user``: one release gets a whole session.
    """

    name: str
    wrong: float = 0.5
    right: float = 2.0
    session: float = 1.0
    by_user: bool = False


SOONER, LATER = Traffic("wrong 0.5 h, right 2 h"), Traffic("wrong 2 h, right 0.5 h", 2, 0.5)
SESSIONS = Traffic("sessions of 3, each request by chance", session=3)
BY_USER = Traffic("sessions of 3, by user", session=3, by_user=True)
CASES = (
    *((0.1, 4000, traffic, loss) for traffic in (SOONER, LATER) for loss in (0.0, MARGIN, 0.1)),
    *((0.5, 2000, SOONER, loss) for loss in (0.0, MARGIN, 0.1)),
    *((0.1, 4000, traffic, MARGIN) for traffic in (SESSIONS, BY_USER)),
)


def drawn(
    count: int, share: float, loss: float, traffic: Traffic, random: Any
) -> tuple[list[CanaryRequest], Labels]:
    """Draw one canary of ``count`` labelled requests, and its labels in the order in which they are stored."""
    times = np.cumsum(random.exponential(3600 / AN_HOUR, count))
    starts = random.random(count) < 1 / traffic.session
    starts[0] = True
    session = starts.cumsum() - 1
    hard = random.random(count)[session] if traffic.session > 1 else random.random(count)
    to_candidate = (
        random.random(count)[session] < share if traffic.by_user else random.random(count) < share
    )
    right = hard < RIGHT - loss * to_candidate
    waits = random.exponential(1.0, count) * np.where(right, traffic.right, traffic.wrong)
    requests, labels = list[CanaryRequest](), list[tuple[str, GivenLabel]]()
    for number in range(count):
        time, name = BEGAN + timedelta(seconds=float(times[number])), f"r{number}"
        release = CANDIDATE if to_candidate[number] else PRODUCTION
        requests.append(
            CanaryRequest(
                time, name, release, number.to_bytes(4, "big"), "vm" if right[number] else "sql"
            )
        )
        labels.append((name, GivenLabel("vm", time + timedelta(hours=float(waits[number])))))
    labels.sort(key=lambda label: label[1].stored)
    return requests, dict(labels)


class Outcome(NamedTuple):
    """The first ``decision``, after ``labels`` labelled requests, and the scores over all pairs."""

    decision: str
    labels: int
    production: float
    candidate: float


def outcome(requests: Sequence[CanaryRequest], labels: Labels) -> Outcome:
    """Decide after each pair. Every pair stands for an equal part of the labelled requests."""
    until = requests[-1].time + WAIT + timedelta(hours=2)
    pairs = canary.pair(requests, labels, CANDIDATE, SCORER, WAIT, until).scored
    production = np.array([fmean(side.score or 0.0 for side in pair.production) for pair in pairs])
    candidate = np.array([fmean(side.score or 0.0 for side in pair.candidate) for pair in pairs])
    lost = _first(running(production - candidate, MARGIN) >= np.log(QUESTIONS / ALPHA))
    fine = _first(running(candidate - production, -MARGIN) >= np.log(1 / ALPHA))
    place = min(lost, fine)
    decision = "go on" if place == len(pairs) else "roll back" if lost == place else "keep"
    count = round(len(requests) * min(1, (place + 1) / len(pairs)))
    return Outcome(decision, count, float(production.mean()), float(candidate.mean()))


def _first(flags: NDArray[np.bool_]) -> int:
    """Return the place of the first that is true; their number if none is."""
    return int(flags.argmax()) if flags.any() else len(flags)


def decisions(streams: int, seed: int) -> Iterator[Row]:
    """Decide the streams of each case."""
    for share, count, traffic, loss in CASES:
        random = np.random.default_rng(seed)
        outcomes = [outcome(*drawn(count, share, loss, traffic, random)) for _ in range(streams)]
        cells = []
        for decision in ("roll back", "keep"):
            labels = [one.labels for one in outcomes if one.decision == decision]
            cells.append(
                f"{len(labels) / streams:.3f}" + (f" ({np.median(labels):,.0f})" if labels else "")
            )
        scores = f"{fmean(o.candidate for o in outcomes):.3f} against {fmean(o.production for o in outcomes):.3f}"
        yield f"{share:.0%}", traffic.name, f"{100 * loss:g}", *cells, scores


def needed(streams: int, seed: int) -> Iterator[Row]:
    """Count the labelled requests after which 80 % of the streams are rolled back."""
    for share in (0.5, 0.2, 0.1, 0.05):
        counts = []
        for loss in (0.08, 0.1, 0.15):
            pairs = detection.differences(
                RIGHT, loss, share, (streams, 9000), np.random.default_rng(seed)
            )
            shown = detection.crossed(pairs, MARGIN, ALPHA / QUESTIONS).mean(axis=0)
            assert shown[-1] >= 0.8, "draw longer streams"
            counts.append(f"{round((int(np.argmax(shown >= 0.8)) + 1) / min(share, 1 - share)):,}")
        yield f"{share:.0%}", *counts


def main() -> None:
    """Print the tables."""
    options = tables.numbers(__doc__, streams=200, seed=20261130)
    columns = ("share", "traffic", "loss", "rolled back", "kept", "printed score")
    tables.show("Decisions", columns, decisions(options.streams, options.seed))
    losses = ("share", "loss 8", "loss 10", "loss 15")
    tables.show(
        "Labels until 80 % are rolled back", losses, needed(2 * options.streams, options.seed)
    )


if __name__ == "__main__":
    main()
