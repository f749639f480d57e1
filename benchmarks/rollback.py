"""How often rules for a canary's rollback err: false rollbacks, and losses that are found, with any number of looks.

    python -m benchmarks.rollback [--streams 2000] [--pairs 2000] [--seed 20261126]

A stream is a canary: pairs of answers, production's and the candidate's, right or wrong. In 12 % of the pairs exactly
one of both is right. The loss is how many points fewer of the candidate's answers are right. All rules see the same
streams:

* the e-process of checks/stats/anytime.py, looked at after every pair, with three margins;
* a z-test of the pairs in which one is right, once at the end, and again and again until it is significant;
* a limit on failed measurements of the candidate's success rate, which is how Argo Rollouts (an AnalysisTemplate's
  failureLimit: roll back when more than so many fail) and Flagger (analysis.threshold: when so many failed) decide.
  Neither compares with production: the success rate to ask for is a person's guess, here production's less 3 points.

The last table asks the whole decision (release/monitoring/rollout.py), with all its questions, of pairs of texts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from checks.config.monitor import Monitor
from checks.stats.anytime import Stream
from release.monitoring import detection
from release.monitoring.rollout import Pair, SideAnswer, judge

LOSSES = (0.0, 0.01, 0.03, 0.05, 0.10)
RIGHT = 0.83  # The share of production's answers that are right.
APART = 0.12  # The share of pairs in which exactly one is right.
ALPHA = 0.05
LABELS = {1.0: "az group create", 0.0: "az group list"}  # A right answer, and a wrong one.
GUESS = RIGHT - 0.03  # The success rate that a failure limit asks for.
Flags = NDArray[np.bool_]
Row = tuple[object, ...]


class Streams(NamedTuple):
    """Production's and the candidate's right answers, (streams, pairs)."""

    production: Flags
    candidate: Flags

    @property
    def counts(self) -> NDArray[np.float64]:
        """Return the pairs that the candidate won, tied and lost, up to each pair: (streams, pairs, 3)."""
        loss = self.production.astype(np.int8) - self.candidate
        return np.stack([(loss == value).cumsum(axis=1) for value in (-1, 0, 1)], axis=-1).astype(
            np.float64
        )


class Rule(NamedTuple):
    """``crossed``: whether the rule rolls back, after each pair: (streams, pairs), once true for ever."""

    name: str
    looks: str
    crossed: Callable[[Streams], Flags]


def paired(loss: float, shape: tuple[int, int], random: Any) -> Streams:
    """Send the same prompts to both models."""
    draws = random.random(shape)
    lost, won = (APART + loss) / 2, (APART - loss) / 2
    tied = random.random(shape) < (RIGHT - lost) / (1 - APART)
    worse, better = draws < lost, (draws >= lost) & (draws < lost + won)
    return Streams(worse | (tied & ~better), better | (tied & ~worse))


def unpaired(loss: float, shape: tuple[int, int], random: Any) -> Streams:
    """Send other prompts to each model, paired one to one."""
    return Streams(random.random(shape) < RIGHT, random.random(shape) < RIGHT - loss)


def betting(margin: float) -> Rule:
    """Return the e-process, looked at after each pair."""

    def crossed(streams: Streams) -> Flags:
        return detection.crossed(
            streams.production - streams.candidate.astype(np.float64), margin, ALPHA
        )

    return Rule(f"e-process, margin {100 * margin:g}", "each pair", crossed)


def z_test(every: int | None) -> Rule:
    """Return a one-sided test of the pairs in which one is right; ``every`` so many pairs, or once at the end."""

    def crossed(streams: Streams) -> Flags:
        counts = streams.counts
        lost, apart = counts[..., 2], counts[..., 0] + counts[..., 2]
        z = (lost - apart / 2) / np.sqrt(np.maximum(apart, 1) / 4)
        looked = (np.arange(1, z.shape[1] + 1) % (every or z.shape[1])) == 0
        return np.logical_or.accumulate((z > 1.6449) & looked, axis=1)

    return Rule(
        f"z-test, p < {ALPHA}", f"every {every} pairs" if every else "one, at the end", crossed
    )


def limit(name: str, window: int, most: int) -> Rule:
    """Roll back at failed measurement number ``most``: a success rate below GUESS in ``window`` requests."""

    def crossed(streams: Streams) -> Flags:
        right = streams.candidate
        whole = right[:, : right.shape[1] // window * window].reshape(len(right), -1, window)
        failed = (whole.mean(axis=2) < GUESS).cumsum(axis=1) >= most
        flags = np.zeros(right.shape, bool)
        flags[:, window - 1 : whole.shape[1] * window : window] = failed
        return np.logical_or.accumulate(flags, axis=1)

    return Rule(name, f"every {window} requests", crossed)


BETTING = tuple(betting(margin) for margin in (0.0, 0.01, 0.05))
RULES = (
    *BETTING,
    *(z_test(every) for every in (None, 50, 1)),
    *(limit("Argo Rollouts, failureLimit 3", window, 4) for window in (50, 200)),
    *(limit("Flagger, threshold 5", window, 5) for window in (50, 200)),
)


def _share(crossed: Flags) -> str:
    """Return the share of streams that crossed, and the median pair at which they did."""
    reached = crossed.any(axis=1)
    median = f" ({np.median(crossed[reached].argmax(axis=1) + 1):.0f})" if reached.any() else ""
    return f"{reached.mean():.3f}{median}"


def rolled_back(rules: Sequence[Rule], drawn: Sequence[Streams]) -> Iterator[Row]:
    """Ask each rule of the streams of each loss."""
    for rule in rules:
        yield rule.name, rule.looks, *(_share(rule.crossed(streams)) for streams in drawn)


def kept(margins: Sequence[float], drawn: Sequence[Streams]) -> Iterator[Row]:
    """Ask the e-process whether it rules out the loss of each margin."""
    values = np.array([-1.0, 0.0, 1.0])
    for margin in margins:
        evidence = (Stream(-values, streams.counts).log_e_above(-margin) for streams in drawn)
        yield f"{100 * margin:g}", *(_share(logs >= math.log(1 / ALPHA)) for logs in evidence)


class Change(NamedTuple):
    """How a candidate's answers are worse: fewer are ``right``, or shares of them are ``refused`` or ``failed``."""

    name: str
    right: float = RIGHT
    refused: float = 0.0
    failed: float = 0.0


CHANGES = (
    Change("nothing"),
    Change("3 points fewer are right", right=RIGHT - 0.03),
    Change("10 points fewer are right", right=RIGHT - 0.1),
    Change("20 points fewer are right", right=RIGHT - 0.2),
    Change("10 % are refusals", refused=0.1),
    Change("10 % fail", failed=0.1),
)
SAME = 0.8  # The share of pairs in which both are right or wrong together.


def decided(change: Change, monitor: Monitor, looks: Sequence[int], random: Any) -> tuple[str, int]:
    """Return the first decision of one stream, and its pairs. A label came for every fifth pair."""
    pairs = []
    for number in range(looks[-1]):
        luck = random.random()
        score = float(luck < RIGHT)
        other = float((luck if random.random() < SAME else random.random()) < change.right)
        labelled = number % 5 == 0
        ours = SideAnswer(LABELS[score], score if labelled else None)
        theirs = SideAnswer(LABELS[other], other if labelled else None)
        if random.random() < change.failed:
            theirs = SideAnswer(None)
        elif random.random() < change.refused:
            theirs = SideAnswer(
                "I'm sorry, but I cannot help with that.", 0.0 if labelled else None
            )
        pairs.append(Pair([ours], [theirs]))
    for look in looks:
        seen = pairs[:look]
        scored = [
            pair
            for pair in seen
            if all(side.score is not None for side in (*pair.production, *pair.candidate))
        ]
        decision = judge(seen, scored, monitor, same_prompts=True).decision
        if decision != "go on":
            return decision, look
    return "go on", looks[-1]


def whole(streams: int, looks: Sequence[int], random: Any) -> Iterator[Row]:
    """Decide each change with all questions."""
    monitor = Monitor(margin=0.05, confidence=1 - ALPHA)
    for change in CHANGES:
        outcomes = [decided(change, monitor, looks, random) for _ in range(streams)]
        cells = []
        for decision in ("roll back", "keep"):
            pairs = [count for outcome, count in outcomes if outcome == decision]
            cells.append(
                f"{len(pairs) / streams:.3f}" + (f" ({np.median(pairs):.0f})" if pairs else "")
            )
        yield change.name, *cells


def main() -> None:
    """Print the tables."""
    options = tables.numbers(__doc__, streams=2000, pairs=2000, seed=20261126)
    random, shape = np.random.default_rng(options.seed), (options.streams, options.pairs)
    titles = [f"loss {100 * loss:g}" for loss in LOSSES]
    drawn = [paired(loss, shape, random) for loss in LOSSES]
    tables.show("Rolled back", ("rule", "looks", *titles), rolled_back(RULES, drawn))
    tables.show("Kept", ("margin", *titles), kept((0.01, 0.03, 0.05), drawn))
    drawn = [unpaired(loss, shape, random) for loss in LOSSES]
    tables.show("Unpaired traffic", ("rule", "looks", *titles), rolled_back(BETTING, drawn))
    looks = range(100, min(2001, options.pairs + 1), 100)
    answers = ("the candidate's answers", "rolled back", "kept")
    tables.show("The whole decision", answers, whole(max(1, options.streams // 10), looks, random))


if __name__ == "__main__":
    main()
