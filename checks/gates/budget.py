"""budget: how large the model is, each figure that has a bound against it.

Every figure follows from the digests that the verdict names: the same model gives the same answer on every machine.
Times and money do not, and so are no part of it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.chain import Evidence
from checks.gate_kinds import BudgetGate
from checks.gates.asked import gap
from checks.verdict import Finding


class _Figure(NamedTuple):
    """One bound's figure: the report it is read from, how, and its unit. What was never measured is NaN."""

    needs: Path
    measure: Callable[[Evidence], float]
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
        if missing := gap(evidence, (figure.needs,)):
            problems.append(f"{metric}: {missing}")
            continue
        value = figure.measure(evidence)
        if not math.isfinite(value):
            problems.append(f"{metric}: no evidence: a figure it needs is zero, or not there")
            continue
        measured[metric] = (value, bound)
        if value <= bound:
            held.append(f"{metric} {value:,.4g} {figure.unit}, at most {bound:,.6g}")
        else:
            problems.append(f"{metric} {value:,.4g} {figure.unit}, above {bound:,.6g}")
    tightest = max(measured, key=lambda metric: measured[metric][0] / measured[metric][1], default=None)
    return Finding(
        gate=name, kind=gate.kind, status="fail" if problems else "pass", reason="; ".join((*problems, *held)),
        metric=tightest,
        value=round(measured[tightest][0], 6) if tightest else None,
        bound=measured[tightest][1] if tightest else None,
    )  # fmt: skip


def _measured(value: float) -> float:
    """``value``, or NaN when it is not positive: no model has no size."""
    return value if value > 0 else math.nan


def _parameters(evidence: Evidence) -> float:
    """Of the merged model: PEFT's total holds the adapter beside the base, and merging adds it into the base."""
    train = evidence.reports.train
    assert train is not None  # else it is a gap
    return _measured((train.total_parameters - train.trainable_parameters) / 1e6)


def _artifact(evidence: Evidence) -> float:
    parity = evidence.reports.parity
    assert parity is not None  # else it is a gap
    return _measured(sum(file.size for file in parity.files.values()) / 1e6)


_FIGURES = {  # fields of BudgetGate
    "parameters_millions": _Figure(layout.TRAIN_REPORT, _parameters, "million"),
    "artifact_mb": _Figure(layout.PARITY_REPORT, _artifact, "MB"),
}
