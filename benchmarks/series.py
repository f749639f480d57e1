"""Does a series of honest releases keep what each release promises? Simulated through the gates' own test.

    python -m benchmarks.series [--runs 1000] [--seed 20261126]

Prints Markdown tables. Looks: how often a model that is no better (or that loses the whole margin) passes at least once
when so many equal models are tried on one test split, with and without a gate of kind `looks`. Overlap: the same when
rows of the split are replaced again and again, with looks counted by digest and by common rows. Creep: twenty proposals
of which each truly loses a little against the release before; what is lost in the end, with a gate against production
alone and with one against the best release too. Seeds: how often a recipe that is no better passes, because its one
training had luck. Recipes: how often that happens when each recipe is trained with several seeds. Sealed: what passes
when somebody trains on the test rows that the comment shows, on the test split and on a sealed split of other rows.

Rows come alone and are right or wrong. Two models differ on one row in ten.

Three tables have what the gates did until November 2026 beside what they do now. Marks: how often the comment's first
line calls one of 20 equal models better. Suites: how often one of them passes a gate about a suite, or about people's
labels. Far tails: how often a gate errs at 5 %, 1 % and 0.25 %, where rows come in groups, or few lose much.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from checks.gates import decided_at
from checks.gates.improves import ImprovesGate
from checks.gates.looks import LooksGate
from checks.gates.non_inferior import NonInferiorGate
from checks.stats import intervals, over_seeds
from checks.stats.assisted import Assisted
from checks.stats.paired import Pairs, compare

Scores = NDArray[np.float64]
CONFIDENCE, MARGIN, BUDGET, MOST = 0.95, 0.05, 0.10, 20
RIGHT, DIFFER = 0.7, 0.10
OF_SEED = 0.07  # share of rows on which a training differs from what its recipe does on average
RELEASES = 20
LOOKS = (1, 5, 20, 50)
KEPT = (0.997, 0.5, 0.16, 0.0)  # share of the rows that the next split keeps
SPLITS = 6
ASKED = (1, 5, 20)


def level(kind: str, most: int, suite: str | None = None) -> tuple[float, float]:
    """The margin and the confidence that a gate of ``kind`` decides with, where ``most`` models may be judged."""
    about = {"metric": "m", "against": "main", "confidence": CONFIDENCE, "suite": suite, "kind": kind}
    gate: ImprovesGate | NonInferiorGate = (
        ImprovesGate.model_validate(about | {"margin": 0.0})
        if kind == "improves"
        else NonInferiorGate.model_validate(about | {"margin": MARGIN})
    )
    asked = decided_at({"asked": gate, "fresh": LooksGate(kind="looks", most=most)})["asked"]
    assert isinstance(asked, (ImprovesGate, NonInferiorGate))
    return (0.0 if kind == "improves" else -MARGIN), asked.confidence


def passes(ours: Scores, theirs: Scores, margin: float, confidence: float) -> bool:
    """Whether the gate's test refutes a difference of ``margin`` or less."""
    return compare(ours, theirs, np.arange(len(ours)), margin, confidence).p <= 1 - confidence


def right(random: np.random.Generator, rows: int) -> Scores:
    """The scores of a model that is right on RIGHT of the rows."""
    return (random.random(rows) < RIGHT).astype(np.float64)


def moved(random: np.random.Generator, scores: Scores, loss: float, differ: float = DIFFER) -> Scores:
    """The scores of another model: its true mean is lower by ``loss``, and a share ``differ`` of the rows differs."""
    mean = scores.mean()
    lost, gained = (differ + loss) / 2 / mean, (differ - loss) / 2 / (1 - mean)
    draws = random.random(len(scores))
    return np.where(scores == 1, draws >= lost, draws < gained).astype(np.float64)


def looks(runs: int, rows: int, random: np.random.Generator) -> Iterator[str]:
    """One row of the table for each kind: the share of series in which one of the first k models passes."""
    for kind, loss, said in (
        ("improves", 0.0, "`improves`, all equal to main"),
        ("non_inferior", MARGIN, f"`non_inferior`, all {MARGIN:.0%} worse, its margin"),
        ("improves", -0.04, "`improves`, one model that is 4 points better"),
    ):
        for most in (1, MOST):
            margin, confidence = level(kind, most)
            counts = LOOKS if loss >= 0 else (1,)
            passed = np.zeros(len(LOOKS))
            for _ in tqdm(range(runs), desc=f"{kind} {most}", leave=False):
                main = right(random, rows)
                first = next(
                    (
                        number
                        for number in range(1, max(counts) + 1)
                        if (most == 1 or number <= most) and passes(moved(random, main, loss), main, margin, confidence)
                    ),
                    None,
                )
                passed += [first is not None and k in counts and first <= k for k in LOOKS]
            shown = [f"{n / runs:.1%}" if k in counts else "" for k, n in zip(LOOKS, passed, strict=True)]
            how = "each alone" if most == 1 else f"`looks`, most {most}"
            yield f"| {said} | {rows} | {how} | {' | '.join(shown)} |"


def marks(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each number of rows: how often the comment calls one of the first k equal models better than main."""
    for rows in (445, 1048):
        found = np.zeros((2, len(LOOKS)))
        for _ in tqdm(range(runs), desc=f"marks {rows}", leave=False):
            main = right(random, rows)
            models = [moved(random, main, 0.0) for _ in range(MOST)]
            for arm, shares in enumerate((1, MOST)):
                confidence, names = 1 - (1 - CONFIDENCE) / shares, np.arange(rows)
                first = next(
                    (k for k, ours in enumerate(models, 1) if _interval(ours, main, names, confidence) > 0), MOST + 1
                )
                found[arm] += [first <= k for k in LOOKS]
        for how, shares_ in zip((f"{CONFIDENCE:.0%}, as before", f"divided among {MOST}"), found / runs, strict=True):
            yield f"| {rows} | {how} | {' | '.join(f'{each:.1%}' for each in shares_[:3])} |"


def _interval(ours: Scores, theirs: Scores, groups: NDArray[np.intp], confidence: float) -> float:
    """The lower end of the interval that the comment shows."""
    return intervals.paired_interval(ours, theirs, groups, confidence).low


def suites(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each kind of scores: how often one of the first k equal models passes."""
    for said, rows in (("answers to a suite", 400), ("people's labels", 200)):
        for how, most in ((f"{CONFIDENCE:.0%}, as before", 1), (f"divided among {MOST}", MOST)):
            passed = np.zeros(3)
            confidence = level("improves", most, "chat")[1]
            for _ in tqdm(range(runs), desc=f"suites {said} {most}", leave=False):
                main = right(random, rows)
                tries = (_suite_passes(said, random, main, confidence) for _ in range(MOST))
                first = next((k for k, one in enumerate(tries, 1) if one), MOST + 1)
                passed += [first <= k for k in LOOKS[:3]]
            yield f"| {said} | {rows} | {how} | {' | '.join(f'{each:.1%}' for each in passed / runs)} |"


def _suite_passes(said: str, random: np.random.Generator, main: Scores, confidence: float) -> bool:
    if said == "answers to a suite":
        return passes(moved(random, main, 0.0), main, 0.0, confidence)
    people = random.choice([-1.0, 0.0, 1.0], len(main), p=[0.075, 0.85, 0.075])
    found = Assisted.of(people, np.zeros(len(main)), np.arange(len(main)))
    return found.p_above(0.0) <= 1 - confidence


def _grouped(random: np.random.Generator, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Right/wrong rows in groups of 1 to 6, of which seven in ten are answered alike."""
    sizes = random.choice([1, 1, 1, 2, 3, 6], rows)
    groups = np.repeat(np.arange(rows), sizes)[:rows]
    draws = np.where((random.random(rows) < 0.7)[groups], random.random(rows)[groups], random.random(rows))
    return (draws < DIFFER / 2).astype(float), ((draws >= DIFFER / 2) & (draws < DIFFER)).astype(float), groups


def _like_f1(random: np.random.Generator, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Graded scores: three rows in ten differ, by up to 1, as often up as down."""
    steps = np.where(random.random(rows) < 0.3, random.uniform(-1, 1, rows), 0.0)
    return np.maximum(steps, 0), np.maximum(-steps, 0), np.arange(rows)


def _few_lose_all(random: np.random.Generator, rows: int) -> tuple[Scores, Scores, NDArray[np.intp]]:
    """Two rows in a hundred lose 1, all others gain 0.02 each: no difference on average."""
    gain = 0.02 / 0.98
    ours = np.where(random.random(rows) < 0.02, 0.0, 1.0)
    return ours, np.where(ours == 1, 1 - gain, 1.0), np.arange(rows)


WORLDS: Mapping[str, Callable[[np.random.Generator, int], tuple[Scores, Scores, NDArray[np.intp]]]] = {
    "right or wrong, in groups of 1 to 6": _grouped,
    "graded, as token F1 is": _like_f1,
    "everyone gains 0.02, 2 % lose 1": _few_lose_all,
}


def far_tails(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each world without a difference: how often a gate errs, without and with Hall's transformation."""
    levels = np.array([0.05, 0.01, 0.0025])
    for said, world in WORLDS.items():
        for rows in (200, 500):
            found = np.zeros((2, len(levels)))
            for _ in tqdm(range(runs), desc=f"far tails {said} {rows}", leave=False):
                ours, theirs, groups = world(random, rows)
                pairs = compare(ours, theirs, np.unique(groups, return_inverse=True)[1], 0.0, CONFIDENCE).pairs
                found += [[p <= each for each in levels] for p in (_without_hall(pairs), pairs.p(0.0, 0.0))]
            shown = (f"{share:.2%}" for share in (found / runs).ravel())
            yield f"| {said} | {rows} | {' | '.join(shown)} |"


def _without_hall(pairs: Pairs) -> float:
    """The p-value of a gate until November 2026."""
    return min(1.0, pairs.score_test(0.0).p(0.0) + pairs.unseen.chance(pairs.wins - pairs.losses))


def overlap(runs: int, rows: int, random: np.random.Generator) -> Iterator[str]:
    """One row of the table for each share of kept rows: how often one of many equal models passes on any split.

    Each next split keeps some rows, chosen by chance. New models are tried on it as long as the gate `looks` lets them.
    """
    margin, confidence = level("improves", MOST)
    for kept in KEPT:
        found = np.zeros(2)  # looks counted by the split's digest, and by common rows
        for _ in tqdm(range(runs), desc=f"overlap {kept}", leave=False):
            splits = [right(random, rows)]
            for _ in range(SPLITS - 1):
                splits.append(np.where(random.random(rows) < kept, splits[-1], right(random, rows)))
            for arm, share in enumerate((0.0, kept)):
                found[arm] += _one_passes(splits, share, margin, confidence, random)
        yield f"| {kept:.1%} | {rows} | {' | '.join(f'{share:.1%}' for share in found / runs)} |"


def _one_passes(
    splits: list[Scores], share: float, margin: float, confidence: float, random: np.random.Generator
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


def sealed(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each case: how often the test split passes a model, and the sealed split one of the first k models.

    Each proposal is an independent try, until one passes: all that the tries before it have said is that they failed.
    """
    for said, kind, loss, fitted in (
        ("no better; answers of 8 % more test rows learnt by heart", "improves", 0.0, 0.08),
        (f"{MARGIN:.0%} worse; answers of 8 % more test rows learnt by heart", "non_inferior", MARGIN, 0.08),
        ("4 points better", "improves", -0.04, 0.0),
        ("as good", "non_inferior", 0.0, 0.0),
    ):
        margin, confidence = level(kind, MOST)
        for rows in (222, 1000):
            passed, on_test = np.zeros(len(ASKED)), 0
            for _ in tqdm(range(runs), desc=f"sealed {said} {rows}", leave=False):
                test, hidden = right(random, 445), right(random, rows)
                ours = np.maximum(moved(random, test, loss), random.random(445) < fitted / (1 - RIGHT))
                on_test += passes(ours, test, margin, confidence)
                tries = range(1, (max(ASKED) if loss > 0 or fitted else 1) + 1)
                first = next(
                    (k for k in tries if passes(moved(random, hidden, loss), hidden, margin, confidence)), None
                )
                passed += [first is not None and first <= k for k in ASKED]
            counts = ASKED if loss > 0 or fitted else (1,)
            shown = [f"{n / runs:.1%}" if k in counts else "" for k, n in zip(ASKED, passed, strict=True)]
            yield f"| {said} | `{kind}` | {rows} | {on_test / runs:.1%} | {' | '.join(shown)} |"


def creep(runs: int, rows: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each true loss: what RELEASES proposals lose in all, and how many of them are released."""
    for loss in (0.0, 0.01, 0.02):
        for anchored in (False, True):
            lost, released = np.zeros(runs), np.zeros(runs)
            for run in tqdm(range(runs), desc=f"creep {loss} {anchored}", leave=False):
                production = best = right(random, rows)
                for _ in range(RELEASES):
                    proposed = moved(random, production, loss)
                    if not passes(proposed, production, -MARGIN, CONFIDENCE):
                        continue
                    if anchored and not passes(proposed, best, -BUDGET, CONFIDENCE):
                        continue
                    production, released[run] = proposed, released[run] + 1
                    best = production if production.mean() > best.mean() else best
                lost[run] = loss * released[run]
            gates = f"production {MARGIN:g}" + (f" and best {BUDGET:g}" if anchored else "")
            worst = np.quantile(lost, 0.95)
            yield (
                f"| {100 * loss:g} | {rows} | {gates} | {released.mean():.1f} | {100 * lost.mean():.1f} | "
                f"{100 * worst:.1f} |"
            )


def seeds(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each spread: how often a recipe that is no better passes `improves` through one training."""
    for rows in (445, 1048, 10_000):
        shares = []
        for spread in (0.0, 0.01, 0.02):
            passed = 0
            for _ in tqdm(range(runs), desc=f"seeds {rows} {spread}", leave=False):
                main = right(random, rows)
                luck = float(np.clip(random.normal(0, spread * 2**0.5), -0.08, 0.08))  # of both trainings
                passed += passes(moved(random, main, -luck), main, 0.0, CONFIDENCE)
            shares.append(f"{passed / runs:.1%}")
        yield f"| {rows} | {' | '.join(shares)} |"


def trained(random: np.random.Generator, recipe: Scores, spread: float, seeds: int) -> Scores:
    """The scores of trainings of one recipe: each has luck of its own, and is another on some of the rows."""
    luck = np.clip(random.normal(0, spread, seeds), -OF_SEED, OF_SEED)
    return np.stack([moved(random, recipe, -float(each), OF_SEED) for each in luck])


def claims(one: Scores, two: Scores, margin: float) -> tuple[bool, bool, bool]:
    """Whether each says that ``one`` is above ``two`` by more than ``margin``: a gate, seeds alone, seeds and rows."""
    means = [np.repeat(each.mean(axis=1, keepdims=True), 2, axis=1) for each in (one, two)]  # rows that do not differ
    alone = over_seeds.difference(means[0], means[1], ["0", "1"], 2 * CONFIDENCE - 1)
    both = over_seeds.difference(one, two, [str(row) for row in range(one.shape[1])], 2 * CONFIDENCE - 1)
    return (
        passes(one[0], two[0], margin, CONFIDENCE),
        alone is not None and alone.low > margin,
        both is not None and both.low > margin,
    )


def recipes(runs: int, random: np.random.Generator) -> Iterator[str]:
    """One row for each case: how often a gate on one training each, and several seeds, claim something of recipes."""
    for said, loss, differ, margin in (
        ("better: equal recipes", 0.0, 0.04, 0.0),
        ("not 5 points worse: 5 points worse", 0.05, 0.09, -0.05),
        ("better: 4 points better", -0.04, 0.08, 0.0),
    ):
        for rows in (393, 1048):
            for spread in (0.0, 0.01, 0.02):
                shares: list[str] = []
                for number in (3, 5):
                    found = np.zeros(3)
                    for _ in tqdm(range(runs), desc=f"recipes {said} {rows} {spread} {number}", leave=False):
                        two = right(random, rows)
                        ours = trained(random, moved(random, two, loss, differ), spread, number)
                        found += claims(ours, trained(random, two, spread, number), margin)
                    shares += [f"{share / runs:.1%}" for share in (found[1:] if shares else found)]
                yield f"| {said} | {rows} | {100 * spread:g} | {' | '.join(shares)} |"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulated series of each case")
    parser.add_argument("--seed", type=int, default=20261126, help="of all random numbers")
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    print(f"Seed {given.seed}, {given.runs} runs, confidence {CONFIDENCE:.0%}.\n\n## Looks\n")
    print(f"| models tried | rows | decided | {' | '.join(f'{k} tried' for k in LOOKS)} |")
    print(("| --- | ---: | --- | " + "---: | " * len(LOOKS)).rstrip())
    for rows in (445, 1048):
        print("\n".join(looks(given.runs, rows, random)), flush=True)
    print(f"\n## Marks\n\n| rows | intervals | {' | '.join(f'{k} tried' for k in LOOKS[:3])} |")
    print("| ---: | --- | ---: | ---: | ---: |")
    print("\n".join(marks(given.runs, np.random.default_rng(given.seed))), flush=True)
    print(f"\n## Suites\n\n| scores | samples | decided | {' | '.join(f'{k} tried' for k in LOOKS[:3])} |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    print("\n".join(suites(given.runs, np.random.default_rng(given.seed))), flush=True)
    print(
        "\n## Far tails\n\n| no difference, and | rows | before, at 5 % | at 1 % | at 0.25 % | now, at 5 % | at 1 % "
        "| at 0.25 % |\n| --- |" + " ---: |" * 7
    )
    print("\n".join(far_tails(6 * given.runs, np.random.default_rng(given.seed))), flush=True)
    print(f"\n## Overlap\n\n| rows that the next of {SPLITS} splits keeps | rows | by digest | by common rows |")
    print("| ---: | ---: | ---: | ---: |")
    print("\n".join(overlap(given.runs, 1048, np.random.default_rng(given.seed))), flush=True)
    print(
        "\n## Creep\n\n| true loss of each, points | rows | gates, with margin | released of 20 | lost | lost, 95 % |"
    )
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for rows in (445, 1048):
        print("\n".join(creep(given.runs // 2, rows, random)), flush=True)
    print("\n## Seeds\n\n| rows | no spread | spread 1 point | 2 points |\n| ---: | ---: | ---: | ---: |")
    print("\n".join(seeds(given.runs, random)))
    print(
        "\n## Recipes\n\n| claimed: true | rows | spread, points | a gate, one training each | 3 seeds alone "
        "| 3 seeds and rows | 5 seeds alone | 5 seeds and rows |\n| --- |" + " ---: |" * 7
    )
    print("\n".join(recipes(given.runs, np.random.default_rng(given.seed))))
    print(
        "\n## Sealed\n\n| the model | gate | sealed rows | passes on 445 test rows "
        f"| {' | '.join(f'sealed, {k} asked' for k in ASKED)} |\n| --- | --- |" + " ---: |" * (2 + len(ASKED))
    )
    print("\n".join(sealed(given.runs, np.random.default_rng(given.seed))))


if __name__ == "__main__":
    main()
