"""How often rules for a canary's rollback err: false rollbacks, and losses that are found, with any number of looks.

    python -m benchmarks.rollback [--streams 2000] [--pairs 2000] [--seed 20261126]

Prints Markdown tables. A stream is a canary: pairs of answers, production's and the candidate's, right or wrong. In a
share of the pairs (``--apart``) exactly one of both is right. The loss is how many points fewer of the candidate's
answers are right. All rules see the same streams:

* the e-process of checks/stats/anytime.py, looked at after every pair, with three margins;
* a z-test of the pairs in which one is right, once at the end, and again and again until it is significant;
* a limit on failed measurements of the candidate's success rate, which is how Argo Rollouts (an AnalysisTemplate's
  failureLimit: roll back when more than so many fail) and Flagger (analysis.threshold: when so many failed) decide.
  Neither compares with production: the success rate to ask for is a person's guess, here production's less 3 points.

The last table asks the whole decision (release/monitoring/rollout.py), with all its questions, of pairs of texts.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.stats.anytime import Stream
from release.monitoring import detection
from release.monitoring.rollout import Asks, Pair, Side, judge

LOSSES = (0.0, 0.01, 0.03, 0.05, 0.10)
RIGHT = 0.83  # share of production's answers that are right
ALPHA = 0.05
LABELS = {1.0: "az group create", 0.0: "az group list"}  # a right answer, and a wrong one
GUESS = RIGHT - 0.03  # the success rate that a failure limit asks for
Flags = NDArray[np.bool_]


class Streams(NamedTuple):
    """Production's and the candidate's right answers, (streams, pairs)."""

    production: Flags
    candidate: Flags

    @property
    def counts(self) -> NDArray[np.float64]:
        """Pairs that the candidate won, tied and lost, up to each pair: (streams, pairs, 3)."""
        loss = self.production.astype(np.int8) - self.candidate
        return np.stack([(loss == value).cumsum(axis=1) for value in (-1, 0, 1)], axis=-1).astype(np.float64)


class Rule(NamedTuple):
    """``crossed``: whether the rule rolls back, after each pair: (streams, pairs), once true for ever."""

    name: str
    looks: str
    crossed: Callable[[Streams], Flags]


def paired(loss: float, apart: float, shape: tuple[int, int], random: Any) -> Streams:
    """The same prompts to both models; in a share ``apart`` of the pairs exactly one is right."""
    drawn = random.random(shape)
    lost, won = (apart + loss) / 2, (apart - loss) / 2
    both = (RIGHT - lost) / (1 - apart)
    tied = random.random(shape) < both
    worse, better = drawn < lost, (drawn >= lost) & (drawn < lost + won)
    return Streams(np.where(worse, True, np.where(better, False, tied)), np.where(better, True, ~worse & tied))


def unpaired(loss: float, shape: tuple[int, int], random: Any) -> Streams:
    """Other prompts to each model, paired one to one."""
    return Streams(random.random(shape) < RIGHT, random.random(shape) < RIGHT - loss)


def _points(share: float) -> str:
    return f"{100 * share:g} point{'' if share == 0.01 else 's'}"


def betting(margin: float) -> Rule:
    """The e-process, looked at after each pair."""

    def crossed(streams: Streams) -> Flags:
        return detection.crossed(streams.production - streams.candidate.astype(np.float64), margin, ALPHA)

    return Rule(f"e-process, margin {_points(margin)}", "each pair", crossed)


def z_test(every: int | None) -> Rule:
    """One-sided, of the pairs in which one is right; ``every`` so many pairs, or once at the end."""

    def crossed(streams: Streams) -> Flags:
        counts = streams.counts
        lost, apart = counts[..., 2], counts[..., 0] + counts[..., 2]
        z = (lost - apart / 2) / np.sqrt(np.maximum(apart, 1) / 4)
        looked = (np.arange(1, z.shape[1] + 1) % (every or z.shape[1])) == 0
        return np.logical_or.accumulate((z > 1.6449) & looked, axis=1)

    looks = {None: "one, at the end", 1: "each pair"}.get(every, f"every {every} pairs")
    return Rule(f"z-test, p < {ALPHA}", looks, crossed)


def limit(name: str, window: int, most: int) -> Rule:
    """Roll back at failed measurement number ``most``: a success rate below GUESS in ``window`` requests."""

    def crossed(streams: Streams) -> Flags:
        right = streams.candidate
        whole = right[:, : right.shape[1] // window * window].reshape(len(right), -1, window)
        failed = (whole.mean(axis=2) < GUESS).cumsum(axis=1) >= most
        found = np.zeros(right.shape, bool)
        found[:, window - 1 : whole.shape[1] * window : window] = failed
        return np.logical_or.accumulate(found, axis=1)

    return Rule(name, f"every {window} requests", crossed)


RULES = (
    *(betting(margin) for margin in (0.0, 0.01, 0.05)),
    z_test(None),
    z_test(50),
    z_test(1),
    limit("Argo Rollouts, failureLimit 3", 50, 4),
    limit("Argo Rollouts, failureLimit 3", 200, 4),
    limit("Flagger, threshold 5", 50, 5),
    limit("Flagger, threshold 5", 200, 5),
)


def rolled_back(rules: Sequence[Rule], drawn: Sequence[Streams]) -> Iterator[str]:
    """A row for each rule: the share of streams rolled back for each loss, and the median pair of those."""
    for rule in rules:
        cells = []
        for streams in drawn:
            crossed = rule.crossed(streams)
            back = crossed[:, -1]
            median = f" ({np.median(crossed[back].argmax(axis=1) + 1):.0f})" if back.any() else ""
            cells.append(f"{back.mean():.3f}{median}")
        yield f"| {rule.name} | {rule.looks} | {' | '.join(cells)} |"


def kept(margins: Sequence[float], drawn: Sequence[Streams]) -> Iterator[str]:
    """A row for each margin: the share of streams in which the e-process rules the loss of ``margin`` out."""
    for margin in margins:
        cells = []
        for streams in drawn:
            evidence = Stream(np.array([-1.0, 0.0, 1.0]), streams.counts).log_e_below(margin)
            crossed = evidence >= math.log(1 / ALPHA)
            back = crossed.any(axis=1)
            median = f" ({np.median(crossed[back].argmax(axis=1) + 1):.0f})" if back.any() else ""
            cells.append(f"{back.mean():.3f}{median}")
        yield f"| {_points(margin)} | {' | '.join(cells)} |"


def levels(shares: Sequence[float], shape: tuple[int, int], random: Any) -> Iterator[str]:
    """A row for each share of pairs in which one is right: false rollbacks where the loss is the margin itself."""
    for apart in shares:
        cells = []
        for margin in (0.0, 0.01, 0.05):
            if margin > apart:
                cells.append("-")
                continue
            cells.append(f"{betting(margin).crossed(paired(margin, apart, shape, random))[:, -1].mean():.3f}")
        yield f"| {apart:.0%} | {' | '.join(cells)} |"


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
    Change("20 % are refusals", refused=0.2),
    Change("10 % fail", failed=0.1),
    Change("20 % fail", failed=0.2),
)
SAME = 0.8  # share of pairs in which both are right or wrong together


def decided(change: Change, asks: Asks, looks: Sequence[int], random: Any) -> tuple[str, int]:
    """The first decision of one stream, and the pairs that it took; a label came for every fifth pair."""
    pairs = []
    for number in range(looks[-1]):
        luck = random.random()
        score = float(luck < RIGHT)
        other = float((luck if random.random() < SAME else random.random()) < change.right)
        ours = Side(LABELS[score], score if number % 5 == 0 else None)
        theirs = Side(LABELS[other], other if number % 5 == 0 else None)
        if random.random() < change.failed:
            theirs = Side(None)
        elif random.random() < change.refused:
            theirs = Side("I'm sorry, but I cannot help with that.", None if theirs.score is None else 0.0)
        pairs.append(Pair([ours], [theirs]))
    for look in looks:
        seen = pairs[:look]
        scored = [pair for pair in seen if all(side.score is not None for side in (*pair.production, *pair.candidate))]
        found = judge(seen, scored, asks)
        if found.decision != "go on":
            return found.decision, look
    return "go on", looks[-1]


def whole(streams: int, looks: Sequence[int], random: Any) -> Iterator[str]:
    """A row for each change: shares rolled back and kept, and the median pair."""
    asks = Asks(0.05, ALPHA, None, same_prompts=True)
    for change in CHANGES:
        found = [decided(change, asks, looks, random) for _ in range(streams)]
        cells = []
        for decision in ("roll back", "keep"):
            at = [pairs for said, pairs in found if said == decision]
            cells.append(f"{len(at) / streams:.3f}" + (f" ({np.median(at):.0f})" if at else ""))
        yield f"| {change.name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=2000, help="streams of each loss")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of a stream")
    parser.add_argument("--apart", type=float, default=0.12, help="share of pairs in which exactly one is right")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args(arguments)
    random, shape = np.random.default_rng(options.seed), (options.streams, options.pairs)
    titles = " | ".join(f"loss {100 * loss:g}" for loss in LOSSES)
    rule = f"| --- | --- |{' ---: |' * len(LOSSES)}"
    print(f"Seed {options.seed}; {shape[0]} streams of at most {shape[1]} pairs; alpha {ALPHA}.\n\n### Rolled back\n")
    print(f"| rule | looks | {titles} |\n{rule}")
    drawn = [paired(loss, options.apart, shape, random) for loss in LOSSES]
    for line in rolled_back(RULES, drawn):
        print(line, flush=True)
    print(f"\n### Kept\n\n| margin | {titles} |\n{rule.replace('| --- ', '', 1)}")
    for line in kept((0.01, 0.03, 0.05), drawn):
        print(line, flush=True)
    print(f"\n### Rolled back, unpaired traffic\n\n| rule | looks | {titles} |\n{rule}")
    for line in rolled_back(RULES[:3], [unpaired(loss, shape, random) for loss in LOSSES]):
        print(line, flush=True)
    print("\n### False rollbacks at the margin\n\n| one is right in | margin 0 | margin 1 | margin 5 |")
    print("| ---: | ---: | ---: | ---: |")
    for line in levels((0.02, 0.06, 0.12, 0.4), shape, random):
        print(line, flush=True)
    looks, streams = range(100, min(2001, options.pairs + 1), 100), max(1, options.streams // 10)
    print(f"\n### The whole decision\n\n{streams} streams, a look every 100 pairs.\n")
    print("| the candidate's answers | rolled back | kept |\n| --- | ---: | ---: |")
    for line in whole(streams, looks, random):
        print(line, flush=True)


if __name__ == "__main__":
    main()
