"""Which tests show more on few rows? Level and power of ideas beside the gates' own test, at 100 and 400 rows.

    python -m benchmarks.few_rows [--runs 4000] [--seed 20261201]

Question: is the candidate better than main (margin 0, 95 %)? Answers are right or wrong, and two equal models differ on
10 % of the rows. Half of the rows are hard. "Level" is the share of models without a gain that pass: they gain and lose
in all rows alike, or (moved) gain in hard rows and lose in easy ones. "Power" is that of a model that gains 5 points.

* exact, mid-p: the gates' test (``checks.stats.paired``), without and with ``mid_p``.
* t test: Student's on the differences, for comparison with the next two, which rest on it.
* adjusted: CUPED as in experiments with two groups of users. The difference is regressed on main's and the base's
  scores, and the residual variance counts. But both models answer the same rows: at the rows' own means the regression
  gives the mean difference again, and the variance between kinds of rows is left out of the error.
* adjusted, means known: the same with the covariates' true means, as from very many more labelled rows.
* draws: four answers to each row, of which one is right with a probability of the row's own; their mean is the score.
* any time: the betting test of ``checks.stats.anytime``, which allows looks while rows come.
* rows saved: how many rows less each offered way needs for a power of 80 % than the gates' test of one answer a row.
* shrunk slices: is a slice of a fifth of the rows better, by an estimate that is shrunk towards all rows
  (James and Stein, 1961)? At its level this slice gains nothing, and all others gain 5 points.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from benchmarks import tables
from checks.stats.anytime import Stream
from checks.stats.paired import compare

Values = NDArray[np.float64]
SIZES, LEVEL, GAIN, DIFFER = (100, 400), 0.05, 0.05, 0.10
POWER, STEP, MOST = 0.8, 10, 1200  # The power to reach, and the multiples of rows that are tried.
RIGHT = {True: 0.5, False: 0.9}  # How often main is right on hard rows and on easy ones.
# The beta distribution of the rows' probabilities: 0.7 on average, and most rows are nearly always right or wrong.
CHANCES = (0.35, 0.15)


def rows(random: np.random.Generator, n: int, gain: float, moved: bool) -> tuple[Values, ...]:
    """Draw scores of candidate, main and base."""
    hard = random.random(n) < 0.5
    new = random.random(n)
    wins, losses = (DIFFER / 2 + gain, DIFFER / 2)
    gained, lost = new < wins, (new >= wins) & (new < wins + losses)
    if moved:  # All gains lie in hard rows, all losses in easy ones. The shares of all rows stay.
        gained, lost = hard & (new < 2 * wins), ~hard & (new < 2 * losses)
    alike = random.random(n) < np.where(hard, RIGHT[True], RIGHT[False])
    main = lost | (alike & ~gained)
    base = random.random(n) < np.where(hard, 0.2, 0.8)
    return tuple(scores.astype(float) for scores in (gained | (main & ~lost), main, base, hard))


@cache
def paired(n: int, wins: int, losses: int, mid_p: bool) -> float:
    """The p-value of the gates' test, which depends on these figures alone."""
    ours, theirs = np.zeros(n), np.zeros(n)
    ours[:wins], theirs[wins : wins + losses] = 1, 1
    return compare(ours, theirs, np.arange(n), 0.0, 1 - LEVEL, mid_p).p


def adjusted(candidate: Values, main: Values, base: Values, means: Values | None) -> float:
    """The p-value of the regression's value at the covariates' means; None: at those of these rows."""
    difference, beside = candidate - main, np.column_stack([main, base])
    centred = np.column_stack(
        [np.ones(len(main)), beside - (beside.mean(axis=0) if means is None else means)]
    )
    weights, *_ = np.linalg.lstsq(centred, difference, rcond=None)
    residual = difference - centred @ weights
    freedom = len(main) - centred.shape[1]
    variance = residual @ residual / freedom * np.linalg.pinv(centred.T @ centred)[0, 0]
    return float(stats.t.sf(weights[0] / math.sqrt(max(variance, 1e-12)), freedom))


def true_means(gain: float, moved: bool) -> Values:
    """The covariates' means over very many rows."""
    _, main, base, _ = rows(np.random.default_rng(1), 1_000_000, gain, moved)
    return np.array([main.mean(), base.mean()])


def binary(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Level and power of the tests of right/wrong answers."""
    for n in SIZES:
        passed = defaultdict[tuple[str, str], int](int)
        for world, gain, moved in (
            ("level", 0.0, False),
            ("moved", 0.0, True),
            ("power", GAIN, False),
        ):
            random, means = np.random.default_rng([seed, n, moved]), true_means(gain, moved)
            for _ in tqdm(range(runs), desc=f"{n} rows, {world}"):
                candidate, main, base, _ = rows(random, n, gain, moved)
                wins, losses = int((candidate > main).sum()), int((candidate < main).sum())
                values = {
                    "exact": paired(n, wins, losses, False),
                    "mid-p": paired(n, wins, losses, True),
                    "t test": float(
                        stats.ttest_1samp(candidate - main, 0.0, alternative="greater").pvalue
                    ),
                    "adjusted": adjusted(candidate, main, base, None),
                    "adjusted, means known": adjusted(candidate, main, base, means),
                    "any time": Stream.of(candidate - main).p_above(0.0),
                }
                for name, p in values.items():
                    passed[name, world] += p <= LEVEL
        for name in dict.fromkeys(name for name, _ in passed):
            shares = (f"{passed[name, world] / runs:.1%}" for world in ("level", "moved", "power"))
            yield n, name, *shares


def drawn(random: np.random.Generator, n: int, times: int, gain: float, mid_p: bool) -> float:
    """The p-value of the gates' test on ``times`` sampled answers to each row."""
    theirs = random.beta(*CHANCES, n)
    ours = np.where(random.random(n) < DIFFER, random.beta(*CHANCES, n), theirs)
    ours = np.where(random.random(n) < gain / 0.3, 1.0, ours)
    one, two = (random.binomial(times, chance) / times for chance in (ours, theirs))
    return compare(one, two, np.arange(n), 0.0, 1 - LEVEL, mid_p).p


def draws(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Level and power of the gates' test on one and on four sampled answers to each row."""
    for n in SIZES:
        for times in (1, 4):
            shares = []
            for gain in (0.0, GAIN):
                random, passed = np.random.default_rng([seed, n, times]), 0
                for _ in tqdm(range(runs // 4), desc=f"{n} rows, {times} draws"):
                    passed += drawn(random, n, times, gain, False) <= LEVEL
                shares.append(f"{passed / (runs // 4):.1%}")
            yield n, times, *shares


def answered_once(
    random: np.random.Generator, n: int, _times: int, gain: float, mid_p: bool
) -> float:
    """The p-value of the gates' test on right and wrong answers."""
    shares = [DIFFER / 2 + gain, DIFFER / 2, 1 - DIFFER - gain]
    wins, losses, _ = random.multinomial(n, shares).tolist()
    return paired(n, wins, losses, mid_p)


def saved(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """The rows that each offered way needs for POWER, and how many fewer they are."""
    for kind, p_value, ways in (
        ("right or wrong", answered_once, [(1, False), (1, True)]),
        ("sampled", drawn, [(1, False), (1, True), (2, False), (4, False), (4, True)]),
    ):
        plain = 0
        for times, mid_p in ways:
            few, enough = 0, MOST // STEP
            while enough - few > 1:
                half = (few + enough) // 2
                random, n = np.random.default_rng([seed, half]), half * STEP
                tried = tqdm(range(runs), desc=f"{kind}, {n} rows")
                shown = sum(p_value(random, n, times, GAIN, mid_p) <= LEVEL for _ in tried)
                few, enough = (few, half) if shown >= POWER * runs else (half, enough)
            rows_needed = enough * STEP
            plain = plain or rows_needed
            name = "mid-p" if mid_p else "exact"
            less = plain - rows_needed
            yield kind, times, name, rows_needed, f"{less} ({less / plain:.0%})"


def slices(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    """Level and power in one of five slices: by its own rows, and shrunk towards all rows."""
    for n in SIZES:
        passed = defaultdict[tuple[str, float], int](int)
        for gain in (0.0, GAIN):
            random = np.random.default_rng([seed, n])
            for _ in tqdm(range(runs), desc=f"{n} rows, slices"):
                parts = [rows(random, n // 5, part, False)[:2] for part in (gain, *[GAIN] * 4)]
                means = [float((ours - theirs).mean()) for ours, theirs in parts]
                errors = [float((ours - theirs).var(ddof=1)) / len(ours) for ours, theirs in parts]
                between = max(0.0, float(np.var(means, ddof=1)) - float(np.mean(errors)))
                weight = between / (between + errors[0]) if between + errors[0] else 0.0
                centre = float(np.mean(means))
                shrunk = centre + weight * (means[0] - centre)
                error = math.sqrt(weight * errors[0] + (1 - weight) ** 2 * sum(errors) / 25)
                ours, theirs = parts[0]
                wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
                passed["own rows", gain] += paired(n // 5, wins, losses, False) <= LEVEL
                passed["shrunk", gain] += float(stats.norm.sf(shrunk / max(error, 1e-9))) <= LEVEL
        for name in ("own rows", "shrunk"):
            yield n, name, *(f"{passed[name, gain] / runs:.1%}" for gain in (0.0, GAIN))


TABLES: tuple[tuple[str, tuple[str, ...], Callable[..., Iterator[tuple[object, ...]]]], ...] = (
    ("One answer to each row", ("rows", "test", "level", "level, moved", "power"), binary),
    ("Sampled answers", ("rows", "draws", "level", "power"), draws),
    (
        "Rows for a power of 80 %",
        ("answers", "of each row", "test", "rows", "rows saved"),
        saved,
    ),
    ("A slice of a fifth of the rows", ("rows", "estimate", "level", "power"), slices),
)


def main() -> None:
    """Print the tables."""
    options = tables.numbers(__doc__ or "", runs=4000, seed=20261201)
    for title, columns, table in TABLES:
        tables.show(title, columns, table(options.runs, options.seed))


if __name__ == "__main__":
    main()
