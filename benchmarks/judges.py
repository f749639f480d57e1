"""How often gates err that rest on a judge, on people, or on people assisted by a judge: simulated releases.

    python -m benchmarks.judges [--runs 1000] [--seed 20261126]

The gates are the real ones: each release is evidence as the stages leave it, through
``checks.decision.judging``. 500 rows; people find one model's answer better on 15 % of them, and on 45 % the answers
differ but are as good. People label 100 or 200 rows that are drawn at random. The judge says what people say with the
probability that a column names; where the answers are as good, it calls them a tie so often. Rows come alone, or in
groups of 1 to 6, of which people and judge say the same of all rows in seven of ten. The judge likes the longer
answer: the candidate's are longer by one standard deviation, which adds ``bias`` to the logarithm of the odds that it
is preferred.

* naive: what a gate on the judge's mean would do, by the test of all paired gates (``checks.stats.paired``) on all
  rows.
* McNemar: people's labels alone, by McNemar's exact test.
* people: the gate without a judge. assisted: the gate with one. textbook: PPI++ without what ``checks.stats.assisted``
  adds.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import tables
from benchmarks.forgetting import OTHER, PARITY, ZERO
from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.evaluation.comparisons import drawn
from checks.formats.evidence import Evidence, Reports
from checks.formats.judgements import answer_sha
from checks.formats.suite_report import Judgement, Role, SuiteLine, SuiteResult, SuitesReport
from checks.formats.verdict import Finding
from checks.kinds.suite import Draw
from checks.records.rows import Message, Prediction, Row
from checks.stats.paired import compare
from checks.storage import digest

Values = NDArray[np.float64]
ROWS, TIES, LEVEL = 500, 0.45, 0.05
ANSWERS = ("ours", "theirs")
RULES = ("naive", "McNemar", "people", "assisted", "textbook")


class World(NamedTuple):
    """Shares of rows where people prefer the candidate or the reference; the judge; how many rows people label."""

    wins: float
    losses: float
    right: float = 0.8
    bias: float = 0.0
    labels: int = 100
    margin: float | None = None  # of non_inferior; None: improves by more than 0
    grouped: bool = False


def params(world: World) -> Params:
    """The default parameters with a gate of people alone, and one that the judge assists."""
    default = params_file.load().model_dump(mode="json", by_alias=True)
    judge = {
        "kind": "openai", "url_from": "JUDGE", "model": "judge", "prompt": "$left $right", "value": "(left|right|tie)",
        "seed": 1, "max_tokens": 1,
    }  # fmt: skip
    default["suites"] = {
        "chat": {
            "kind": "pairwise", "question": "Which is better?", "against": "base", "rows": world.labels, "seed": 1,
            "labels": {"uri": "labels", "sha256": "0" * 64, "license": None}, "judge": judge,
        }
    }  # fmt: skip
    asked = {"suite": "chat", "metric": "human", "against": "base", "confidence": 1 - LEVEL}
    kind = "improves" if world.margin is None else "non_inferior"
    asked |= {"kind": kind, "margin": world.margin or 0.0}
    default["gates"] = {"people": asked, "assisted": asked | {"assisted_by": "judge"}}
    return Params.model_validate(default)


def said(world: World, random: Any) -> tuple[Values, Values, NDArray[np.bool_]]:
    """What people and the judge say of each row, and where the answers differ."""
    groups = GROUPS if world.grouped else np.arange(ROWS)
    alike = np.where((random.random(ROWS) < TOGETHER)[groups], _first(groups), np.arange(ROWS))
    kinds = random.choice(
        4, ROWS, p=[world.wins, world.losses, TIES, 1 - world.wins - world.losses - TIES]
    )[alike]
    people = np.select([kinds == 0, kinds == 1], [1.0, -1.0], 0.0)
    odds = np.log(world.right / (1 - world.right)) * people + world.bias
    judge = np.where(random.random(ROWS)[alike] < 1 / (1 + np.exp(-odds)), 1.0, -1.0)
    judge[(kinds == 3) | ((kinds == 2) & (random.random(ROWS)[alike] < world.right))] = 0.0
    return people, judge, kinds != 3


def _first(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first row of each row's group."""
    return np.unique(groups, return_index=True)[1][groups]


class Release:
    """Rows, answers and judgements, as the stages leave them."""

    def __init__(self, asked: Params, groups: NDArray[np.intp]) -> None:
        self.asked = asked
        self.rows = tuple(
            Row(
                id=str(i), messages=(Message(role="user", content=str(i)),), reference="", group=str(group),
                slice="all", source="",
            )
            for i, group in enumerate(groups)
        )  # fmt: skip
        self.shas = [answer_sha(text) for text in ANSWERS]
        self.answers = {
            text: [
                Prediction(
                    id=row.id, prompt="", prediction=text, reference="", score=0.0, scores={}, group=row.group,
                    slice="all",
                )
                for row in self.rows
            ]
            for text in ANSWERS
        }  # fmt: skip
        self.judgements: dict[tuple[str, str, float, bool], Judgement] = {}
        self.evidence = _evidence(asked, self.rows)

    def findings(
        self, people: Values, judge: Values, differ: NDArray[np.bool_]
    ) -> Mapping[str, Finding]:
        """What the gates find."""
        suite = self.asked.suites["chat"]
        assert suite.draw is not None  # it is pairwise
        chosen = {row.id for row in drawn(self.rows, suite.draw)}
        judgements = list[Judgement]()
        for at, row in enumerate(self.rows):
            if not differ[at]:
                continue
            if row.id in chosen:
                judgements.append(self._judgement(row, "human", people[at], False))
            judgements += [
                self._judgement(row, "judge", judge[at], turned) for turned in (False, True)
            ]
        ours, theirs = (self.answers[text] for text in ANSWERS)
        answers = {
            "candidate": tuple(ours),
            "base": tuple((theirs if differ[at] else ours)[at] for at in range(ROWS)),
        }
        evidence = replace(self.evidence, answers=answers, judgements={"chat": tuple(judgements)})
        found = judging.judge(self.asked, evidence)
        return {finding.gate: finding for finding in found.findings}

    def _judgement(self, row: Row, by: Any, better: float, turned: bool) -> Judgement:
        key = (row.id, by, float(better), turned)
        if key not in self.judgements:
            first, second = self.shas[::-1] if turned else self.shas
            value = (1 + (-better if turned else better)) / 2
            self.judgements[key] = Judgement.model_construct(
                sample=row.id,
                answer_sha=first,
                other_sha=second,
                by=by,
                value=value,
                judge=by,
                prompt_sha=None,
            )
        return self.judgements[key]


def _evidence(asked: Params, rows: tuple[Row, ...]) -> Evidence:
    """All that is the same in each release."""
    models: dict[Role, str] = {"candidate": ZERO, "base": OTHER}
    lines = tuple(
        SuiteLine.model_construct(
            sample=row.id, sample_sha=ZERO, model=model, metric="judge", value=0.5, group=row.group, slice="all",
            source="judge", source_digest=ZERO,
        )
        for model in models.values() for row in rows
    )  # fmt: skip
    result = SuiteResult(
        kind="pairwise", asked=digest.of_json(asked.suites["chat"].model_dump(mode="json")), source="judge", lines=ZERO,
        samples=len(rows), models=models, means={}, files={}, judgements=ZERO,
    )  # fmt: skip
    reports = Reports(
        fetch=None, prepare=None, data=None, train=None, parity=PARITY, references=None, evaluation=None, noise=None,
        suites=SuitesReport(suites={"chat": result}),
    )  # fmt: skip
    return Evidence(
        reports,
        train=(),
        test=rows,
        answers={},
        gaps={},
        breaks=(),
        judged={},
        suites={"chat": lines},
    )


def textbook(people: Values, judge: Values, bound: float) -> float:
    """The p-value of PPI++ as the paper has it, with Student's t; ``people`` is NaN where nobody labelled."""
    from scipy.stats import t

    known = ~np.isnan(people)
    human, ours, rest = people[known], judge[known], judge[~known]
    n, others, spread = len(human), len(rest), np.var(judge, ddof=1)
    weight = (
        min(max(np.cov(human, ours)[0, 1] / ((1 + n / others) * spread), 0), 1) if spread else 0.0
    )
    effect = human.mean() - weight * (ours.mean() - rest.mean())
    squared = np.var(human - weight * ours, ddof=1) / n + weight**2 * np.var(rest, ddof=1) / others
    return float(t.sf((effect - bound) / max(np.sqrt(squared), 1e-12), n - 1))


def rates(world: World, runs: int, seed: int) -> dict[str, float]:
    """Shares of ``runs`` releases that pass, by each rule."""
    random = np.random.default_rng([seed, *(int(1000 * (value or 0)) for value in world[:6])])
    asked = params(world)
    release = Release(asked, GROUPS if world.grouped else np.arange(ROWS))
    passed, bound = Counter[str](), -(world.margin or 0.0)
    chosen = {row.id for row in drawn(release.rows, Draw(1, world.labels))}
    labelled = np.array([row.id in chosen for row in release.rows])
    for _ in range(runs):
        people, judge, differ = said(world, random)
        for name, finding in release.findings(people, judge, differ).items():
            assert finding.p is not None  # as many labels as the test needs
            passed[name] += finding.p <= LEVEL  # each gate as if it were the only one
        known = np.where(labelled, people, np.nan)
        passed["textbook"] += textbook(known, judge, bound) <= LEVEL
        for name, values in (("naive", judge), ("McNemar", people[labelled])):
            alone = np.arange(len(values))
            won, lost = (values > 0).astype(float), (values < 0).astype(float)
            passed[name] += compare(won, lost, alone, bound, 1 - LEVEL).p <= LEVEL
    return {name: passed[name] / runs for name in RULES}


def table(
    worlds: Mapping[str, Sequence[World]], runs: int, seed: int
) -> Iterator[tuple[object, ...]]:
    """Ask every rule in each world."""
    for name, variants in worlds.items():
        for world in tqdm(variants, desc=name):
            passed = rates(world, runs, seed)
            rows = "in groups" if world.grouped else "alone"
            shares = (f"{passed[rule]:.1%}" for rule in RULES)
            yield name, rows, f"{world.right:.0%}", f"{world.bias:g}", world.labels, *shares


_SIZES = np.random.default_rng(1).choice([1, 1, 1, 2, 3, 6], ROWS)
GROUPS: NDArray[np.intp] = np.repeat(np.arange(ROWS), _SIZES)[:ROWS]
TOGETHER = 0.7  # of the groups
NONE, WORSE, BETTER, MUCH = (0.075, 0.075), (0.05, 0.10), (0.10, 0.05), (0.125, 0.025)
IMPROVES: Mapping[str, Sequence[World]] = {
    "no gain": [
        World(*NONE),
        World(*NONE, bias=0.6),
        World(*NONE, right=0.95, bias=0.3),
        World(*NONE, labels=200),
        World(*NONE, grouped=True),
        World(*NONE, right=0.95, grouped=True),
    ],
    "5 points worse": [World(*WORSE, bias=0.6)],
    "5 points better": [World(*BETTER, right=right) for right in (0.8, 0.9, 0.95)]
    + [World(*BETTER, labels=200)]
    + [World(*BETTER, right=right, grouped=True) for right in (0.8, 0.95)],
    "10 points better": [
        World(*MUCH),
        World(*MUCH, right=0.95),
        World(*MUCH, grouped=True),
        World(*MUCH, right=0.95, grouped=True),
    ],
}
NOT_WORSE: Mapping[str, Sequence[World]] = {
    "5 points worse": [World(*WORSE, margin=0.05), World(*WORSE, bias=0.6, margin=0.05)],
    "5 points worse, nothing better": [
        World(0.0, 0.05, margin=0.05),
        World(0.0, 0.05, labels=200, margin=0.05),
    ],
    "as good": [
        World(*NONE, margin=0.05, labels=200),
        World(*NONE, right=0.95, margin=0.05, labels=200),
    ],
}


def main() -> None:
    """Print both tables."""
    options = tables.numbers(__doc__, runs=1000, seed=20261126)
    columns = ("truth", "rows", "judge is right", "bias", "labels", *RULES)
    tables.show("`improves`: is it better?", columns, table(IMPROVES, options.runs, options.seed))
    tables.show(
        "`non_inferior`, margin 0.05", columns, table(NOT_WORSE, options.runs, options.seed)
    )


if __name__ == "__main__":
    main()
