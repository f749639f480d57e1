"""Do the tests keep their level and their promises where groups are uneven, few, or behave by their size?

Tables of ``python -m benchmarks.gates``. Here the tests themselves are asked (``checks.stats.paired``,
``checks.stats.intervals``), not whole verdicts: a gate with one test decides by its p-value. Nothing may pass in more
than 5 % of the samples but for the error of the simulation, and what is said to be seen with at least 80 % power must
be seen in 77 % or more.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import tables
from checks.stats import mean_planning, planning
from checks.stats.intervals import Mean
from checks.stats.paired import Comparison, compare
from checks.stats.planning import Needed

LEVEL = 0.05
CONFIDENCE = 1 - LEVEL
DISCORDANCE = 0.10
TOGETHER = 0.7  # groups that are answered alike
PILOTS = 200
RESOLUTION = 0.1

Sizes = NDArray[np.intp]
Values = NDArray[np.float64]
Random = np.random.Generator

_MIXED: Sizes = np.random.default_rng(20261124).choice(np.array([1, 1, 1, 2, 3, 6]), 214)
LAYOUTS: dict[str, Sizes] = {
    "500 rows": np.ones(500, np.intp),
    "60 rows": np.ones(60, np.intp),
    f"214 groups of 1 to 6, {_MIXED.sum()} rows": _MIXED,
    "60 groups of 5": np.full(60, 5),
    "30 groups of 1 to 30, 465 rows": np.arange(1, 31),
    "a group of 200, 300 rows": np.append(np.ones(300, np.intp), 200),
    "12 groups of 20": np.full(12, 20),
}
MEANS = (0.02, 0.05, 0.5, 0.95, 0.98)


def thresholds(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Show a true mean that is the bound itself to be above it, and below."""
    for layout, sizes in tqdm(LAYOUTS.items(), desc="thresholds"):
        cells = []
        for mean in MEANS:
            random = np.random.default_rng([seed, 1, len(sizes), round(mean * 100)])
            means = [Mean.of(*scores(random, sizes, mean)) for _ in range(runs)]
            above = sum(drawn_mean.p_above(mean) <= LEVEL for drawn_mean in means)
            below = sum(drawn_mean.p_below(mean) <= LEVEL for drawn_mean in means)
            cells.append(f"{above / runs:.1%} / {below / runs:.1%}")
        yield layout, *cells


def comparisons(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Compare two models without a difference, or with a loss of exactly the margin."""
    for layout, sizes in tqdm(LAYOUTS.items(), desc="comparisons"):
        random = np.random.default_rng([seed, 2, len(sizes), 0])
        counts = np.zeros(4)
        for _ in range(runs):
            unchanged = drawn(random, sizes, 0.0)
            counts[:2] += unchanged.p <= LEVEL, unchanged.p_worse <= LEVEL
            for column, margin in ((2, 0.05), (3, 0.01)):
                counts[column] += drawn(random, sizes, margin, -margin).p <= LEVEL
        yield layout, *(f"{share:.1%}" for share in counts / runs)


def by_size(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Let single rows gain what large groups lose. Nothing differs on average. The sign-flip test stands beside."""
    cases = [(200, 10, 10), (1000, 10, 10), (200, 40, 5), (300, 30, 3)]
    for alone, groups, size in tqdm(cases, desc="by size"):
        sizes = np.append(np.ones(alone, np.intp), np.full(groups, size))
        for expected in (1, 2, 3, 4, 6):
            random = np.random.default_rng([seed, 3, alone, groups, expected])
            lose = np.where(sizes > 1, expected / groups, 0.0)
            gain = np.where(sizes == 1, expected * size / alone, 0.0)
            counts = np.zeros(2)
            for _ in range(runs):
                draws = random.random(len(sizes))
                totals = np.where(draws < gain, sizes, np.where(draws < gain + lose, -sizes, 0))
                signs = np.sign(totals)[np.repeat(np.arange(len(sizes)), sizes)].astype(np.float64)
                counts += _compared(signs, sizes).p <= LEVEL, _sign_flip(totals) <= LEVEL
            shares = (f"{share:.1%}" for share in counts / runs)
            yield f"{alone} rows, {groups} groups of {size}", expected, *shares


class Promise(NamedTuple):
    """A figure that pilots print, its median, and the share of new samples that pass at what their pilot printed."""

    printed: float
    kept: float


def promises(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Ask whether a difference is seen, and whether the advised rows do, with at least 80 % power."""
    for layout, sizes in tqdm(LAYOUTS.items(), desc="promises"):
        random = np.random.default_rng([seed, 4, len(sizes)])
        loss, needed, gain = promised(random, sizes, runs)
        yield layout, *_cells(loss, "{:.1%}"), *_cells(needed, "{:.0f}"), *_cells(gain, "{:.1%}")


def promised(
    random: Random, sizes: Sizes, runs: int
) -> tuple[Promise | None, Promise | None, Promise | None]:
    """Return the detectable loss, the rows or groups for six tenths of it, and the detectable gain.

    Each pilot is a sample of an unchanged model. New samples of the same layout are then asked at what it printed.
    """
    pilots = [drawn(random, sizes, 0.0, -0.05).pairs for _ in range(PILOTS)]
    losses = [planning.detectable_loss([pilot], LEVEL) for pilot in pilots]
    gains = [planning.detectable_gain(pilot, 0.0, LEVEL) for pilot in pilots]
    loss = _kept(losses, runs, lambda loss: drawn(random, sizes, 0.0, -loss).p <= LEVEL)
    margin = 0.6 * loss.printed if loss else 0.5
    plans = [_groups(planning.needed_if_unchanged([pilot], -margin, LEVEL)) for pilot in pilots]
    needed = _kept(
        plans,
        runs,
        lambda groups: drawn(random, np.resize(sizes, int(groups)), 0.0, -margin).p <= LEVEL,
    )
    return (
        loss,
        needed,
        _kept(gains, runs, lambda gain: drawn(random, sizes, -gain, 0.0).p <= LEVEL),
    )


def threshold_promises(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Ask the same of a threshold of 0.6, and of one of 0.9."""
    for layout, sizes in tqdm(LAYOUTS.items(), desc="threshold promises"):
        for bound in (0.6, 0.9):
            random = np.random.default_rng([seed, 5, len(sizes), round(bound * 10)])
            ahead, resolved = promised_mean(random, sizes, bound, runs)
            yield layout, bound, *_cells(ahead, "{:.1%}"), *_cells(resolved, "{:.0f}")


def promised_mean(
    random: Random, sizes: Sizes, bound: float, runs: int
) -> tuple[Promise | None, Promise | None]:
    """Return how far above ``bound`` the mean must lie, and what gives ``RESOLUTION``. Pilots lie five points above."""
    pilots = [Mean.of(*scores(random, sizes, bound + 0.05)) for _ in range(PILOTS)]
    ahead = [mean_planning.detectable(pilot, bound, LEVEL) for pilot in pilots]
    plans = [
        _groups(mean_planning.needed_to_resolve(pilot, RESOLUTION, CONFIDENCE)) for pilot in pilots
    ]

    def resolved(groups: float) -> bool:
        more = Mean.of(*scores(random, np.resize(sizes, int(groups)), bound + 0.05))
        return mean_planning.resolves(more, RESOLUTION, CONFIDENCE)

    return (
        _kept(
            ahead,
            runs,
            lambda ahead: Mean.of(*scores(random, sizes, bound + ahead)).p_above(bound) <= LEVEL,
        ),
        _kept(plans, runs, resolved),
    )


def _kept(
    printed: Sequence[float | None], runs: int, passes: Callable[[float], bool]
) -> Promise | None:
    """Ask new samples at the figure of each pilot; None where half of the pilots print none."""
    figures = [figure for figure in printed if figure is not None]
    if 2 * len(figures) <= len(printed):
        return None
    passed = sum(passes(figures[run % len(figures)]) for run in range(runs))
    return Promise(
        median(math.inf if figure is None else figure for figure in printed), passed / runs
    )


def _cells(promise: Promise | None, form: str) -> tuple[str, str]:
    return (form.format(promise.printed), f"{promise.kept:.0%}") if promise else ("none", "")


def scores(
    random: Random, sizes: Sizes, mean: float, correlation: float = 0.5
) -> tuple[Values, Sizes]:
    """Draw right/wrong rows of a beta-binomial model (intraclass correlation), and their groups."""
    scale = (1 - correlation) / correlation
    chances = random.beta(mean * scale, (1 - mean) * scale, len(sizes))
    chances = np.where(sizes == 1, mean, chances)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return (random.random(len(groups)) < chances[groups]).astype(np.float64), groups


def drawn(random: Random, sizes: Sizes, loss: float, margin: float = 0.0) -> Comparison:
    """Draw a candidate that loses ``loss`` (below 0: gains), and compare it at ``margin``."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    draws = random.random(len(groups))
    together = (random.random(len(sizes)) < TOGETHER)[groups]
    draws = np.where(together, random.random(len(sizes))[groups], draws)
    gain, lose = DISCORDANCE / 2 + max(0.0, -loss), DISCORDANCE / 2 + max(0.0, loss)
    signs = np.where(draws < gain, 1.0, np.where(draws < gain + lose, -1.0, 0.0))
    return _compared(signs, sizes, margin)


def _compared(signs: Values, sizes: Sizes, margin: float = 0.0) -> Comparison:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return compare(np.maximum(signs, 0), np.maximum(-signs, 0), groups, margin, CONFIDENCE)


def _sign_flip(totals: Sizes) -> float:
    """Return the one-sided p by the normal distribution, with a correction of half a row."""
    lead, spread = float(totals.sum()), math.sqrt(float((totals**2).sum()))
    return 0.5 * math.erfc((lead - 0.5) / spread / math.sqrt(2)) if spread else 1.0


def _groups(plan: Needed | None) -> int | None:
    return plan and (plan.groups or plan.rows)


def show(runs: int, seed: int) -> None:
    """Print every table. Promises get twice as many samples: the error must be well below the three points allowed."""
    tables.show(
        "A threshold at its bound: above / below",
        ("layout", *(f"mean {mean:g}" for mean in MEANS)),
        thresholds(runs, seed),
    )
    seen = ("unchanged: shown better", "shown worse", "loss of 5 points: ruled out", "1 point")
    tables.show("Two models", ("layout", *seen), comparisons(runs, seed))
    sized = ("losses expected", "no difference: shown better", "sign flip")
    tables.show(
        "Effects that depend on the size of a group", ("layout", *sized), by_size(runs, seed)
    )
    planned = (
        "detectable loss",
        "ruled out",
        "rows or groups needed",
        "ruled out",
        "detectable gain",
        "shown",
    )
    tables.show("What is promised of two models", ("layout", *planned), promises(2 * runs, seed))
    resolved = ("at least", "detectable", "shown", "needed for ±0.1", "resolved")
    tables.show(
        "What is promised of a threshold", ("layout", *resolved), threshold_promises(2 * runs, seed)
    )
