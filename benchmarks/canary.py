"""Whether a canary's decision about quality holds where labels come sooner for some answers than for others.

    python -m benchmarks.canary [--streams 200] [--seed 20261130]

Prints Markdown tables. A stream is a canary: requests of both releases, each with a label that comes later. The loss is
how many points fewer of the candidate's answers are right. Each stream goes through the code of `lockstep canary`
(release/monitoring/canary.py) and through the rule that it had until November 2026 (``by_labels``). Both are looked at
after every pair, and decide as `lockstep canary` does: a rollback at its share of the allowed error, for four
questions; kept where the loss of the margin is ruled out.
"""

import argparse
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.scorers.exact_match import ExactMatch
from checks.stats.anytime import running
from release.monitoring import canary, detection
from release.monitoring.canary import Request
from release.monitoring.rollout import Pair, Side
from release.monitoring.store import GivenLabel

RIGHT = 0.85  # share of production's answers that are right
MARGIN, ALPHA, QUESTIONS = 0.05, 0.05, 4
SCORER = ExactMatch(kind="exact-match")
WAIT = timedelta(hours=24)
AN_HOUR = 60  # labelled requests
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)
PRODUCTION, CANDIDATE = "a" * 12, "c" * 12
Labels = Mapping[str, GivenLabel]


class Delay(NamedTuple):
    """Mean hours until the label of a wrong and of a right answer; each is drawn from an exponential distribution."""

    name: str
    wrong: float
    right: float


DELAYS = (
    Delay("wrong 0.5 h, right 2 h", 0.5, 2),
    Delay("wrong 2 h, right 0.5 h", 2, 0.5),
    Delay("wrong 10 min, right 5 h", 1 / 6, 5),
)


class Traffic(NamedTuple):
    """``session``: mean number of requests in a row that are equally hard. ``by_user``: a release gets all of one."""

    name: str
    session: float = 1.0
    by_user: bool = False


SESSIONS = (
    Traffic("sessions of 3, each request by chance", 3),
    Traffic("sessions of 3, by user", 3, by_user=True),
)
CASES = ((0.1, 4000, DELAYS), (0.5, 2000, DELAYS[:1]))  # share, labelled requests, and how labels come


def drawn(
    count: int, share: float, loss: float, delay: Delay, random: Any, traffic: Traffic
) -> tuple[list[Request], dict[str, GivenLabel]]:
    """One canary of ``count`` labelled requests, and the labels in the order in which they are stored."""
    times = np.cumsum(random.exponential(3600 / AN_HOUR, count))
    starts = random.random(count) < 1 / traffic.session
    starts[0] = True
    session = starts.cumsum() - 1
    hard = random.random(count)[session] if traffic.session > 1 else random.random(count)
    to_candidate = random.random(count)[session] < share if traffic.by_user else random.random(count) < share
    right = hard < RIGHT - loss * to_candidate
    waits = random.exponential(1.0, count) * np.where(right, delay.right, delay.wrong)
    requests, labels = list[Request](), list[tuple[str, GivenLabel]]()
    for number in range(count):
        time, name = BEGAN + timedelta(seconds=float(times[number])), f"r{number}"
        release = CANDIDATE if to_candidate[number] else PRODUCTION
        requests.append(Request(time, name, release, number.to_bytes(4, "big"), "vm" if right[number] else "sql"))
        labels.append((name, GivenLabel("vm", time + timedelta(hours=float(waits[number])))))
    labels.sort(key=lambda label: label[1].stored)
    return requests, dict(labels)


def by_labels(requests: Sequence[Request], labels: Labels) -> list[Pair]:
    """The rule until November 2026: one to one within the hour of the requests, in the order in which labels came."""
    named = {request.id: request for request in requests}
    waiting = defaultdict[tuple[datetime, bool], deque[Side]](deque)
    pairs = list[Pair]()
    for name, given in labels.items():
        request = named[name]
        side = Side(request.answer, float(request.answer == given.label))
        theirs, hour = request.release == CANDIDATE, request.time.replace(minute=0, second=0, microsecond=0)
        if others := waiting[hour, not theirs]:
            other = others.popleft()
            pairs.append(Pair([other], [side]) if theirs else Pair([side], [other]))
        else:
            waiting[hour, theirs].append(side)
    return pairs


def by_arrival(requests: Sequence[Request], labels: Labels) -> list[Pair]:
    """The rule of `lockstep canary`."""
    until = requests[-1].time + WAIT + timedelta(hours=2)
    return canary.pair(requests, labels, CANDIDATE, SCORER, WAIT, until).scored


RULES: dict[str, Callable[[Sequence[Request], Labels], list[Pair]]] = {
    "by labels, one to one (old)": by_labels, "by arrival, k to 1": by_arrival,
}  # fmt: skip


class Outcome(NamedTuple):
    """The first ``decision``, after ``labels`` labelled requests, and the scores over all pairs."""

    decision: str
    labels: int
    production: float
    candidate: float


def outcome(pairs: Sequence[Pair], count: int) -> Outcome:
    """Decide after each pair. Every pair stands for an equal part of the ``count`` labelled requests."""
    means = [[fmean(side.score or 0.0 for side in sides) for sides in both] for both in zip(*pairs, strict=True)]
    ours, theirs = np.array(means[0]), np.array(means[1])
    lost = first(running(ours - theirs, MARGIN) >= np.log(QUESTIONS / ALPHA))
    fine = first(running(theirs - ours, -MARGIN) >= np.log(1 / ALPHA))
    place = min(lost, fine)
    decision = "go on" if place == len(pairs) else "roll back" if lost == place else "keep"
    return Outcome(decision, round(count * min(1, (place + 1) / len(pairs))), float(ours.mean()), float(theirs.mean()))


def first(flags: NDArray[np.bool_]) -> int:
    """The place of the first that is true; their number if none is."""
    return int(flags.argmax()) if flags.any() else len(flags)


def row(outcomes: Sequence[Outcome]) -> str:
    """The shares rolled back and kept, with the median number of labelled requests, and the scores that are printed."""
    cells = []
    for decision in ("roll back", "keep"):
        at = [each.labels for each in outcomes if each.decision == decision]
        cells.append(f"{len(at) / len(outcomes):.3f}" + (f" ({np.median(at):,.0f})" if at else ""))
    scores = f"{fmean(o.candidate for o in outcomes):.3f} against {fmean(o.production for o in outcomes):.3f}"
    return f"{cells[0]} | {cells[1]} | {scores}"


def tables(streams: int, seed: int) -> Iterator[str]:
    """The lines of all tables."""
    plain = Traffic("each request by chance")
    title = "rule | rolled back | kept | printed score |\n"
    rule = "| --- | ---: | --- | ---: | ---: | --- |"
    for share, count, delays in CASES:
        yield f"\n### Share {share:.0%}, {count:,} labelled requests\n\n| labels | loss | {title}{rule}"
        for delay in delays:
            for loss in (0.0, MARGIN, 0.1):
                random = np.random.default_rng(seed)
                streamed = [drawn(count, share, loss, delay, random, plain) for _ in range(streams)]
                for name, pairs in RULES.items():
                    cells = row([outcome(pairs(*stream), count) for stream in streamed])
                    yield f"| {delay.name} | {100 * loss:g} | {name} | {cells} |"
    yield f"\n### Sessions, share 10 %, loss 5\n\n| traffic | {title}{rule.replace(' ---: |', '', 1)}"
    for traffic in SESSIONS:
        random = np.random.default_rng(seed)
        streamed = [drawn(4000, 0.1, MARGIN, DELAYS[0], random, traffic) for _ in range(streams)]
        for name, pairs in RULES.items():
            yield f"| {traffic.name} | {name} | {row([outcome(pairs(*stream), 4000) for stream in streamed])} |"
    yield f"\n### Labels until a loss is rolled back in 80 % of {2 * streams} canaries\n"
    yield "| share | loss | one to one (old) | k to 1 |\n| ---: | ---: | ---: | ---: |"
    for share in (0.5, 0.2, 0.1, 0.05):
        for loss in (0.08, 0.1, 0.15):
            numbers = [f"{needed(loss, share, one, 2 * streams, seed):,}" for one in (True, False)]
            yield f"| {share:.0%} | {100 * loss:g} | {' | '.join(numbers)} |"


def needed(loss: float, share: float, one_to_one: bool, streams: int, seed: int) -> int:
    """The labelled requests after which 80 % of the streams are rolled back."""
    random, shape = np.random.default_rng(seed), (streams, 9000)
    pairs = detection.differences(RIGHT, loss, 0.5 if one_to_one else share, shape, random)
    shown = detection.crossed(pairs, MARGIN, ALPHA / QUESTIONS).mean(axis=0)
    assert shown[-1] >= 0.8, "draw longer streams"
    return round((int(np.argmax(shown >= 0.8)) + 1) / min(share, 1 - share))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=200, help="streams of each case")
    parser.add_argument("--seed", type=int, default=20261130)
    options = parser.parse_args(arguments)
    for line in tables(options.streams, options.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
