"""How often the gate ``remembers`` errs: simulated losses of texts through the real gate code, beside a t test.

    python -m benchmarks.forgetting [--runs 1000] [--seed 20261126]

At the allowance: the true loss is the allowance, and at most 5 % may pass. Student's t test alone stands beside. Power:
how often a smaller true loss passes.

Shapes of the losses of groups, all with the same mean and variance: even (normal), some lose more (gamma, skewness 1),
few lose much (exponential, skewness 2), very few lose much (lognormal, skewness 6), few lose little (exponential,
mirrored), heavy tails (t with 5 degrees of freedom).

Authors: 24 texts by fewer authors, where half of the variance is the author's, with each text as its own group.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import tables
from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.formats.evidence import Evidence, Reports
from checks.formats.suite_report import Role, SuiteLine, SuiteResult, SuitesReport
from checks.formats.training_reports import ParityReport
from checks.formats.verdict import Finding
from checks.storage import digest

Values = NDArray[np.float64]
Row = tuple[object, ...]

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
    "very few lose much": lambda random, size: (
        (np.exp(random.normal(size=size)) - _E**0.5) / (_E**2 - _E) ** 0.5
    ),
    "few lose little": lambda random, size: 1 - random.exponential(1, size),
    "heavy tails": lambda random, size: random.standard_t(5, size) * 0.6**0.5,
}


def params(allowance: float) -> Params:
    """Return the default parameters with the one gate."""
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


def evidence(parameters: Params, differences: Values, groups: NDArray[np.intp]) -> Evidence:
    """Return evidence of a base that needs 1 bit per byte, and of a candidate that needs more."""
    values: dict[Role, Values] = {"candidate": 1 + differences, "base": np.ones(len(differences))}
    lines = tuple(
        SuiteLine.model_construct(
            sample=str(i), sample_sha=ZERO, model=ZERO if role == "candidate" else OTHER, metric="bits-per-byte",
            value=float(value), group=str(groups[i]), slice="all", source="pure", source_digest=ZERO,
        )
        for role, losses in values.items() for i, value in enumerate(losses)
    )  # fmt: skip
    asked = digest.of_json(parameters.suites["texts"].model_dump(mode="json"))
    result = SuiteResult(
        kind="loss", asked=asked, source="pure", lines=ZERO,
        samples=len(differences), models={"candidate": ZERO, "base": OTHER}, means={}, files={}, chance=4.0,
    )  # fmt: skip
    reports = Reports(
        fetch=None, prepare=None, data=None, train=None, parity=PARITY, references=None, evaluation=None, noise=None,
        suites=SuitesReport(suites={"texts": result}),
    )  # fmt: skip
    return Evidence(
        reports,
        train=(),
        test=(),
        answers={},
        gaps={},
        breaks=(),
        judged={},
        suites={"texts": lines},
    )


def finding(
    differences: Values, groups: NDArray[np.intp], allowance: float, given: Params | None = None
) -> Finding:
    """Return the gate's finding where the loss of each text grew by ``differences``."""
    parameters = given or params(allowance)
    (finding,) = judging.judge(parameters, evidence(parameters, differences, groups)).findings
    return finding


def drawn(
    shape: str, groups: int, texts: int, loss: float, random: Any
) -> tuple[Values, NDArray[np.intp]]:
    """Draw differences of ``groups`` groups of up to ``texts`` texts, and their groups."""
    means = loss + SPREAD * SHAPES[shape](random, groups)
    sizes = np.ones(groups, np.intp) if texts == 1 else random.integers(1, texts + 1, groups)
    which = np.repeat(np.arange(groups), sizes)
    within = WITHIN * random.normal(size=len(which)) if texts > 1 else 0.0
    return np.maximum(means[which] + within, -1.0), which


def rate(
    shape: str, groups: int, texts: int, loss: float, allowance: float, runs: int, seed: int
) -> dict[str, float]:
    """Return shares of ``runs`` releases that pass and fail, and that Student's t test alone passes."""
    from scipy.stats import ttest_1samp

    parameters, random = (
        params(allowance),
        np.random.default_rng([seed, groups, texts, list(SHAPES).index(shape)]),
    )
    counts: Counter[str] = Counter()
    for _ in range(runs):
        values, which = drawn(shape, groups, texts, loss, random)
        counts[finding(values, which, allowance, parameters).status] += 1
        means = np.bincount(which, values) / np.bincount(which)
        counts["t"] += bool(ttest_1samp(means, allowance, alternative="less").pvalue <= LEVEL)
    return {name: counts[name] / runs for name in ("pass", "fail", "t")}


def level(runs: int, seed: int) -> Iterator[Row]:
    """Let the true loss be the allowance itself: at most 5 % may pass."""
    cases = [(shape, groups, 1) for shape in SHAPES for groups in GROUPS] + [
        ("few lose much", 24, 6)
    ]
    for shape, groups, texts in tqdm(cases, desc="level"):
        shares = rate(shape, groups, texts, ALLOWANCE, ALLOWANCE, runs, seed)
        yield shape, groups, texts, *(f"{shares[name]:.1%}" for name in ("pass", "t", "fail"))


def authors(runs: int, seed: int) -> Iterator[Row]:
    """Let the true loss be the allowance over texts of all authors, where the texts are by few."""
    parameters, half = params(ALLOWANCE), SPREAD * 0.5**0.5
    for count in tqdm((24, 8, 4, 1), desc="authors"):
        random, passed = np.random.default_rng([seed, count]), 0
        for _ in range(runs):
            of_authors = random.normal(size=count)[np.arange(24) % count]
            values = ALLOWANCE + half * (of_authors + random.normal(size=24))
            passed += finding(values, np.arange(24), ALLOWANCE, parameters).status == "pass"
        yield count, f"{passed / runs:.1%}"


def power(runs: int, seed: int) -> Iterator[Row]:
    """Let the true loss be smaller, by what findings say that these groups see."""
    for shape in tqdm(("even", "some lose more", "few lose much"), desc="power"):
        for groups in GROUPS:
            random = np.random.default_rng([seed, groups])
            pilots = (finding(*drawn(shape, groups, 1, 0.0, random), ALLOWANCE) for _ in range(200))
            detectable = float(np.median([pilot.detectable or 0.0 for pilot in pilots]))
            shares = rate(
                shape, groups, 1, ALLOWANCE - detectable, ALLOWANCE, max(1, runs // 4), seed
            )
            yield shape, groups, f"{detectable:.3f}", f"{shares['pass']:.1%}"


def main() -> None:
    """Print every table."""
    options = tables.numbers(__doc__, runs=1000, seed=20261126)
    shown = ("passes", "t test alone", "fails")
    tables.show(
        "At the allowance",
        ("losses", "groups", "texts in a group", *shown),
        level(options.runs, options.seed),
    )
    tables.show("Authors", ("authors of 24 texts", "passes"), authors(options.runs, options.seed))
    columns = ("losses", "groups", "below the allowance by `detectable`", "passes")
    tables.show("Power", columns, power(options.runs, options.seed))


if __name__ == "__main__":
    main()
