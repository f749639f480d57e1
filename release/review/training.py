"""Gathers how training went and what it cost: loss curve, most frequent confusions, time and money."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from checks.formats import energy
from checks.storage import layout
from release.cost import training_record
from release.cost.forecast import Range
from release.record.records import Records
from release.review.facts import Facts

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


def loss(root: Path) -> list[float]:
    """The logged losses of reports/loss.csv, of several steps those of the last; empty if it cannot be read."""
    try:
        lines = _lines(root / layout.LOSS_CURVE)
        # The losses of two methods cannot be compared.
        last = lines[-1].get("chain") if lines else None
        values = [float(line["loss"]) for line in lines if line.get("chain") == last]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    return [value for value in values if math.isfinite(value)]


def figures(facts: Facts) -> list[tuple[str, float]]:
    """Return what the training method measured besides the loss, at the end."""
    train = facts.evidence.reports.train if facts.evidence else None
    return list(train.figures.items()) if train else []


def rewards(facts: Facts) -> dict[str, list[str]]:
    """The scorers whose scores were the reward of training (rewards), and the gates that ask them (rewarding)."""
    train = facts.evidence.reports.train if facts.evidence else None
    scorers = list(train.optimised_for) if train else []
    gates = facts.params.gates if facts.params else {}
    asked = [name for name, gate in gates.items() if getattr(gate, "metric", None) in scorers]
    return {"rewards": scorers, "rewarding": asked}


def confusions(root: Path) -> list[tuple[tuple[str, str], int]]:
    """Count how often each wrong answer was given for each reference, the most frequent first."""
    try:
        pairs = [
            (str(line["reference"]), str(line["predicted"]))
            for line in _lines(root / layout.CONFUSION)
        ]
    except (OSError, ValueError, KeyError, csv.Error):
        return []
    return sorted(
        Counter(pair for pair in pairs if pair[0] != pair[1]).items(),
        key=lambda item: (-item[1], item[0]),
    )


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def sparkline(values: Sequence[float]) -> str:
    """``values`` as a line of bars, on a logarithmic scale if all are positive.

    Long series are averaged in equal parts.
    """
    if not values:
        return ""
    width = min(_WIDTH, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    scaled = [math.log(value) for value in means] if min(means) > 0 else means
    return bars(scaled, min(scaled), max(scaled))


def bars(values: Sequence[float], low: float, high: float) -> str:
    """Write ``values`` as bars: the lowest bar is ``low``, the highest ``high``."""
    span = high - low or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def cost(facts: Facts, records: Records) -> list[tuple[str, str]]:
    """Measured time, and money by train_budget's price, each with its estimate and bound. Decides nothing.

    Each line is a sentence of figures, ending with the device's name if it has one. Empty without measurements.
    """
    took, before, target = facts.training, facts.target.training, facts.target
    train = facts.evidence.reports.train if facts.evidence else None
    if took is None or train is None or facts.params is None:
        return []
    expected, budget = None, facts.params.train_budget
    if target.commit is not None:
        expected = training_record.estimate_again(
            records, facts.params, target.ref, target.commit, train, took
        )
    parts = [
        f"Training: {_time(took.seconds)}",
        f", estimated {_times(expected.training)}" if expected else "",
        f", budget {budget.train_minutes:,.6g} min" if budget.train_minutes else "",
        f" (before: {_time(before.seconds)})" if before and before.adapter != train.adapter else "",
    ]
    lines = [(f"{''.join(parts)}, {train.steps:,} steps over {train.rows:,} rows on", took.device)]
    evaluation = facts.evaluation
    speed = facts.answering.models.get("candidate") if facts.answering else None
    seconds = took.seconds * (train.devices or 1)
    if evaluation and speed and speed.examples_per_second:
        answering = evaluation.rows * evaluation.draws / speed.examples_per_second
        seconds += answering
        latency = (
            f"; 95% within {speed.p95_seconds:,.3g} s of their batch's start"
            if speed.p95_seconds
            else ""
        )
        lines.append(
            (f"Answers: {_time(answering)}, {speed.examples_per_second:,.1f} a second{latency}", "")
        )
    if facts.suites and (suite_seconds := facts.suites.seconds):
        shown = ", ".join(f"{name} {_time(suite)}" for name, suite in suite_seconds.items())
        lines.append((f"Suites: {_time(math.fsum(suite_seconds.values()))} ({shown})", ""))
    if used := energy.said(took.energy):
        lines.append((f"Energy of training: {used}", ""))
    if budget.gpu_hours and not took.device.startswith("cpu"):
        lines.append((f"GPU hours: {seconds / 3600:,.2f}, budget {budget.gpu_hours:,.6g}", ""))
    if price := budget.hourly_price:
        foretold = (
            f", estimated {_span(expected.device_seconds.times(price / 3600), ',.2f')}"
            if expected
            else ""
        )
        most = f", budget {budget.cost:,.2f}" if budget.cost else ""
        hours = f"{seconds / 3600:.2f} device hours at {price:,.2f} an hour"
        lines.append((f"Cost: {seconds / 3600 * price:,.2f} for {hours}{foretold}{most}", ""))
    return lines


def _unit(seconds: float) -> tuple[float, str]:
    return (1, " s") if seconds < 90 else (60, " min") if seconds < 5400 else (3600, " h")


def _time(seconds: float) -> str:
    divisor, unit = _unit(seconds)
    return f"{seconds / divisor:.1f}{unit}"


def _times(span: Range) -> str:
    """A range in the unit of its middle, such as 3.9 min (2.6 to 5.8)."""
    divisor, unit = _unit(span.middle)
    return _span(span.times(1 / divisor), ",.1f", unit)


def _span(span: Range, how: str, unit: str = "") -> str:
    return f"{span.middle:{how}}{unit} ({span.low:{how}} to {span.high:{how}})"
