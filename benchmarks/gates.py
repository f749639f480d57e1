"""Do the gates keep their promises? Simulated releases through the real gate code, beside two naive rules.

    python -m benchmarks.gates [--runs 1000] [--seed 20261124]

Prints Markdown tables. A/A: releases of an unchanged model, none of which should be called worse. At the edge: the true
loss is the margin, and at most 5 % may pass. Planted: losses of 1 to 10 points beside a comparison of two floats and a
z-test that ignores the pairing. Power: what was promised, and what came. Speed: 20 gates over 100,000 pairs. The tables
of ``benchmarks.gate_layouts`` ask the tests alone on groups that are uneven, few, or behave by their size.

Every simulated row has one answer for each score in tenths, made once; a release picks one of them for each row, so
that the gates score text, as ever. Rows of one group are answered alike in seven groups of ten.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import NormalDist, median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import gate_layouts
from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport, NoiseRun
from checks.formats.verdict import Finding, Verdict
from checks.gating.chain import Evidence, Reports
from checks.rows import Message, Prediction, Row

CONFIDENCE = 0.95
SIZES = (200, 500, 2000)
LOSSES = (0.01, 0.02, 0.05, 0.10)
MARGINS = (0.01, 0.02, 0.05)
ACCURACY = 0.7
DISCORDANCE = 0.10  # of two answers of one model; split between the sides, on top of a loss
LEVELS = 10
TEXT = "abcdefghij"  # each character that an answer shares is a tenth of edit similarity
EXACT, GRADED = "exact-match", "edit-similarity"
MEAN_SIZE = (LEVELS + 1) / 2 / LEVELS  # of a graded difference: uniform over the tenths
ALONE, GROUPED = "rows", "groups"
ZERO = f"sha256:{'0' * 64}"

Levels = NDArray[np.intp]


class Bank:
    """``rows`` test rows, and for each an answer of every level by any of several models."""

    def __init__(self, rows: int, grouping: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        sizes = np.ones(rows, np.intp) if grouping == ALONE else random.choice([1, 1, 1, 2, 3, 6], rows)
        self.groups: NDArray[np.intp] = np.repeat(np.arange(rows), sizes)[:rows]
        slices = random.integers(0, 4, self.groups[-1] + 1)[self.groups]
        self.test = tuple(
            Row(
                id=str(i), messages=(Message(role="user", content=f"request {i}"),), reference=TEXT,
                group=f"g{self.groups[i]}", slice=f"slice {slices[i]}", source=f"simulated:{i}",
            )
            for i in range(rows)
        )  # fmt: skip
        self._answers = [[_answer(row, level) for level in range(LEVELS + 1)] for row in self.test]

    def picked(self, levels: Levels) -> tuple[Prediction, ...]:
        """The answers of one model that scores so."""
        return tuple(answers[level] for answers, level in zip(self._answers, levels.tolist(), strict=True))

    def pair(self, random: np.random.Generator, metric: str, loss: float, discordance: float) -> tuple[Levels, Levels]:
        """Levels of candidate and reference, whose true means differ by ``loss`` (below 0: a gain)."""
        n, draws = len(self.test), random.random(len(self.test))
        together = (random.random(n) < 0.7)[self.groups]
        draws = np.where(together, random.random(n)[self.groups], draws)
        more = loss if metric == EXACT else loss / MEAN_SIZE
        gain, lose = discordance / 2 + max(0.0, -more), discordance / 2 + max(0.0, more)
        gained, lost = draws < gain, (draws >= gain) & (draws < gain + lose)
        if metric == EXACT:
            # Rows that the two answer alike are right so often that the reference is right ACCURACY of the time.
            alike = np.where(random.random(n) < (ACCURACY - lose) / (1 - gain - lose), LEVELS, 0)
            return np.where(gained, LEVELS, np.where(lost, 0, alike)), np.where(
                lost, LEVELS, np.where(gained, 0, alike)
            )
        size = random.integers(1, LEVELS + 1, n)
        upper = random.integers(size, LEVELS + 1)
        lower = upper - size
        return np.where(lost, lower, upper), np.where(gained, lower, upper)


def _answer(row: Row, level: int) -> Prediction:
    text = TEXT[:level] + "-" * (LEVELS - level)
    scores = {EXACT: float(level == LEVELS), GRADED: level / LEVELS}
    return Prediction(
        id=row.id, prompt=row.prompt, prediction=text, reference=row.reference, score=scores[EXACT], scores=scores,
        group=row.group, slice=row.slice, latency=0.1,
    )  # fmt: skip


def asking(**asked: dict[str, Any]) -> Params:
    """The default parameters with these gates; each compares with the base at 95 % unless it says otherwise."""
    default = params_file.load().model_dump(mode="json", by_alias=True)
    default["evaluate"]["scorers"] = [{"kind": EXACT}, {"kind": GRADED}]
    common = {"metric": EXACT, "confidence": CONFIDENCE}
    default["gates"] = {
        name: {**common, **({} if gate["kind"] == "threshold" else {"against": "base"}), **gate}
        for name, gate in asked.items()
    }
    return Params.model_validate(default)


def non_inferior(margin: float, metric: str = EXACT) -> dict[str, Any]:
    """A gate of that kind."""
    return {"kind": "non_inferior", "margin": margin, "metric": metric}


def improves(metric: str = EXACT) -> dict[str, Any]:
    """A gate of that kind that asks for any gain."""
    return {"kind": "improves", "margin": 0.0, "metric": metric}


def evidence(bank: Bank, params: Params, **models: tuple[Prediction, ...]) -> Evidence:
    """What ``chain.gather`` would have read: unbroken, and without measured noise."""
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
    return Evidence(reports, train=(), test=bank.test, answers=models, gaps={}, breaks=(), judged={})


class Release(NamedTuple):
    """One simulated release: its evidence and what the naive rules look at."""

    evidence: Evidence
    candidate: Levels
    reference: Levels

    def unpaired(self, margin: float) -> bool:
        """Would a z-test of two independent shares (unpooled) let it pass at this margin?"""
        ours, theirs = (float((levels == LEVELS).mean()) for levels in (self.candidate, self.reference))
        error = math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / len(self.candidate))
        return ours - theirs + margin >= NormalDist().inv_cdf(CONFIDENCE) * max(error, 1e-12)

    def floats(self, margin: float = 0.0) -> bool:
        """Is the candidate's share at least the reference's, less ``margin``?"""
        lead = int((self.candidate == LEVELS).sum()) - int((self.reference == LEVELS).sum())
        return lead >= -margin * len(self.candidate) - 1e-9


class Study:
    """Draws releases; every table has a random stream of its own, so that one alone can be changed."""

    def __init__(self, runs: int, seed: int) -> None:
        self.runs, self.seed = runs, seed
        self._banks: dict[tuple[int, str], Bank] = {}

    def releases(
        self, table: int, runs: int, rows: int, grouping: str, params: Params, metric: str = EXACT,
        loss: float = 0.0, discordance: float | tuple[float, float] = DISCORDANCE,
    ) -> Iterator[Release]:  # fmt: skip
        """``runs`` releases; a range of ``discordance`` is drawn from anew for each."""
        if (rows, grouping) not in self._banks:
            self._banks[rows, grouping] = Bank(rows, grouping, self.seed)
        bank = self._banks[rows, grouping]
        low, high = discordance if isinstance(discordance, tuple) else (discordance, discordance)
        key = (table, rows, grouping == GROUPED, metric == EXACT, round(abs(loss) * 1e4))
        random = np.random.default_rng([self.seed, *key])
        for _ in range(runs):
            ours, theirs = bank.pair(random, metric, loss, random.uniform(low, high))
            yield Release(evidence(bank, params, candidate=bank.picked(ours), base=bank.picked(theirs)), ours, theirs)


def unchanged(study: Study) -> str:
    """A/A: one model released again and again, answering 5 to 20 % of its rows otherwise each time."""
    slices = {"kind": "slice", "margin": 0.05, "min_rows": 30}
    kinds = {
        "non_inferior": asking(it=non_inferior(0.05)),
        "slice, 4 slices": asking(it=slices),
        "verdict of 4 gates": asking(
            close=non_inferior(0.02), near=non_inferior(0.05), slices=slices,
            enough={"kind": "threshold", "at_least": 0.5, "resolution": 0.1},
        ),
    }  # fmt: skip
    graded = {"non_inferior, graded": asking(it=non_inferior(0.05, GRADED))}
    lines = [
        f"{study.runs} releases each ({study.runs // 4} of slices and verdicts), margin 5 points (verdict: 2 and 5)",
        "",
        "| gate | rows | clusters | fail (false reject) | pass | inconclusive | floats reject |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    cases = [(rows, grouping, EXACT) for rows in SIZES for grouping in (ALONE, GROUPED)]
    cases += [(500, grouping, GRADED) for grouping in (ALONE, GROUPED)]
    for rows, grouping, metric in tqdm(cases, desc="A/A"):
        asked = kinds if metric == EXACT else graded
        seen: dict[str, Counter[str]] = {name: Counter() for name in asked}
        naive = 0
        drawn = study.releases(1, study.runs, rows, grouping, next(iter(asked.values())), metric, 0.0, (0.05, 0.20))
        for number, release in enumerate(drawn):
            naive += not release.floats()
            for name, params in asked.items():
                if number % 4 == 0 or name.startswith("non_inferior"):
                    seen[name][judging.judge(params, release.evidence).status] += 1
        for name, counts in seen.items():
            shares = [f"{counts[status] / counts.total():.1%}" for status in ("fail", "pass", "inconclusive")]
            floats = f"{naive / study.runs:.1%}" if metric == EXACT else ""
            lines.append(f"| {name} | {rows} | {grouping} | {' | '.join(shares)} | {floats} |")
    return "\n".join(lines)


def edge(study: Study) -> str:
    """The true loss is the margin itself: the hardest case that must not pass."""
    lines = [
        f"{study.runs} releases each ({study.runs // 2} graded); at most 5 % may pass",
        "",
        "| rows | scores | clusters | losses alone differ | margin 1 point | 2 points | 5 points |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: |",
    ]
    cases = [(n, EXACT, *how) for n in SIZES for how in ((ALONE, 0.0), (ALONE, DISCORDANCE), (GROUPED, DISCORDANCE))]
    cases += [(500, GRADED, ALONE, 0.0), (500, GRADED, GROUPED, DISCORDANCE)]
    for rows, metric, grouping, discordance in tqdm(cases, desc="edge"):
        runs = study.runs if metric == EXACT else study.runs // 2
        cells = []
        for margin in MARGINS:
            params = asking(it=non_inferior(margin, metric))
            drawn = study.releases(2, runs, rows, grouping, params, metric, margin, discordance)
            cells.append(sum(_only(judging.judge(params, r.evidence)).status == "pass" for r in drawn) / runs)
        pure = "no" if discordance else "yes"
        lines.append(f"| {rows} | {metric} | {grouping} | {pure} | {' | '.join(f'{cell:.1%}' for cell in cells)} |")
    return "\n".join(lines)


def planted(study: Study) -> str:
    """Losses of 1 to 10 points: who lets them pass?"""
    runs = study.runs // 2
    lines = [
        f"{runs} releases each, exact match, {DISCORDANCE:.0%} of rows differ besides the loss. Bold: a pass is wrong",
        "",
        "| rows | loss | margin | detectable | pass | fail | floats pass | floats + margin pass | z-test passes |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rows in tqdm(SIZES, desc="planted"):
        for loss in LOSSES:
            asked = {margin: asking(it=non_inferior(margin)) for margin in MARGINS}
            found: dict[float, list[Finding]] = {margin: [] for margin in MARGINS}
            floats, near, unpaired = 0, Counter[float](), Counter[float]()
            for release in study.releases(3, runs, rows, ALONE, asked[MARGINS[0]], EXACT, loss):
                floats += release.floats()
                for margin, params in asked.items():
                    found[margin].append(_only(judging.judge(params, release.evidence)))
                    near[margin] += release.floats(margin)
                    unpaired[margin] += release.unpaired(margin)
            for margin, findings in found.items():
                shares = [sum(f.status == status for f in findings) / runs for status in ("pass", "fail")]
                detectable = median(f.detectable or 0.0 for f in findings)
                cells = [
                    f"{share:.1%}" for share in (*shares, floats / runs, near[margin] / runs, unpaired[margin] / runs)
                ]
                if loss >= margin - 1e-9:
                    cells[0] = f"**{cells[0]}**"
                lines.append(f"| {rows} | {loss:.0%} | {margin:.0%} | {detectable:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def promised(study: Study) -> str:
    """``detectable`` is what a gate sees with at least 80 % power: a margin to be ruled out, a gain to be shown."""
    runs = study.runs
    lines = [
        f"{runs} releases each; at least 80 % is promised",
        "",
        "| rows | scores | clusters | detectable loss | unchanged rules it out | detectable gain | it is shown |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    cases = [(rows, EXACT, grouping) for rows in SIZES for grouping in (ALONE, GROUPED)] + [(500, GRADED, ALONE)]
    for rows, metric, grouping in tqdm(cases, desc="power"):
        cells = []
        for pilot in (non_inferior(0.05, metric), improves(metric)):
            params = asking(it=pilot)
            drawn = study.releases(4, 400, rows, grouping, params, metric)
            detectable = median(_only(judging.judge(params, r.evidence)).detectable or 0.0 for r in drawn)
            gain = 0.0 if pilot["margin"] else detectable
            params = asking(it={**pilot, "margin": detectable - gain})
            drawn = study.releases(5, runs, rows, grouping, params, metric, -gain)
            seen = sum(_only(judging.judge(params, r.evidence)).status == "pass" for r in drawn) / runs
            cells += [f"{detectable:.1%}", f"{seen:.0%}"]
        lines.append(f"| {rows} | {metric} | {grouping} | {' | '.join(cells)} |")
    for grouping in (ALONE, GROUPED):  # all slices at once
        asked = {"kind": "slice", "min_rows": 30}
        params = asking(it={**asked, "margin": 0.1})
        drawn = study.releases(4, 60, 1000, grouping, params)
        detectable = median(_only(judging.judge(params, r.evidence)).detectable or 1.0 for r in drawn)
        params = asking(it={**asked, "margin": detectable})
        drawn = study.releases(5, runs, 1000, grouping, params)
        seen = sum(_only(judging.judge(params, r.evidence)).status == "pass" for r in drawn) / runs
        lines.append(f"| 1000 in 4 slices | {EXACT} | {grouping} | {detectable:.1%} | {seen:.0%} | | |")
    return "\n".join(lines)


def speed(study: Study, rows: int = 100_000) -> str:
    """20 gates of mixed kinds on both scorers, the answers scored again."""
    bank = Bank(rows, GROUPED, study.seed)
    asked: dict[str, dict[str, Any]] = {}
    for metric, against in ((EXACT, "base"), (GRADED, "base"), (EXACT, "majority"), (GRADED, "majority")):
        more = {"metric": metric, "against": against}
        name = f"{metric}-{against}"
        asked |= {
            f"{name}-level": {"kind": "threshold", "metric": metric, "at_least": 0.5, "resolution": 0.05},
            f"{name}-better": {"kind": "improves", "margin": 0.0, **more},
            f"{name}-near": {"kind": "non_inferior", "margin": 0.02, **more},
            f"{name}-close": {"kind": "non_inferior", "margin": 0.01, **more},
            f"{name}-slices": {"kind": "slice", "margin": 0.05, "min_rows": 30, **more},
        }
    params = asking(**asked)
    random = np.random.default_rng(study.seed)
    ours, base = bank.pair(random, GRADED, 0.0, 0.2)
    _, majority = bank.pair(random, GRADED, 0.0, 0.2)
    models = {"candidate": ours, "base": base, "majority": majority}
    found = evidence(bank, params, **{name: bank.picked(levels) for name, levels in models.items()})
    seconds = []
    for _ in range(3):
        started = time.process_time()
        verdict = judging.judge(params, found)
        seconds.append(time.process_time() - started)
    kinds = Counter(finding.kind for finding in verdict.findings)
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"{len(verdict.findings)} gates ({shown}) over {rows} rows and three models, two scorers: "
        f"{median(seconds):.2f} s of one core (of three: {', '.join(f'{s:.2f}' for s in seconds)})"
    )


def _only(verdict: Verdict) -> Any:
    (finding,) = verdict.findings
    return finding


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every table and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="releases of a case; half as many where it says so")
    parser.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args(arguments)
    study = Study(options.runs, options.seed)
    tables = {"Speed": speed, "A/A": unchanged, "At the edge": edge, "Planted losses": planted, "Power": promised}
    alone = {
        "Layouts: a threshold at its bound": gate_layouts.thresholds,
        "Layouts: two models": gate_layouts.comparisons,
        "Layouts: effects that depend on the size of a group": gate_layouts.by_size,
        "Layouts: what is promised of two models": gate_layouts.promises,
        "Layouts: what is promised of a threshold": gate_layouts.threshold_promises,
    }
    print(f"Seed {options.seed}, {options.runs} runs, confidence {CONFIDENCE:.0%}.")
    for name, table in tables.items():
        print(f"\n### {name}\n\n{table(study)}")
    for name, layouts in alone.items():
        print(f"\n### {name}\n\n{layouts(options.runs, options.seed)}")


if __name__ == "__main__":
    main()
