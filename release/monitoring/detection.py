"""How soon a canary that loses quality is found: draws streams of pairs by chance, and applies the rollback rule.

`lockstep drill --incident` prints the result for losses smaller than that of its worse model. `benchmarks/canary.py`
has the same for other shares.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checks.records.rows import Record
from checks.stats import anytime

LOSSES = (0.01, 0.03, 0.05, 0.10)
STREAMS, PAIRS = 400, 3000
_SEED = 20261126


class Detection(Record):
    """Canaries that lose ``loss``. ``found``: the share that is rolled back; ``pairs``: the median until then."""

    loss: float
    found: float
    pairs: int | None  # None: none was


def differences(
    right: float, loss: float, share: float, shape: tuple[int, int], random: Any
) -> NDArray[np.float64]:
    """Production's mean minus the candidate's in each pair, (streams, pairs), as ``release.monitoring.canary`` pairs.

    ``right``: production's score. ``share``: of the requests, to the candidate.
    """
    partners = max(1, round(max(share, 1 - share) / min(share, 1 - share)))
    sizes = (partners, 1) if share < 0.5 else (1, partners)
    production, candidate = (
        random.binomial(size, score, shape) / size
        for size, score in zip(sizes, (right, right - loss), strict=True)
    )
    return np.asarray(production - candidate)


def crossed(differences: NDArray[np.float64], margin: float, alpha: float) -> NDArray[np.bool_]:
    """Whether a loss above ``margin`` was shown by then, looked at after each pair: (streams, pairs)."""
    evidence = anytime.running(differences, margin)
    return np.logical_or.accumulate(evidence >= math.log(1 / alpha), axis=1)


def expected(
    right: float, margin: float, alpha: float, share: float, losses: Sequence[float] = LOSSES
) -> tuple[Detection, ...]:
    """Draw ``STREAMS`` canaries of ``PAIRS`` labelled pairs for each of ``losses`` that ``right`` has room for.

    ``alpha``: the question's share of the allowed error. ``share``: as for ``differences``.
    """
    random, cases = np.random.default_rng(_SEED), list[Detection]()
    for loss in losses:
        if loss > right:
            continue
        shown = crossed(differences(right, loss, share, (STREAMS, PAIRS), random), margin, alpha)
        back = shown[:, -1]
        median = int(np.median(shown[back].argmax(axis=1) + 1)) if back.any() else None
        cases.append(Detection(loss=loss, found=round(float(back.mean()), 4), pairs=median))
    return tuple(cases)
