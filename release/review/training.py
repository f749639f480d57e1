"""How training went and what it cost: the loss as a line of bars, the worst confusions, time and money."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from checks import layout
from checks.cost import Span
from checks.evidence import TrainMeasured, TrainReport
from checks.params import TrainBudget
from release.cost import estimate
from release.cost.training_ahead import Seconds
from release.review.blocks import Block, Bullets, Data, Folded, Image, Line, Paragraph, Section, capped, row
from release.review.facts import Facts

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 32
_WORST = 6


def loss(root: Path) -> list[float]:
    """The logged losses of reports/loss.csv; none where it cannot be read."""
    try:
        with (root / layout.LOSS_CURVE).open(encoding="utf-8", newline="") as stream:
            values = [float(each["loss"]) for each in csv.DictReader(stream)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    return [value for value in values if math.isfinite(value)]


def confusions(root: Path) -> Counter[tuple[str, str]]:
    """How often which answer was given for which reference, where they differ."""
    try:
        with (root / layout.CONFUSION).open(encoding="utf-8", newline="") as stream:
            pairs = [(str(each["reference"]), str(each["predicted"])) for each in csv.DictReader(stream)]
    except (OSError, ValueError, KeyError, csv.Error):
        return Counter()
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def sparkline(values: Sequence[float]) -> str:
    """``values`` as bars on a logarithmic scale where all are above 0; means of equal parts where there are many."""
    if not values:
        return ""
    width = min(_WIDTH, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    scaled = [math.log(value) for value in means] if min(means) > 0 else means
    low, high = min(scaled), max(scaled)
    span = high - low or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in scaled)


def trained(
    facts: Facts, losses: Sequence[float], wrong: Mapping[tuple[str, str], int], images: Mapping[str, str]
) -> Section | None:
    """``images``: addresses of plots that were seen to answer, by their path."""
    if facts.state not in ("held", "recorded"):
        return None
    blocks: list[Block] = []
    if losses:
        told = f"Loss {losses[0]:.3g} → {losses[-1]:.3g}, lowest {min(losses):.3g} ({len(losses):,} points, log scale):"
        blocks.append(Paragraph((f"{told} `{sparkline(losses)}`",)))
    if wrong:
        worst = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
        rows = [row(Data(was, 60), Data(said, 60), f"{count:,}") for (was, said), count in worst]
        table = capped(row("expected", "answered", "rows"), rows, _WORST, (2,))
        blocks.append(Folded(f"Worst confusions of {len(rows):,}", [table]))
    shown = [Image(Path(path).stem, url) for path, url in images.items()]
    blocks += [Paragraph((image,)) for image in shown]
    return Section("training", "Training", blocks, keep=40) if blocks else None


def cost(facts: Facts, root: Path) -> Section | None:
    """Time as measured, and money by train_budget's price, each beside its estimate and its bound. Decides nothing."""
    if facts.state not in ("held", "recorded") or facts.evidence is None or facts.evidence.reports.train is None:
        return None
    train, evaluation = facts.evidence.reports.train, facts.evidence.reports.evaluation
    took, before = facts.training, facts.target.training
    if took is None:
        return None
    expected = _expected(facts, root, train, took)
    against = f" (before: {_time(before.seconds)})" if before and before.adapter != train.adapter else ""
    foretold = f", estimated {_times(expected.train)}" if expected else ""
    budget = facts.params.train_budget if facts.params else TrainBudget()
    most = f", budget {budget.train_minutes:,.6g} min" if budget.train_minutes else ""
    told = (
        f"Training: {_time(took.seconds)}{foretold}{most}{against}, {train.steps:,} steps over {train.rows:,} rows on "
    )
    lines: list[Line] = [(told, Data(took.device))]
    candidate = facts.answering.models.get("candidate") if facts.answering else None
    seconds = took.seconds
    if evaluation and candidate and candidate.examples_per_second:
        answering = evaluation.rows / candidate.examples_per_second
        seconds += answering
        latency = f"95 % within {candidate.p95_seconds:,.3g} s of their batch's start"
        lines.append((f"Answers: {_time(answering)}, {candidate.examples_per_second:,.1f} a second; {latency}",))
    if budget.gpu_hours and not took.device.startswith("cpu"):
        lines.append((f"GPU hours: {seconds / 3600:,.2f}, budget {budget.gpu_hours:,.6g}",))
    if price := budget.hourly_price:
        foretold = f", estimated {_money(expected.device.times(price / 3600))}" if expected else ""
        most = f", budget {budget.cost:,.2f}" if budget.cost else ""
        hours = f"{seconds / 3600:.2f} device hours at {price:,.2f} an hour"
        lines.append((f"Cost: {seconds / 3600 * price:,.2f} for {hours}{foretold}{most}",))
    return Section("cost", "Time and cost", [Bullets(lines)], keep=55)


def _expected(facts: Facts, root: Path, train: TrainReport, took: TrainMeasured) -> Seconds | None:
    """What `lockstep estimate` says of this training by the target's record; None where it says nothing."""
    if facts.target.commit is None or facts.params is None:
        return None
    return estimate.after_the_fact(root, facts.params, facts.target.ref, facts.target.commit, train, took)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _times(span: Span) -> str:
    """A range in the unit of its middle: 3.9 min (2.6 to 5.8)."""
    each, unit = (1, "s") if span.middle < 90 else (60, "min") if span.middle < 5400 else (3600, "h")
    return f"{span.middle / each:,.1f} {unit} ({span.low / each:,.1f} to {span.high / each:,.1f})"


def _money(span: Span) -> str:
    return f"{span.middle:,.2f} ({span.low:,.2f} to {span.high:,.2f})"
