"""estimate: predicts the time and cost of a training before it runs, and compares them with the budget.

The prediction is scaled (``release.cost.forecast``) from the last recorded training on the same device. A training is
refused only if even the low end of its estimate exceeds a bound of ``train_budget``, in the work tree or on the target
branch. The actual time is shown in the comment and decides nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from checks.config.params import Params
from checks.formats.data_reports import DataReport, FetchReport
from checks.formats.decoding import draws
from checks.formats.report import Count
from checks.formats.training_reports import TrainReport
from checks.process.errors import (
    DataRefused,
    EvidenceRefused,
    ParamsRefused,
    Refusal,
    VerdictFailed,
)
from checks.records.rows import Record
from checks.storage import digest, layout
from release.adapters import commits
from release.cost import forecast, training_record
from release.record import lock_check
from release.record.records import Records, WorkTree

NOTHING = "nothing to train: the record is of these parameters"
NO_RUN = "no estimate: no comparable run on this device yet"
# These stages decide whether training runs at all.
_BEFORE = ("fetch", "prepare", "validate", "train")
_METRICS = ("train_minutes", "gpu_hours", "cost")  # These are the bounds of a TrainBudget.
Status = Literal["within", "may exceed", "likely exceeds", "exceeds", "not estimated"]


class BudgetBound(Record):
    """One bound of a train_budget; ``policy`` names the params.yaml that sets it.

    ``status`` says which part of the estimate is above the bound: ``exceeds`` the low end, ``likely exceeds`` the
    middle, ``may exceed`` the high end. ``fits``: the share of this training that the bound allows; None if none.
    """

    policy: str
    metric: str
    at_most: float
    estimate: forecast.Range | None = None
    status: Status = "not estimated"
    fits: float | None = None


class Basis(Record):
    """The recorded training that the estimate is scaled from; ``seconds`` is its duration."""

    ref: str
    commit: str
    device: str
    seconds: float
    rows: Count
    epochs: float
    tokens: Count | None
    factors: tuple[forecast.Factor, ...]


class Answering(Record):
    """The candidate's answers to the test rows: ``draws`` to each of ``rows``.

    ``thought_tokens``: the mean length of the recorded thoughts, whose time is a part of ``minutes``.
    """

    minutes: forecast.Range
    rows: Count
    draws: Count
    thought_tokens: float | None


class Estimate(Record):
    """The estimate; ``headline`` sums it up in one line. A figure without an estimate is None."""

    status: Literal["estimated", "nothing to train", "no estimate"]
    headline: str
    minutes: forecast.Range | None = None
    answering: Answering | None = None
    gpu_hours: forecast.Range | None = None
    cost: forecast.Range | None = None
    hourly_price: float | None = None
    bounds: tuple[BudgetBound, ...] = ()
    basis: Basis | None = None
    notes: tuple[str, ...] = ()


def estimate(root: Path, ref: str | None = None, device: str | None = None) -> Estimate:
    """Estimate the next training below ``root``, after the stage validate has run.

    The estimate is compared with the budget of the work tree and that of ``ref`` (default: ``commits.target``).
    ``device``: part of the training device's name (default: the device of the last record). Raises ParamsRefused for
    an invalid params.yaml, DataRefused if validate refused the data, EvidenceRefused if its report cannot be read or
    is about other splits or if git does not know ``ref``, MachineRefused if git is missing.
    """
    records = Records(root)
    tree, params = records.work_tree, records.work_tree.params
    data = tree.report(layout.DATA_REPORT, DataReport)
    base = tree.report(layout.FETCH_REPORT, FetchReport).base.digest
    _check_splits(root, data)
    places = _places(root, ref)
    bounds, prices, notes = _bounds(records, params, places)
    if _is_trained(tree, data, base):
        return Estimate(status="nothing to train", headline=NOTHING, notes=notes)
    plan = forecast.planned(root, params.training, data)
    times = draws(params.evaluate.decoding)
    reasons: list[str] = []
    for name, commit in places.items():
        try:
            recorded = _record(records, name, commit, device)
            return _estimated(
                recorded,
                forecast.forecast(plan, data, base, recorded, times, params.base.thinking),
                bounds,
                prices,
                notes,
                (data.rows.get("test", 0), times),
            )
        except forecast.Unscalable as unscalable:
            reasons.append(str(unscalable))
    if bounds:
        reasons.append("without an estimate no training is refused")
    return Estimate(status="no estimate", headline=NO_RUN, bounds=bounds, notes=(*reasons, *notes))


def refusal(estimate: Estimate) -> Refusal | None:
    """Return the refusal of an estimate whose low end is above a bound; None for any other estimate."""
    exceeded = [bound for bound in estimate.bounds if bound.status == "exceeds"]
    if not exceeded:
        return None
    first, *others = map(bound_line, exceeded)
    return VerdictFailed(
        f"over the budget before training: {first}",
        f"{_less(exceeded)}, or let code owners raise the bound on the target branch",
        tuple(others),
    )


def bound_line(bound: BudgetBound) -> str:
    """Write a bound and its estimate on one line."""
    name, span = f"{bound.policy}: train_budget.{bound.metric}", bound.estimate
    if span is None:
        return f"{name} at most {bound.at_most:,.6g}, {bound.status}"
    return f"{name} {span.text} {bound.status} {bound.at_most:,.6g}"


def _less(bounds: Sequence[BudgetBound]) -> str:
    """Say how to bring the middle of the estimates within their bounds."""
    share = min((bound.fits or 0 for bound in bounds), default=0)
    part = f"{share:.0%}" if share >= 0.01 else "less than 1%"
    how = "lower train.epochs or max_steps, fewer layers of train.lora or train.full, fewer rows, a smaller base"
    return f"shorten the training to {part} of its estimated time ({how})"


def _check_splits(root: Path, data: DataReport) -> None:
    """Check that the splits on disk are those that validate passed."""
    report, again = layout.DATA_REPORT, "run `lockstep run validate`"
    if not data.success:
        raise DataRefused(
            f"{report}: an expectation on the splits fails", "fix the data: nothing is trained"
        )
    if not data.rows.get("train"):
        raise DataRefused(f"{report}: there are no rows to train on", again)
    for name, expected in data.splits.items():
        path = layout.SPLITS / f"{name}.jsonl"
        if digest.of_file(root / path).sha256 != expected:
            raise EvidenceRefused(f"{path}: is not what {report} is about", again)


def _places(root: Path, ref: str | None) -> dict[str, str]:
    """List the refs and commits whose records can be scaled from; the target branch comes first."""
    if not commits.has_repository(root):
        if ref is not None:
            raise EvidenceRefused(f"{ref}: there is no git repository here", "run it in a clone")
        return {}
    name, commit = commits.target(root, ref)
    head = commits.resolve(root, "HEAD")
    places = {name: commit} if commit else {}
    return places | {"HEAD": head} if head is not None and head != commit else places


def _record(
    records: Records, name: str, commit: str, device: str | None
) -> forecast.RecordedTraining:
    """Read the record at ``commit``; with ``device``, the latest record up to it of a training on that device."""
    if device is None:
        return training_record.read(records.at(commit), name)
    for earlier in commits.touching(records.root, commit, layout.TRAIN_MEASURED):
        with suppress(forecast.Unscalable):
            recorded = training_record.read(records.at(earlier), name)
            if device.lower() in recorded.measured.device.lower():
                return recorded
    raise forecast.Unscalable(f"{name} has no record of a training on {device}")


def _bounds(
    records: Records, params: Params, places: Mapping[str, str]
) -> tuple[tuple[BudgetBound, ...], dict[str, float], tuple[str, ...]]:
    """Collect the bounds of both policies without duplicates, the hourly price by policy, and notes."""
    budgets = {layout.PARAMS.as_posix(): params.train_budget}
    notes: tuple[str, ...] = ()
    name, commit = next(iter(places.items()), ("", ""))
    if commit:
        policy = f"{name}:{layout.PARAMS}"
        try:
            budgets[policy] = records.at(commit).params(policy).train_budget
        except ParamsRefused as refused:
            why = refused.what.removeprefix(f"{policy}: ")
            notes = (
                f"{policy}: this version cannot read it ({why}); only the budget of the work tree applies",
            )
    bounds: dict[tuple[object, ...], BudgetBound] = {}
    for policy, budget in budgets.items():
        for metric in _METRICS:
            at_most = getattr(budget, metric)
            if at_most is not None:
                key = (metric, at_most, budget.hourly_price if metric == "cost" else None)
                bounds.setdefault(key, BudgetBound(policy=policy, metric=metric, at_most=at_most))
    prices = {
        policy: budget.hourly_price for policy, budget in budgets.items() if budget.hourly_price
    }
    return tuple(bounds.values()), prices, notes


def _is_trained(tree: WorkTree, data: DataReport, base: str) -> bool:
    """Whether the training is already recorded for these inputs, so that DVC would not run it."""
    report = tree.readable(layout.TRAIN_REPORT, TrainReport)
    return (
        report is not None
        and report.splits == data.splits
        and report.base == base
        and not lock_check.differences(tree, _BEFORE)
    )


def _estimated(
    recorded: forecast.RecordedTraining,
    seconds: forecast.Forecast,
    bounds: tuple[BudgetBound, ...],
    prices: Mapping[str, float],
    notes: tuple[str, ...],
    asked: tuple[int, int],
) -> Estimate:
    report, measured = recorded.report, recorded.measured
    on_cpu = measured.device.startswith("cpu")
    if on_cpu and any(bound.metric == "gpu_hours" for bound in bounds):
        notes = (
            *notes,
            "gpu_hours is 0 on a CPU, where the record was made: there is no estimate for a GPU",
        )
    if seconds.evaluation is None:
        notes = (
            *notes,
            "hours and cost cover training alone: the record has no speed of the evaluation"
            + (" with this base.thinking" if recorded.answers_per_second else ""),
        )
    minutes, hours = seconds.training.times(1 / 60), seconds.device_seconds.times(1 / 3600)
    evaluation_hours = seconds.evaluation.middle / 3600 if seconds.evaluation else 0.0
    on_gpu = 0.0 if on_cpu else 1.0
    compared = []
    for bound in bounds:
        if bound.metric == "train_minutes":
            compared.append(_compared(bound, minutes, 0))
        else:
            unit = on_gpu if bound.metric == "gpu_hours" else prices[bound.policy]
            compared.append(_compared(bound, hours.times(unit), evaluation_hours * unit))
    likely = [bound for bound in compared if bound.status == "likely exceeds"]
    rows, times = asked
    answering = seconds.evaluation and Answering(
        minutes=seconds.evaluation.times(1 / 60), rows=rows, draws=times,
        thought_tokens=recorded.thought_tokens,
    )  # fmt: skip
    price = prices.get(layout.PARAMS.as_posix()) or next(
        (prices[b.policy] for b in bounds if b.metric == "cost"), None
    )
    return Estimate(
        status="estimated",
        headline=f"training: {forecast.shown(minutes.middle)} min {minutes.text.partition(' ')[2]}",
        minutes=minutes,
        answering=answering,
        gpu_hours=hours.times(on_gpu),
        cost=hours.times(price) if price else None,
        hourly_price=price,
        bounds=tuple(compared),
        basis=Basis(
            ref=recorded.ref, commit=recorded.commit, device=measured.device, seconds=measured.seconds,
            rows=report.rows, epochs=report.epochs, tokens=report.tokens, factors=seconds.factors,
        ),
        notes=(*notes, *(f"{bound_line(bound)}: {_less((bound,))}" for bound in likely)),
    )  # fmt: skip


def _compared(bound: BudgetBound, span: forecast.Range, evaluation: float) -> BudgetBound:
    """Return the bound with its estimate and status. ``evaluation``: its part of ``span``, which cannot shrink."""
    parts: dict[Status, float] = {
        "exceeds": span.low, "likely exceeds": span.middle, "may exceed": span.high
    }  # fmt: skip
    status = next((name for name, part in parts.items() if part > bound.at_most), "within")
    training = span.middle - evaluation
    fits = (bound.at_most - evaluation) / training if training > 0 else 1.0
    return bound.model_copy(
        update={
            "estimate": span,
            "status": status,
            "fits": min(fits, forecast.MOST) if fits > 0 else None,
        }
    )
