"""budget: what the model costs, each figure that has a bound against it.

Hours and cost are estimates: the seconds of training and those of the candidate's answers (rows by its speed of
generation), on the one device that train uses. Loading, merging, the references' answers and a machine that stands
idle are not in them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checks import layout
from checks.chain import Evidence
from checks.gate_kinds import BudgetGate
from checks.gates.asked import gap
from checks.verdict import Finding

_CANDIDATE = "candidate"
_ANSWERS = layout.PREDICTIONS / f"{_CANDIDATE}.jsonl"
_DEVICES = 1  # train refuses more


class _Figure(NamedTuple):
    """One bound's figure: the files it is read from, how, and its unit. What was never measured is NaN."""

    needs: tuple[Path, ...]
    measure: Callable[[Evidence, BudgetGate], float]
    unit: str


def ask(name: str, gate: BudgetGate, evidence: Evidence) -> Finding:
    """Pass when every figure that has a bound was measured and is within it.

    The finding's value is the figure that is nearest to its bound, or furthest beyond.
    """
    problems, held, measured = [], [], {}
    for metric, figure in _FIGURES.items():
        bound = getattr(gate, metric)
        if bound is None:
            continue
        if missing := gap(evidence, figure.needs):
            problems.append(f"{metric}: {missing}")
            continue
        value = figure.measure(evidence, gate)
        if not math.isfinite(value):
            problems.append(f"{metric}: no evidence: a figure it needs is zero, or not there")
            continue
        measured[metric] = (value, bound)
        if value <= bound:
            held.append(f"{metric} {value:,.4g} {figure.unit}, at most {bound:,.6g}")
        else:
            problems.append(f"{metric} {value:,.4g} {figure.unit}, above {bound:,.6g}")
    tightest = max(measured, key=lambda metric: measured[metric][0] / measured[metric][1], default=None)
    latency = tightest == "latency_p95_seconds"
    return Finding(
        gate=name, kind=gate.kind, status="fail" if problems else "pass", reason="; ".join((*problems, *held)),
        metric=tightest,
        method="95th percentile by nearest rank" if latency else None,
        value=round(measured[tightest][0], 6) if tightest else None,
        bound=measured[tightest][1] if tightest else None,
        n=len(evidence.answers[_CANDIDATE]) if latency else None,
    )  # fmt: skip


def _measured(value: float) -> float:
    """``value``, or NaN when it is not positive: nothing here is free."""
    return value if value > 0 else math.nan


def _parameters(evidence: Evidence, _gate: BudgetGate) -> float:
    """Of the merged model: PEFT's total holds the adapter beside the base, and merging adds it into the base."""
    train = evidence.reports.train
    assert train is not None  # else it is a gap
    return _measured((train.total_parameters - train.trainable_parameters) / 1e6)


def _artifact(evidence: Evidence, _gate: BudgetGate) -> float:
    parity = evidence.reports.parity
    assert parity is not None  # else it is a gap
    return _measured(sum(file.size for file in parity.files.values()) / 1e6)


def _train_seconds(evidence: Evidence) -> float:
    train = evidence.reports.train
    assert train is not None  # else it is a gap
    return _measured(train.seconds)


def _latency(evidence: Evidence, _gate: BudgetGate) -> float:
    """The shortest time within which 95 % of the answers came: a time that was measured, not one between two."""
    seconds = [prediction.latency for prediction in evidence.answers[_CANDIDATE]]
    return _measured(float(np.quantile(seconds, 0.95, method="inverted_cdf"))) if seconds else math.nan


def _device_hours(evidence: Evidence) -> float:
    evaluation = evidence.reports.evaluation
    assert evaluation is not None  # else it is a gap
    candidate = evaluation.models.get(_CANDIDATE)
    speed = _measured(candidate.examples_per_second or 0) if candidate else math.nan
    return _DEVICES * (_train_seconds(evidence) + _measured(len(evidence.answers[_CANDIDATE])) / speed) / 3600


def _gpu_hours(evidence: Evidence, _gate: BudgetGate) -> float:
    """Zero on a CPU; a device that is not known to be one counts."""
    train = evidence.reports.train
    assert train is not None  # else it is a gap
    return _device_hours(evidence) * (0 if train.device.startswith("cpu") else 1)


def _cost(evidence: Evidence, gate: BudgetGate) -> float:
    """A device has its price whether it is a GPU or not."""
    return _device_hours(evidence) * (gate.hourly_price or math.nan)


_HOURS = (layout.TRAIN_REPORT, layout.EVALUATION, _ANSWERS)
_FIGURES = {  # fields of BudgetGate
    "parameters_millions": _Figure((layout.TRAIN_REPORT,), _parameters, "million"),
    "artifact_mb": _Figure((layout.PARITY_REPORT,), _artifact, "MB"),
    "train_minutes": _Figure((layout.TRAIN_REPORT,), lambda evidence, _: _train_seconds(evidence) / 60, "min"),
    "latency_p95_seconds": _Figure((layout.EVALUATION, _ANSWERS), _latency, "s"),
    "gpu_hours": _Figure(_HOURS, _gpu_hours, "hours, estimated"),
    "cost": _Figure(_HOURS, _cost, "for the device hours, estimated"),
}
