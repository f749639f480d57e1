"""Does a series of honest releases keep what each release promises? Simulated through the gates' own test.

    python -m benchmarks.series [--runs 1000] [--seed 20261126]

Looks: how often a model that is no better (or that loses the whole margin) passes at least once when so many equal
models are tried on one test split, with and without a gate of kind `looks`. Marks: how often the comment's first line
calls one of 20 equal models better. Far tails: how often a gate errs at 5 %, 1 % and 0.25 %, where rows come in groups,
or few lose much. Overlap: looks when rows of the split are replaced again and again, counted by digest and by common
rows. Creep: twenty proposals of which each truly loses a little against the release before. Seeds: how often a recipe
that is no better passes, because its one training had luck. Recipes: the same when each recipe is trained with several
seeds. Sealed: what passes when somebody trains on the test rows, on the test split and on a sealed split.

Rows come alone and are right or wrong. Two models differ on one row in ten.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import tables
from checks.gates.improves import ImprovesGate
from checks.gates.looks import LooksGate
from checks.gates.non_inferior import NonInferiorGate
from checks.kinds.gate import decided_at
from checks.stats import over_seeds
from checks.stats.paired import compare, two_sided

Random = np.random.Generator
Scores = NDArray[np.float64]
Row = tuple[object, ...]
CONFIDENCE, MARGIN, BUDGET, MOST = 0.95, 0.05, 0.10, 20
RIGHT, DIFFER = 0.7, 0.10
OF_SEED = (
    0.07  # The share of rows on which a training differs from what its recipe does on average.
)
RELEASES = 20
TRIED = (1, 5, 20)
KEPT = (0.997, 0.5, 0.16, 0.0)  # The share of the rows that the next split keeps.
SPLITS = 6


def level(kind: str, most: int) -> tuple[float, float]:
    """Return the margin and the confidence of a gate of ``kind``, where ``most`` models may be judged."""
    about = {"metric": "m", "against": "main", "confidence": CONFIDENCE, "kind": kind}
    gate: ImprovesGate | NonInferiorGate = (
        ImprovesGate.model_validate(about | {"margin": 0.0})
        if kind == "improves"
        else NonInferiorGate.model_validate(about | {"margin": MARGIN})
    )
    decided = decided_at({"asked": gate, "fresh": LooksGate(kind="looks", most=most)})["asked"]
    assert isinstance(decided, (ImprovesGate, NonInferiorGate))
    return (0.0 if kind == "improves" else -MARGIN), decided.confidence


def passes(ours: Scores, theirs: Scores, margin: float, confidence: float) -> bool:
    """Whether the gate's test refutes a difference of ``margin`` or less."""
    return compare(ours, theirs, np.arange(len(ours)), margin, confidence).p <= 1 - confidence


def right(random: Random, rows: int) -> Scores:
    """Draw the scores of a model that is right on RIGHT of the rows."""
    return (random.random(rows) < RIGHT).astype(np.float64)


def moved(random: Random, scores: Scores, loss: float, differ: float = DIFFER) -> Scores:
    """Draw another model: its true mean is lower by ``loss``, and a share ``differ`` of the rows differs."""
    mean = scores.mean()
    lost, gained = (differ + loss) / 2 / mean, (differ - loss) / 2 / (1 - mean)
    draws = random.random(len(scores))
    return np.where(scores == 1, draws >= lost, draws < gained).astype(np.float64)


def first_of(passed: Iterator[bool]) -> list[bool]:
    """Whether one of the first models passes, for each number in TRIED."""
    first = next((number for number, one in enumerate(passed, 1) if one), MOST + 1)
    return [first <= count for count in TRIED]


def shares(counts: NDArray[np.float64], runs: int) -> list[str]:
    """Return the counts as percentages of the runs."""
    return [f"{count / runs:.1%}" for count in counts]


def looks(runs: int, random: Random) -> Iterator[Row]:
    """Try equal models until one passes, with and without the gate `looks`."""
    for rows in (445, 1048):
        for kind, loss, name in (
            ("improves", 0.0, "`improves`, all equal to main"),
            ("non_inferior", MARGIN, "`non_inferior`, all worse by its margin"),
            ("improves", -0.04, "`improves`, 4 points better"),
        ):
            for most in (1, MOST):
                margin, confidence = level(kind, most)
                passed = np.zeros(len(TRIED))
                for _ in tqdm(range(runs), desc=f"{kind} {rows} {most}", leave=False):
                    main = right(random, rows)
                    passed += first_of(
                        passes(moved(random, main, loss), main, margin, confidence)
                        for _ in range(MOST)
                    )
                yield (
                    name,
                    rows,
                    "each alone" if most == 1 else f"`looks`, most {most}",
                    *shares(passed, runs),
                )


def marks(runs: int, random: Random) -> Iterator[Row]:
    """Look at the comment's interval of each of 20 equal models."""
    for rows in (445, 1048):
        passed, groups = np.zeros((2, len(TRIED))), np.arange(rows)
        for _ in tqdm(range(runs), desc=f"marks {rows}", leave=False):
            main = right(random, rows)
            models = [moved(random, main, 0.0) for _ in range(MOST)]
            for place, divided in enumerate((1, MOST)):
                confidence = 1 - (1 - CONFIDENCE) / divided
                differences = (two_sided(main, model, groups, confidence) for model in models)
                passed[place] += first_of(
                    difference is not None and difference.low > 0 for difference in differences
                )
        yield rows, "95 %", *shares(passed[0], runs)
        yield rows, f"divided among {MOST}", *shares(passed[1], runs)


def _grouped(random: Random, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Draw right/wrong rows in groups of 1 to 6, of which seven in ten are answered alike."""
    sizes = random.choice([1, 1, 1, 2, 3, 6], rows)
    groups = np.repeat(np.arange(rows), sizes)[:rows]
    draws = np.where(
        (random.random(rows) < 0.7)[groups], random.random(rows)[groups], random.random(rows)
    )
    return (
        (draws < DIFFER / 2).astype(float),
        ((draws >= DIFFER / 2) & (draws < DIFFER)).astype(float),
        groups,
    )


def _like_f1(random: Random, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Draw graded scores: three rows in ten differ, by up to 1, as often up as down."""
    steps = np.where(random.random(rows) < 0.3, random.uniform(-1, 1, rows), 0.0)
    return np.maximum(steps, 0), np.maximum(-steps, 0), np.arange(rows)


def _few_lose_all(random: Random, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Let two rows in a hundred lose 1, and all others gain 0.02 each: no difference on average."""
    gain = 0.02 / 0.98
    ours = np.where(random.random(rows) < 0.02, 0.0, 1.0)
    return ours, np.where(ours == 1, 1 - gain, 1.0), np.arange(rows)


WORLDS: Mapping[str, Callable[[Random, int], tuple[Scores, Scores, NDArray[np.intp]]]] = {
    "right or wrong, in groups of 1 to 6": _grouped,
    "graded, as token F1 is": _like_f1,
    "everyone gains 0.02, 2 % lose 1": _few_lose_all,
}


def far_tails(runs: int, random: Random) -> Iterator[Row]:
    """Compare models that do not differ on average, at three levels."""
    levels = np.array([0.05, 0.01, 0.0025])
    for name, world in WORLDS.items():
        for rows in (200, 500):
            passed = np.zeros(len(levels))
            for _ in tqdm(range(runs), desc=f"far tails {name} {rows}", leave=False):
                ours, theirs, groups = world(random, rows)
                pairs = compare(
                    ours, theirs, np.unique(groups, return_inverse=True)[1], 0.0, CONFIDENCE
                ).pairs
                passed += pairs.p(0.0, 0.0) <= levels
            yield name, rows, *(f"{share:.2%}" for share in passed / runs)


def overlap(runs: int, random: Random) -> Iterator[Row]:
    """Replace rows of the split again and again, and try new models as long as the gate `looks` lets them."""
    margin, confidence = level("improves", MOST)
    for kept in KEPT:
        passed = np.zeros(
            2
        )  # The columns: looks counted by the split's digest, and by common rows.
        for _ in tqdm(range(runs), desc=f"overlap {kept}", leave=False):
            splits = [right(random, 1048)]
            for _ in range(SPLITS - 1):
                splits.append(np.where(random.random(1048) < kept, splits[-1], right(random, 1048)))
            for place, share in enumerate((0.0, kept)):
                passed[place] += _one_passes(splits, share, margin, confidence, random)
        yield f"{kept:.1%}", *shares(passed, runs)


def _one_passes(
    splits: list[Scores], share: float, margin: float, confidence: float, random: Random
) -> bool:
    """Whether a model passes on one of ``splits``, if it counts as ``share`` of a model on the next split."""
    counted = 0.0
    for main in splits:
        counted *= share
        while 1 + np.ceil(counted - 1e-9) <= MOST:
            counted += 1
            if passes(moved(random, main, 0.0), main, margin, confidence):
                return True
    return False


def creep(runs: int, random: Random) -> Iterator[Row]:
    """Propose RELEASES models, each a little worse than production."""
    for rows in (445, 1048):
        for loss in (0.0, 0.01, 0.02):
            for anchored in (False, True):
                released = np.zeros(runs)
                for run in tqdm(range(runs), desc=f"creep {rows} {loss} {anchored}", leave=False):
                    released[run] = _released(rows, loss, anchored, random)
                gates = f"production {MARGIN:g}" + (f" and best {BUDGET:g}" if anchored else "")
                lost = 100 * loss * released
                figures = (released.mean(), lost.mean(), np.quantile(lost, 0.95))
                yield f"{100 * loss:g}", rows, gates, *(f"{figure:.1f}" for figure in figures)


def _released(rows: int, loss: float, anchored: bool, random: Random) -> int:
    production = best = right(random, rows)
    released = 0
    for _ in range(RELEASES):
        proposed = moved(random, production, loss)
        if not passes(proposed, production, -MARGIN, CONFIDENCE):
            continue
        if anchored and not passes(proposed, best, -BUDGET, CONFIDENCE):
            continue
        production, released = proposed, released + 1
        best = production if production.mean() > best.mean() else best
    return released


def seeds(runs: int, random: Random) -> Iterator[Row]:
    """Let a recipe that is no better pass `improves` through one lucky training."""
    for rows in (445, 1048, 10_000):
        passed = np.zeros(3)
        for place, spread in enumerate((0.0, 0.01, 0.02)):
            for _ in tqdm(range(runs), desc=f"seeds {rows} {spread}", leave=False):
                main = right(random, rows)
                luck = float(
                    np.clip(random.normal(0, spread * 2**0.5), -0.08, 0.08)
                )  # The luck of both trainings.
                passed[place] += passes(moved(random, main, -luck), main, 0.0, CONFIDENCE)
        yield rows, *shares(passed, runs)


def trained(random: Random, recipe: Scores, spread: float, seeds: int) -> Scores:
    """Train one recipe with several seeds: each has luck of its own, and is another on some of the rows."""
    luck = np.clip(random.normal(0, spread, seeds), -OF_SEED, OF_SEED)
    return np.stack([moved(random, recipe, -float(one), OF_SEED) for one in luck])


def claims(one: Scores, two: Scores, margin: float) -> tuple[bool, bool, bool]:
    """Whether a gate, seeds alone, and seeds and rows say that ``one`` is above ``two`` by more than ``margin``."""
    means = [np.repeat(scores.mean(axis=1, keepdims=True), 2, axis=1) for scores in (one, two)]
    alone = over_seeds.difference(means[0], means[1], ["0", "1"], 2 * CONFIDENCE - 1)
    both = over_seeds.difference(
        one, two, [str(row) for row in range(one.shape[1])], 2 * CONFIDENCE - 1
    )
    return (
        passes(one[0], two[0], margin, CONFIDENCE),
        alone is not None and alone.low > margin,
        both is not None and both.low > margin,
    )


def recipes(runs: int, random: Random) -> Iterator[Row]:
    """Claim something of recipes by a gate on one training each, and by several seeds."""
    for name, loss, differ, margin in (
        ("better: equal recipes", 0.0, 0.04, 0.0),
        ("not 5 points worse: 5 points worse", 0.05, 0.09, -0.05),
        ("better: 4 points better", -0.04, 0.08, 0.0),
    ):
        for rows in (393, 1048):
            for spread in (0.0, 0.01, 0.02):
                passed = np.zeros((2, 3))
                for place, number in enumerate((3, 5)):
                    for _ in tqdm(
                        range(runs), desc=f"recipes {name} {rows} {spread} {number}", leave=False
                    ):
                        two = right(random, rows)
                        ours = trained(random, moved(random, two, loss, differ), spread, number)
                        passed[place] += claims(ours, trained(random, two, spread, number), margin)
                yield (
                    name,
                    rows,
                    f"{100 * spread:g}",
                    *shares(passed[0], runs),
                    *shares(passed[1][1:], runs),
                )


def sealed(runs: int, random: Random) -> Iterator[Row]:
    """Propose models that learnt test rows by heart, one after another until one passes, and good models."""
    for name, kind, loss, fitted in (
        ("no better; answers of 8 % more test rows learnt", "improves", 0.0, 0.08),
        ("5 points worse; answers of 8 % more test rows learnt", "non_inferior", MARGIN, 0.08),
        ("4 points better", "improves", -0.04, 0.0),
        ("as good", "non_inferior", 0.0, 0.0),
    ):
        margin, confidence = level(kind, MOST)
        for rows in (222, 1000):
            passed, on_test = np.zeros(len(TRIED)), 0
            for _ in tqdm(range(runs), desc=f"sealed {name} {rows}", leave=False):
                test, hidden = right(random, 445), right(random, rows)
                ours = np.maximum(
                    moved(random, test, loss), random.random(445) < fitted / (1 - RIGHT)
                )
                on_test += passes(ours, test, margin, confidence)
                passed += first_of(
                    passes(moved(random, hidden, loss), hidden, margin, confidence)
                    for _ in range(MOST)
                )
            yield name, f"`{kind}`", rows, f"{on_test / runs:.1%}", *shares(passed, runs)


def main() -> None:
    """Print all tables."""
    options = tables.numbers(__doc__, runs=1000, seed=20261126)
    runs, random = options.runs, np.random.default_rng(options.seed)
    tried = [f"{count} tried" for count in TRIED]
    tables.show("Looks", ("models", "rows", "decided", *tried), looks(runs, random))
    tables.show("Marks", ("rows", "intervals", *tried), marks(runs, random))
    tables.show(
        "Far tails",
        ("no difference, and", "rows", "at 5 %", "1 %", "0.25 %"),
        far_tails(6 * runs, random),
    )
    tables.show("Overlap", ("rows kept", "by digest", "by common rows"), overlap(runs, random))
    lost = ("released of 20", "points lost", "lost, 95 %")
    tables.show(
        "Creep",
        ("loss of each, points", "rows", "gates, with margin", *lost),
        creep(runs // 2, random),
    )
    tables.show("Seeds", ("rows", "no spread", "spread 1 point", "2 points"), seeds(runs, random))
    ways = (
        "one training each",
        "3 seeds alone",
        "3 seeds and rows",
        "5 seeds alone",
        "5 seeds and rows",
    )
    tables.show(
        "Recipes", ("claimed: true", "rows", "spread, points", *ways), recipes(runs, random)
    )
    columns = ("the model", "gate", "sealed rows", "passes on 445 test rows", *tried)
    tables.show("Sealed", columns, sealed(runs, random))


if __name__ == "__main__":
    main()
