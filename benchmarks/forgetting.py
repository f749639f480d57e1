"""How often the gate ``remembers`` errs: simulated losses of texts through the real gate code, beside other tests.

    python -m benchmarks.forgetting [--runs 1000] [--seed 20261126]

Prints Markdown tables. At the allowance: the true loss is the allowance, and at most 5 % may pass. Power: of a smaller
true loss, how often it passes, beside what the finding said. The other tests are Student's t test alone, and a bound of
the BCa bootstrap (``scipy.stats.bootstrap``, 2,000 resamples) on fewer runs.

Shapes of the losses of groups, all with the same mean and variance: even (normal), some lose more (gamma, skewness 1),
few lose much (exponential, skewness 2), very few lose much (lognormal, skewness 6), few lose little (exponential,
mirrored), heavy tails (t with 5 degrees of freedom).

Authors: 24 texts by fewer authors, where half of the variance is the author's, with each text as its own group.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from checks import digest
from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.formats.suite_report import Role, SuiteLine, SuiteResult, SuitesReport
from checks.formats.training_reports import ParityReport
from checks.formats.verdict import Finding
from checks.gating.chain import Evidence, Reports

Values = NDArray[np.float64]

LEVEL, ALLOWANCE, SPREAD, WITHIN = 0.05, 0.2, 0.1, 0.05
GROUPS = (20, 24, 40, 100)
ZERO, OTHER = f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"
PARITY = ParityReport(
    base=OTHER, adapter=ZERO, merged=ZERO, files={}, prompts=1, positions=1, max_logprob_diff=0.0,
    mean_logprob_diff=0.0, top1=1.0,
)  # fmt: skip
_E = np.exp(1)
SHAPES: Mapping[str, Callable[[Any, Any], Values]] = {
    "even": lambda random, size: random.normal(size=size),
    "some lose more": lambda random, size: (random.gamma(4, 1, size) - 4) / 2,
    "few lose much": lambda random, size: random.exponential(1, size) - 1,
    "very few lose much": lambda random, size: (np.exp(random.normal(size=size)) - _E**0.5) / (_E**2 - _E) ** 0.5,
    "few lose little": lambda random, size: 1 - random.exponential(1, size),
    "heavy tails": lambda random, size: random.standard_t(5, size) * 0.6**0.5,
}


def params(allowance: float) -> Params:
    """The default parameters with the one gate."""
    default = params_file.load().model_dump(mode="json", by_alias=True)
    default["suites"] = {
        "texts": {
            "kind": "loss", "text": {"uri": "texts.jsonl", "sha256": "0" * 64, "license": None}, "precision": "bf16",
            "models": ["candidate", "base"],
        }
    }  # fmt: skip
    default["gates"] = {
        "it": {
            "kind": "remembers", "suite": "texts", "metric": "bits-per-byte", "against": "base", "allowance": allowance,
            "confidence": 1 - LEVEL,
        }
    }  # fmt: skip
    return Params.model_validate(default)


def evidence(asked: Params, differences: Values, groups: NDArray[np.intp]) -> Evidence:
    """What ``chain.gather`` would have read of a base that needs 1 bit per byte, and of a candidate that needs more."""
    values: dict[Role, Values] = {"candidate": 1 + differences, "base": np.ones(len(differences))}
    lines = tuple(
        SuiteLine.model_construct(
            sample=str(i), sample_sha=ZERO, model=ZERO if role == "candidate" else OTHER, metric="bits-per-byte",
            value=float(value), group=str(groups[i]), slice="all", source="pure", source_digest=ZERO,
        )
        for role, found in values.items() for i, value in enumerate(found)
    )  # fmt: skip
    result = SuiteResult(
        kind="loss", asked=digest.of_json(asked.suites["texts"].model_dump(mode="json")), source="pure", lines=ZERO,
        samples=len(differences), models={"candidate": ZERO, "base": OTHER}, means={}, files={}, chance=4.0,
    )  # fmt: skip
    reports = Reports(
        fetch=None, prepare=None, data=None, train=None, parity=PARITY, references=None, evaluation=None, noise=None,
        suites=SuitesReport(suites={"texts": result}),
    )  # fmt: skip
    return Evidence(reports, train=(), test=(), answers={}, gaps={}, breaks=(), judged={}, suites={"texts": lines})


def finding(differences: Values, groups: NDArray[np.intp], allowance: float, asked: Params | None = None) -> Finding:
    """The gate's finding where the loss of each text grew by ``differences``."""
    asked = asked or params(allowance)
    (found,) = judging.judge(asked, evidence(asked, differences, groups)).findings
    return found


def drawn(shape: str, groups: int, texts: int, loss: float, random: Any) -> tuple[Values, NDArray[np.intp]]:
    """Differences of ``groups`` groups of up to ``texts`` texts, and their groups."""
    means = loss + SPREAD * SHAPES[shape](random, groups)
    sizes = np.ones(groups, np.intp) if texts == 1 else random.integers(1, texts + 1, groups)
    which = np.repeat(np.arange(groups), sizes)
    within = WITHIN * random.normal(size=len(which)) if texts > 1 else 0.0
    return np.maximum(means[which] + within, -1.0), which


def rate(shape: str, groups: int, texts: int, loss: float, allowance: float, runs: int, seed: int) -> dict[str, float]:
    """Shares of ``runs`` releases that pass, fail, are inconclusive; and that Student's t test alone would pass."""
    from scipy.stats import ttest_1samp

    asked, random = params(allowance), np.random.default_rng([seed, groups, texts, list(SHAPES).index(shape)])
    seen: Counter[str] = Counter()
    for _ in range(runs):
        values, which = drawn(shape, groups, texts, loss, random)
        seen[finding(values, which, allowance, asked).status] += 1
        means = np.bincount(which, values) / np.bincount(which)
        seen["t"] += bool(ttest_1samp(means, allowance, alternative="less").pvalue <= LEVEL)
    return {name: seen[name] / runs for name in ("pass", "fail", "inconclusive", "t")}


def bca(shape: str, groups: int, runs: int, seed: int) -> float:
    """Of releases whose true loss is the allowance: the share whose upper BCa bound is below it, so that they pass."""
    from scipy.stats import bootstrap

    random, passed = np.random.default_rng([seed, groups, list(SHAPES).index(shape)]), 0
    for _ in range(runs):
        values, _ = drawn(shape, groups, 1, ALLOWANCE, random)
        found = bootstrap((values,), np.mean, n_resamples=2000, confidence_level=1 - 2 * LEVEL, rng=random)
        passed += bool(found.confidence_interval.high < ALLOWANCE)
    return passed / runs


def level(runs: int, seed: int) -> Iterator[str]:
    """The true loss is the allowance itself: at most 5 % may pass."""
    yield "| losses | groups | texts in a group | passes | t test alone | BCa bootstrap | fails |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    cases = [(shape, groups, 1) for shape in SHAPES for groups in GROUPS] + [("few lose much", 24, 6)]
    for shape, groups, texts in tqdm(cases, desc="level"):
        found = rate(shape, groups, texts, ALLOWANCE, ALLOWANCE, runs, seed)
        boot = f"{bca(shape, groups, runs // 4, seed):.1%}" if texts == 1 and groups == 24 else ""
        each = "1" if texts == 1 else f"1 to {texts}"
        yield f"| {shape} | {groups} | {each} | {found['pass']:.1%} | {found['t']:.1%} | {boot} | {found['fail']:.1%} |"


def authors(runs: int, seed: int) -> Iterator[str]:
    """The true loss is the allowance over texts of all authors, and the texts are by few: how often they pass."""
    yield "| authors of 24 texts | each text its own group | author as group |"
    yield "| ---: | ---: | --- |"
    asked, half = params(ALLOWANCE), SPREAD * 0.5**0.5
    for count in tqdm((24, 8, 4, 1), desc="authors"):
        random, seen = np.random.default_rng([seed, count]), Counter[tuple[int, str]]()
        for _ in range(runs):
            by = np.arange(24) % count
            values = ALLOWANCE + half * (random.normal(size=count)[by] + random.normal(size=24))
            for which, groups in enumerate((np.arange(24), by)):
                seen[which, finding(values, groups, ALLOWANCE, asked).status] += 1
        by_author = f"{seen[1, 'pass'] / runs:.1%}" if seen[1, "pass"] else "inconclusive: too few groups"
        yield f"| {count} | {seen[0, 'pass'] / runs:.1%} | {by_author} |"


def power(runs: int, seed: int) -> Iterator[str]:
    """The true loss is smaller: by a fixed number, and by what findings say that these groups see."""
    yield "| losses | groups | below the allowance by | passes | below by what `detectable` says | passes |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for shape in tqdm(("even", "some lose more", "few lose much"), desc="power"):
        for groups in GROUPS:
            random = np.random.default_rng([seed, groups])
            said = [finding(*drawn(shape, groups, 1, 0.0, random), ALLOWANCE).detectable or 0.0 for _ in range(200)]
            by, detectable = 0.05, float(np.median(said))
            power, power_there = (
                rate(shape, groups, 1, ALLOWANCE - less, ALLOWANCE, runs // 4, seed)["pass"]
                for less in (by, detectable)
            )
            yield f"| {shape} | {groups} | {by} | {power:.1%} | {detectable:.3f} | {power_there:.1%} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="releases of a case; a quarter as many of BCa and power")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args(arguments)
    print(f"Seed {options.seed}, {options.runs} runs, allowance {ALLOWANCE}, standard deviation {SPREAD}.")
    for name, table in {"At the allowance": level, "Authors": authors, "Power": power}.items():
        print(f"\n### {name}\n")
        for line in table(options.runs, options.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
