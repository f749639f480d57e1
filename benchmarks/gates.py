"""Do the gates keep their promises? Simulated releases through the real gate code, beside two naive rules.

    python -m benchmarks.gates [--runs 1000] [--seed 20261124]

A/A: releases of an unchanged model, none of which should be called worse. At the edge: the true loss is the margin, and
at most 5 % may pass. Planted: losses of 1 to 10 points, beside a comparison of two floats and a z-test that ignores the
pairing. Power: what was promised, and what came. Speed: 20 gates over 100,000 pairs. ``benchmarks.gate_layouts`` prints
the tables of uneven and few groups.

Every simulated row has a right and a wrong answer. A release picks one of them for each row, so that the gates score
text, as ever. Rows of one group are answered alike in seven groups of ten.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist, median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import gate_layouts, tables
from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport, NoiseRun
from checks.formats.evidence import Evidence, Reports
from checks.formats.verdict import Finding
from checks.records.rows import Message, Prediction, Row

CONFIDENCE = 0.95
SIZES = (200, 500, 2000)
LOSSES = (0.01, 0.02, 0.05, 0.10)
MARGINS = (0.01, 0.02, 0.05)
ACCURACY = 0.7
DISCORDANCE = 0.10  # The share of rows where two equal models differ.
METRIC = "exact-match"
ALONE, GROUPED = "rows", "groups"
GROUPINGS = (ALONE, GROUPED)
ZERO = f"sha256:{'0' * 64}"

Flags = NDArray[np.bool_]


class Bank:
    """``rows`` test rows, each with a right and a wrong answer."""

    def __init__(self, rows: int, grouping: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        sizes = (
            np.ones(rows, np.intp) if grouping == ALONE else random.choice([1, 1, 1, 2, 3, 6], rows)
        )
        self.groups: NDArray[np.intp] = np.repeat(np.arange(rows), sizes)[:rows]
        slices = random.integers(0, 4, self.groups[-1] + 1)[self.groups]
        self.test = tuple(
            Row(
                id=str(i), messages=(Message(role="user", content=f"request {i}"),), reference="right",
                group=f"g{self.groups[i]}", slice=f"slice {slices[i]}", source=f"simulated:{i}",
            )
            for i in range(rows)
        )  # fmt: skip
        self._answers = [(_answer(row, False), _answer(row, True)) for row in self.test]

    def answers(self, right: Flags) -> tuple[Prediction, ...]:
        """Return the answers of a model that is right on these rows."""
        return tuple(
            answers[flag] for answers, flag in zip(self._answers, right.tolist(), strict=True)
        )

    def pair(
        self, random: np.random.Generator, loss: float, discordance: float
    ) -> tuple[Flags, Flags]:
        """Draw where candidate and reference are right. The true means differ by ``loss`` (below 0: a gain)."""
        n, draws = len(self.test), random.random(len(self.test))
        together = (random.random(n) < 0.7)[self.groups]
        draws = np.where(together, random.random(n)[self.groups], draws)
        gain, lose = discordance / 2 + max(0.0, -loss), discordance / 2 + max(0.0, loss)
        gained, lost = draws < gain, (draws >= gain) & (draws < gain + lose)
        # Rows that the two answer alike are right so often that the reference is right ACCURACY of the time.
        alike = random.random(n) < (ACCURACY - lose) / (1 - gain - lose)
        return gained | (alike & ~lost), lost | (alike & ~gained)


def _answer(row: Row, right: bool) -> Prediction:
    return Prediction(
        id=row.id, prompt=row.prompt, prediction="right" if right else "wrong", reference=row.reference,
        score=float(right), scores={METRIC: float(right)}, group=row.group, slice=row.slice,
    )  # fmt: skip


def asking(**gates: dict[str, Any]) -> Params:
    """Return the default parameters with these gates; each compares with the base unless it says otherwise."""
    default = params_file.load().model_dump(mode="json", by_alias=True)
    default["evaluate"]["scorers"] = [{"kind": METRIC}]
    common = {"metric": METRIC, "confidence": CONFIDENCE}
    default["gates"] = {
        name: {**common, **({} if gate["kind"] == "threshold" else {"against": "base"}), **gate}
        for name, gate in gates.items()
    }
    return Params.model_validate(default)


def non_inferior(margin: float) -> Params:
    """Return parameters with one gate of that kind."""
    return asking(it={"kind": "non_inferior", "margin": margin})


def evidence(bank: Bank, params: Params, **models: tuple[Prediction, ...]) -> Evidence:
    """Return evidence as ``chain.gather`` reads it: unbroken, and without measured noise."""
    rows, scorers = len(bank.test), params.evaluate.scorers
    evaluation = EvaluationReport(
        merged=ZERO, base=ZERO, test=ZERO, rows=rows, scorers=scoring.digest_of(scorers), prompt_format=ZERO,
        base_prompt=ZERO, confidence=CONFIDENCE, references={}, models={}, summary=(),
    )  # fmt: skip
    floor = {scorer.kind: 0.0 for scorer in scorers}
    still = NoiseRun(order="test order", batch_tokens=1, threads=1, metrics=floor, changed=0)
    noise = NoiseReport(
        merged=ZERO, base=ZERO, test=ZERO, scorers=evaluation.scorers, prompt_format=ZERO, device="none", rows=rows,
        runs=(still, still), floor=floor, max_logprob_diff=0.0,
    )  # fmt: skip
    reports = Reports(
        fetch=None, prepare=None, data=None, train=None, parity=None, references=None,
        evaluation=evaluation, noise=noise,
    )  # fmt: skip
    return Evidence(
        reports, train=(), test=bank.test, answers=models, gaps={}, breaks=(), judged={}
    )


class Release(NamedTuple):
    """One simulated release: its evidence, and where its two models are right."""

    evidence: Evidence
    candidate: Flags
    reference: Flags

    def finding(self, params: Params) -> Finding:
        """Return the finding of the only gate of ``params``."""
        (finding,) = judging.judge(params, self.evidence).findings
        return finding

    def passes_z_test(self, margin: float) -> bool:
        """Whether a z-test of two independent shares (unpooled) passes at this margin."""
        candidate, reference = float(self.candidate.mean()), float(self.reference.mean())
        error = math.sqrt(
            (candidate * (1 - candidate) + reference * (1 - reference)) / len(self.candidate)
        )
        return candidate - reference + margin >= NormalDist().inv_cdf(CONFIDENCE) * max(
            error, 1e-12
        )

    def passes_floats(self) -> bool:
        """Whether the candidate's share is at least the reference's."""
        return int(self.candidate.sum()) >= int(self.reference.sum())


class Study:
    """Draws releases; every table has a random stream of its own, so that one alone can be changed."""

    def __init__(self, runs: int, seed: int) -> None:
        self.runs, self.seed = runs, seed
        self._banks: dict[tuple[int, str], Bank] = {}

    def bank(self, rows: int, grouping: str) -> Bank:
        """Return the rows of this size and grouping, made once."""
        if (rows, grouping) not in self._banks:
            self._banks[rows, grouping] = Bank(rows, grouping, self.seed)
        return self._banks[rows, grouping]

    def releases(
        self, table: int, runs: int, rows: int, grouping: str, params: Params,
        loss: float = 0.0, discordance: tuple[float, float] = (DISCORDANCE, DISCORDANCE),
    ) -> Iterator[Release]:  # fmt: skip
        """Draw ``runs`` releases, each with a discordance from this range."""
        bank = self.bank(rows, grouping)
        random = np.random.default_rng(
            [self.seed, table, rows, grouping == GROUPED, 1, round(abs(loss) * 1e4)]
        )
        for _ in range(runs):
            candidate, reference = bank.pair(random, loss, random.uniform(*discordance))
            models = {"candidate": bank.answers(candidate), "base": bank.answers(reference)}
            yield Release(evidence(bank, params, **models), candidate, reference)


def unchanged(study: Study) -> Iterator[tuple[object, ...]]:
    """Release one model again and again, answering 5 to 20 % of its rows otherwise each time."""
    slices = {"kind": "slice", "margin": 0.05, "min_rows": 30}
    gates = {
        "non_inferior": non_inferior(0.05),
        "slice, 4 slices": asking(it=slices),
        "verdict of 4 gates": asking(
            close={"kind": "non_inferior", "margin": 0.02}, near={"kind": "non_inferior", "margin": 0.05},
            slices=slices, enough={"kind": "threshold", "at_least": 0.5, "resolution": 0.1},
        ),
    }  # fmt: skip
    for rows in tqdm(SIZES, desc="A/A"):
        for grouping in GROUPINGS:
            counts: dict[str, Counter[str]] = {name: Counter() for name in gates}
            rejected = 0
            drawn = study.releases(
                1, study.runs, rows, grouping, gates["non_inferior"], 0.0, (0.05, 0.20)
            )
            for number, release in enumerate(drawn):
                rejected += not release.passes_floats()
                for name, params in gates.items():
                    if number % 4 == 0 or name == "non_inferior":
                        counts[name][judging.judge(params, release.evidence).status] += 1
            for name, count in counts.items():
                shares = [
                    f"{count[status] / count.total():.1%}"
                    for status in ("fail", "pass", "inconclusive")
                ]
                yield name, rows, grouping, *shares, f"{rejected / study.runs:.1%}"


def edge(study: Study) -> Iterator[tuple[object, ...]]:
    """Lose exactly the margin: the hardest case that must not pass."""
    for rows in tqdm(SIZES, desc="edge"):
        for grouping, discordance in ((ALONE, 0.0), (ALONE, DISCORDANCE), (GROUPED, DISCORDANCE)):
            shares = []
            for margin in MARGINS:
                params = non_inferior(margin)
                drawn = study.releases(
                    2, study.runs, rows, grouping, params, margin, (discordance, discordance)
                )
                passed = sum(release.finding(params).status == "pass" for release in drawn)
                shares.append(f"{passed / study.runs:.1%}")
            yield rows, grouping, "no" if discordance else "yes", *shares


def planted(study: Study) -> Iterator[tuple[object, ...]]:
    """Lose 1 to 10 points: who lets such releases pass?"""
    runs = study.runs // 2
    for rows in tqdm(SIZES, desc="planted"):
        for loss in LOSSES:
            for margin in MARGINS:
                params = non_inferior(margin)
                releases = list(study.releases(3, runs, rows, ALONE, params, loss))
                findings = [release.finding(params) for release in releases]
                detectable = median(finding.detectable or 0.0 for finding in findings)
                counts = [
                    sum(finding.status == status for finding in findings)
                    for status in ("pass", "fail")
                ]
                counts.append(sum(release.passes_floats() for release in releases))
                counts.append(sum(release.passes_z_test(margin) for release in releases))
                shares = [f"{count / runs:.1%}" for count in counts]
                yield rows, f"{loss:.0%}", f"{margin:.0%}", f"{detectable:.1%}", *shares


def promised(study: Study) -> Iterator[tuple[object, ...]]:
    """Ask whether a gate sees what ``detectable`` promises with at least 80 % power."""
    for rows in tqdm(SIZES, desc="power"):
        for grouping in GROUPINGS:
            cells = []
            for kind, margin in (("non_inferior", 0.05), ("improves", 0.0)):
                gate = {"kind": kind, "margin": margin}
                drawn = study.releases(4, 400, rows, grouping, asking(it=gate))
                params = asking(it=gate)
                detectable = median(release.finding(params).detectable or 0.0 for release in drawn)
                gain = 0.0 if margin else detectable
                params = asking(it={**gate, "margin": detectable - gain})
                drawn = study.releases(5, study.runs, rows, grouping, params, -gain)
                passed = sum(release.finding(params).status == "pass" for release in drawn)
                cells += [f"{detectable:.1%}", f"{passed / study.runs:.0%}"]
            yield rows, grouping, *cells


def speed(study: Study, rows: int = 100_000) -> Iterator[tuple[object, ...]]:
    """Judge 20 gates of mixed kinds, with all answers scored again."""
    gates: dict[str, dict[str, Any]] = {}
    for number in range(4):
        against = {"against": ("base", "majority")[number % 2]}
        gates |= {
            f"level-{number}": {"kind": "threshold", "at_least": 0.5, "resolution": 0.05},
            f"better-{number}": {"kind": "improves", "margin": 0.0, **against},
            f"near-{number}": {"kind": "non_inferior", "margin": 0.02, **against},
            f"close-{number}": {"kind": "non_inferior", "margin": 0.01, **against},
            f"slices-{number}": {"kind": "slice", "margin": 0.05, "min_rows": 30, **against},
        }
    params, bank = asking(**gates), study.bank(rows, GROUPED)
    candidate, base = bank.pair(np.random.default_rng(study.seed), 0.0, 0.2)
    models = {
        "candidate": bank.answers(candidate),
        "base": bank.answers(base),
        "majority": bank.answers(base),
    }
    asked = evidence(bank, params, **models)
    for _ in range(3):
        started = time.process_time()
        judging.judge(params, asked)
        yield len(gates), f"{rows:,}", f"{time.process_time() - started:.2f}"


def main() -> None:
    """Print every table."""
    options = tables.numbers(__doc__, runs=1000, seed=20261124)
    study = Study(options.runs, options.seed)
    tables.show("Speed", ("gates", "rows", "CPU seconds"), speed(study))
    outcomes = ("fail (false reject)", "pass", "inconclusive", "floats reject")
    tables.show("A/A", ("gate", "rows", "clusters", *outcomes), unchanged(study))
    margins = ("margin 1 point", "2 points", "5 points")
    tables.show("At the edge", ("rows", "clusters", "losses alone differ", *margins), edge(study))
    rules = ("pass", "fail", "floats pass", "z-test passes")
    tables.show("Planted losses", ("rows", "loss", "margin", "detectable", *rules), planted(study))
    power = ("detectable loss", "unchanged rules it out", "detectable gain", "it is shown")
    tables.show("Power", ("rows", "clusters", *power), promised(study))
    gate_layouts.show(options.runs, options.seed)


if __name__ == "__main__":
    main()
