"""Do the tests keep their level and their promises where groups are uneven, few, or behave by their size?

Tables of ``python -m benchmarks.gates``. Here the tests themselves are asked (``checks.stats.paired``,
``checks.stats.intervals``), not whole verdicts: a gate with one test decides by its p-value. Nothing may pass in more
than 5 % of the samples but for the error of the simulation, and what is said to be seen with at least 80 % power must
be seen in 77 % or more.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

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


def thresholds(runs: int, seed: int) -> str:
    """The true mean is the bound: how often is it shown to be above, or below?"""
    lines = [
        f"{runs} samples each, intraclass correlation 0.5; the true mean is the bound: shown to be above / below it",
        "",
        f"| layout | {' | '.join(f'mean {mean:g}' for mean in MEANS)} |",
        f"| --- |{' ---: |' * len(MEANS)}",
    ]
    for layout, sizes in tqdm(LAYOUTS.items(), desc="thresholds"):
        cells = []
        for mean in MEANS:
            random = np.random.default_rng([seed, 1, len(sizes), round(mean * 100)])
            above = below = 0
            for _ in range(runs):
                found = Mean.of(*scores(random, sizes, mean))
                above += found.p_above(mean) <= LEVEL
                below += found.p_below(mean) <= LEVEL
            cells.append(f"{above / runs:.1%} / {below / runs:.1%}")
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparisons(runs: int, seed: int) -> str:
    """Two models on these layouts: no difference, or a loss of exactly the margin."""
    lines = [
        f"{runs} samples each (half as many graded); {DISCORDANCE:.0%} of rows differ besides the loss",
        "",
        "| layout | scores | unchanged: shown better | shown worse | loss of 5 points: ruled out | 1 point |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for layout, sizes in tqdm(LAYOUTS.items(), desc="comparisons"):
        for graded in (False, True):
            count = runs // 2 if graded else runs
            random = np.random.default_rng([seed, 2, len(sizes), graded])
            counts = np.zeros(4)
            for _ in range(count):
                found = drawn(random, sizes, 0.0, graded=graded)
                counts[:2] += found.p <= LEVEL, found.p_worse <= LEVEL
                for column, margin in ((2, 0.05), (3, 0.01)):
                    counts[column] += drawn(random, sizes, margin, -margin, graded=graded).p <= LEVEL
            cells = " | ".join(f"{share:.1%}" for share in counts / count)
            lines.append(f"| {layout} | {'graded' if graded else 'right/wrong'} | {cells} |")
    return "\n".join(lines)


def by_size(runs: int, seed: int) -> str:
    """Single rows gain what large groups lose: the true difference is 0, or a loss of the margin."""
    lines = [
        f"{runs} samples each: single rows gain what groups lose as a whole; beside it the sign-flip test of groups",
        "",
        "| layout | losses expected | no difference: shown better | sign flip | loss of 2 points: ruled out |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    cases = [(200, 10, 10), (1000, 10, 10), (200, 40, 5), (300, 30, 3)]
    for alone, groups, size in tqdm(cases, desc="by size"):
        sizes = np.append(np.ones(alone, np.intp), np.full(groups, size))
        for expected in (1, 2, 3, 4, 6):
            random = np.random.default_rng([seed, 3, alone, groups, expected])
            lose = np.where(sizes > 1, expected / groups, 0.0)
            counts = np.zeros(3)
            for column, margin in ((0, 0.0), (2, 0.02)):
                rate = (expected * size - margin * sizes.sum()) / alone
                gain = np.where(sizes == 1, max(rate, 0.0), 0.0)
                if rate < 0:  # so few losses do not make the margin: more of them
                    more = lose * margin * sizes.sum() / (expected * size)
                for _ in range(runs):
                    totals = _whole(random, sizes, gain, lose if rate >= 0 else more)
                    found = _compared(sizes, totals, -margin)
                    counts[column] += found.p <= LEVEL
                    if not margin:
                        counts[1] += _sign_flip(totals) <= LEVEL
            cells = " | ".join(f"{share:.1%}" for share in counts / runs)
            lines.append(f"| {alone} rows, {groups} groups of {size} | {expected} | {cells} |")
    return "\n".join(lines)


class Promise(NamedTuple):
    """A figure that pilots print, its median, and the share of new samples that pass at what their pilot printed."""

    printed: float
    kept: float


def promises(runs: int, seed: int) -> str:
    """What is printed, and what comes: a difference that is seen, and rows that would do, with at least 80 % power."""
    runs *= 2  # the error must be well below the three points that are allowed
    lines = [
        f"{runs} samples each; at least 80 % is promised. Needed: to rule out six tenths of the detectable loss",
        "",
        "| layout | detectable loss | ruled out | needed | ruled out | detectable gain | shown | as seen: shown |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for layout, sizes in tqdm(LAYOUTS.items(), desc="promises"):
        random = np.random.default_rng([seed, 4, len(sizes)])
        loss, needed, gain = promised(random, sizes, runs)
        unit = "rows" if sizes.max() == 1 else "groups"
        cells = [
            *_cells(loss, "{:.1%}"), *_cells(needed, f"{{:.0f}} {unit}"), *_cells(gain, "{:.1%}"),
            f"{_as_seen(random, sizes, gain.printed, runs):.0%}" if gain else "",
        ]  # fmt: skip
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    return "\n".join(lines)


def promised(random: Random, sizes: Sizes, runs: int) -> tuple[Promise | None, Promise | None, Promise | None]:
    """Of two models: the detectable loss, the rows or groups for six tenths of it, and the detectable gain.

    Each pilot is a sample of an unchanged model. New samples of the same layout are then asked at what it printed.
    """
    pilots = [drawn(random, sizes, 0.0, -0.05).pairs for _ in range(PILOTS)]
    losses = [planning.detectable_loss([pilot], LEVEL) for pilot in pilots]
    gains = [planning.detectable_gain(pilot, 0.0, LEVEL) for pilot in pilots]
    loss = _kept(losses, runs, lambda loss: drawn(random, sizes, 0.0, -loss).p <= LEVEL)
    margin = 0.6 * loss.printed if loss else 0.5
    plans = [_groups(planning.needed_if_unchanged([pilot], -margin, LEVEL)) for pilot in pilots]
    needed = _kept(plans, runs, lambda groups: drawn(random, np.resize(sizes, int(groups)), 0.0, -margin).p <= LEVEL)
    return loss, needed, _kept(gains, runs, lambda gain: drawn(random, sizes, -gain, 0.0).p <= LEVEL)


def threshold_promises(runs: int, seed: int) -> str:
    """The same of a threshold of 0.6, and of one of 0.9."""
    runs *= 2
    lines = [
        f"{runs} samples each; at least 80 % is promised",
        "",
        "| layout | at least | detectable | shown | needed for ±0.1 | resolved | needed as seen: shown |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for layout, sizes in tqdm(LAYOUTS.items(), desc="threshold promises"):
        for bound in (0.6, 0.9):
            random = np.random.default_rng([seed, 5, len(sizes), round(bound * 10)])
            ahead, resolved = promised_mean(random, sizes, bound, runs)
            cells = [
                *_cells(ahead, "{:.1%}"), *_cells(resolved, f"{{:.0f}} {'rows' if sizes.max() == 1 else 'groups'}"),
                f"{_mean_as_seen(random, sizes, bound, ahead.printed / 2, runs):.0%}" if ahead else "",
            ]  # fmt: skip
            lines.append(f"| {layout} | {bound} | {' | '.join(cells)} |")
    return "\n".join(lines)


def promised_mean(random: Random, sizes: Sizes, bound: float, runs: int) -> tuple[Promise | None, Promise | None]:
    """How far above ``bound`` the mean must lie, and what gives ``RESOLUTION``; pilots lie five points above it."""
    pilots = [Mean.of(*scores(random, sizes, bound + 0.05)) for _ in range(PILOTS)]
    ahead = [mean_planning.detectable(pilot, bound, LEVEL) for pilot in pilots]
    plans = [_groups(mean_planning.needed_to_resolve(pilot, RESOLUTION, CONFIDENCE)) for pilot in pilots]

    def resolved(groups: float) -> bool:
        more = Mean.of(*scores(random, np.resize(sizes, int(groups)), bound + 0.05))
        return mean_planning.resolves(more, RESOLUTION, CONFIDENCE)

    return (
        _kept(ahead, runs, lambda ahead: Mean.of(*scores(random, sizes, bound + ahead)).p_above(bound) <= LEVEL),
        _kept(plans, runs, resolved),
    )


def _kept(printed: Sequence[float | None], runs: int, passes: Callable[[float], bool]) -> Promise | None:
    """Asks new samples at what each pilot printed; None where half of the pilots print nothing."""
    said = [figure for figure in printed if figure is not None]
    if 2 * len(said) <= len(printed):
        return None
    passed = sum(passes(said[run % len(said)]) for run in range(runs))
    return Promise(median(math.inf if figure is None else figure for figure in printed), passed / runs)


def _cells(promise: Promise | None, form: str) -> tuple[str, str]:
    return (form.format(promise.printed), f"{promise.kept:.0%}") if promise else ("none", "")


def scores(random: Random, sizes: Sizes, mean: float, correlation: float = 0.5) -> tuple[Values, Sizes]:
    """Right/wrong rows of a beta-binomial model (intraclass correlation), and their groups."""
    scale = (1 - correlation) / correlation
    chances = random.beta(mean * scale, (1 - mean) * scale, len(sizes))
    chances = np.where(sizes == 1, mean, chances)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return (random.random(len(groups)) < chances[groups]).astype(np.float64), groups


def drawn(random: Random, sizes: Sizes, loss: float, margin: float = 0.0, *, graded: bool = False) -> Comparison:
    """A candidate that loses ``loss`` (below 0: gains), compared at ``margin``."""
    return _steps(random, sizes, -loss, margin, graded=graded)[0]


def _steps(
    random: Random, sizes: Sizes, change: float, margin: float = 0.0, *, graded: bool = False
) -> tuple[Comparison, Values]:
    """The comparison of ``drawn``, and its differences."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    n, draws = len(groups), random.random(len(groups))
    together = (random.random(len(sizes)) < TOGETHER)[groups]
    draws = np.where(together, random.random(len(sizes))[groups], draws)
    size = random.integers(1, 11, n) / 10 if graded else np.ones(n)
    more = change / 0.55 if graded else change  # 0.55: the mean size of a graded difference
    gain, lose = DISCORDANCE / 2 + max(0.0, more), DISCORDANCE / 2 + max(0.0, -more)
    steps = np.where(draws < gain, size, np.where(draws < gain + lose, -size, 0.0))
    return compare(np.maximum(steps, 0), np.maximum(-steps, 0), groups, margin, CONFIDENCE), steps


def _whole(random: Random, sizes: Sizes, gain: Values, lose: Values) -> Sizes:
    """Totals of groups that gain or lose as a whole."""
    draws = random.random(len(sizes))
    return np.where(draws < gain, sizes, np.where(draws < gain + lose, -sizes, 0))


def _compared(sizes: Sizes, totals: Sizes, margin: float) -> Comparison:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    signs = np.sign(totals)[groups].astype(np.float64)
    return compare(np.maximum(signs, 0), np.maximum(-signs, 0), groups, margin, CONFIDENCE)


def _sign_flip(totals: Sizes) -> float:
    """One-sided, by the normal distribution with a correction of half a row."""
    lead, spread = float(totals.sum()), math.sqrt(float((totals**2).sum()))
    return 0.5 * math.erfc((lead - 0.5) / spread / math.sqrt(2)) if spread else 1.0


def _groups(plan: Needed | None) -> int | None:
    return plan and (plan.groups or plan.rows)


def _as_seen(random: Random, sizes: Sizes, gain: float, runs: int) -> float:
    """Pilots with half the detectable gain; each is the truth of 20 samples as large as it says."""
    shown = asked = 0
    while asked < runs:
        pilot, steps = _steps(random, sizes, gain / 2)
        plan = planning.needed_as_seen([pilot.pairs], 0.0, LEVEL)
        # A pilot that passes needs no plan, and one that shows next to nothing asks for very many rows.
        if pilot.p <= LEVEL or plan is None or plan.rows > 20_000:
            continue
        for _ in range(20):
            rows, groups = _again(random, steps, sizes, plan.groups or plan.rows)
            shown += compare(np.maximum(rows, 0), np.maximum(-rows, 0), groups, 0.0, CONFIDENCE).p <= LEVEL
            asked += 1
    return shown / asked


def _mean_as_seen(random: Random, sizes: Sizes, bound: float, ahead: float, runs: int) -> float:
    shown = asked = 0
    while asked < runs:
        values, groups = scores(random, sizes, bound + ahead)
        pilot = Mean.of(values, groups)
        plan = mean_planning.needed(pilot, bound, LEVEL)
        if pilot.p_above(bound) <= LEVEL or plan is None or plan.rows > 20_000:
            continue
        for _ in range(20):
            shown += Mean.of(*_again(random, values, sizes, plan.groups or plan.rows)).p_above(bound) <= LEVEL
            asked += 1
    return shown / asked


def _again(random: Random, values: Values, sizes: Sizes, groups: int) -> tuple[Values, Sizes]:
    """So many groups of these, drawn with replacement: their rows and their numbers."""
    picked = random.integers(0, len(sizes), groups)
    chosen = sizes[picked]
    ends = np.cumsum(chosen)
    within = np.arange(ends[-1]) - np.repeat(ends - chosen, chosen)
    starts = (np.cumsum(sizes) - sizes)[picked]
    return values[np.repeat(starts, chosen) + within], np.repeat(np.arange(groups), chosen)
