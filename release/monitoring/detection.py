"""How soon a canary that loses quality is found: draws streams of pairs by chance, and applies the rollback rule.

`lockstep drill --incident` prints the result for losses smaller than that of its worse model. `benchmarks/rollback.py`
compares the rule with other rules on the same streams.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.rows import Record
from checks.stats.anytime import Stream

LOSSES = (0.01, 0.03, 0.05, 0.10)
STREAMS, PAIRS = 400, 3000
_SEED = 20261126
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


class Detection(Record):
    """Canaries that lose ``loss``. ``found``: the share that is rolled back; ``pairs``: the median until then."""

    loss: float
    found: float
    pairs: int | None  # None: none was


def unpaired(right: float, loss: float, shape: tuple[int, int], random: Any) -> Streams:
    """Answers of two models to different prompts, paired by their order. ``right``: production's score."""
    return Streams(random.random(shape) < right, random.random(shape) < right - loss)


def crossed(streams: Streams, margin: float, alpha: float) -> Flags:
    """Whether a loss above ``margin`` was shown by then, looked at after each pair: (streams, pairs)."""
    evidence = Stream(np.array([-1.0, 0.0, 1.0]), streams.counts).log_e_above(margin)
    return np.logical_or.accumulate(evidence >= math.log(1 / alpha), axis=1)


def expected(right: float, margin: float, alpha: float, losses: Sequence[float] = LOSSES) -> tuple[Detection, ...]:
    """Draw ``STREAMS`` canaries of ``PAIRS`` labelled pairs for each of ``losses`` that ``right`` has room for.

    ``alpha``: the question's share of the allowed error.
    """
    random, found = np.random.default_rng(_SEED), list[Detection]()
    for loss in losses:
        if loss > right:
            continue
        shown = crossed(unpaired(right, loss, (STREAMS, PAIRS), random), margin, alpha)
        back = shown[:, -1]
        median = int(np.median(shown[back].argmax(axis=1) + 1)) if back.any() else None
        found.append(Detection(loss=loss, found=round(float(back.mean()), 4), pairs=median))
    return tuple(found)
