"""estimate: predicts the time and cost of a training before it runs, and compares them with the budget.

The prediction is scaled (``checks.training.cost``) from the last recorded training on the same device. A training is
refused only if even the low end of its estimate exceeds a bound of ``train_budget``, in the work tree or on the target
branch. The actual time is shown in the comment and decides nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import PlainSerializer

from checks import digest, layout
from checks.config.params import Params
from checks.errors import DataRefused, EvidenceRefused, ParamsRefused, Refusal, VerdictFailed
from checks.formats.data_reports import DataReport, FetchReport
from checks.formats.report import Count
from checks.formats.training_reports import TrainReport
from checks.rows import Record
from checks.training import cost
from checks.training.cost import Span, Step
from release.adapters import commits
from release.cost import memory_ahead, throughput, training_ahead, training_record
from release.cost.memory_ahead import MemoryAhead
from release.cost.training_ahead import Seconds
from release.cost.types import RecordedTraining, Unscalable
from release.record import lock_check
from release.record.records import Records, WorkTree

NOTHING = "nothing to train: the record is of these parameters"
NO_HISTORY = "no estimate: nothing was recorded to scale from"
_BEFORE = ("fetch", "prepare", "validate", "train")  # the stages that decide whether training runs at all
_METRICS = ("train_minutes", "gpu_hours", "cost")  # the bounds of a TrainBudget
Status = Literal["within", "may exceed", "likely exceeds", "exceeds", "not estimated"]


# In JSON these are objects with named parts.
Range = Annotated[Span, PlainSerializer(Span._asdict)]
Factor = Annotated[Step, PlainSerializer(Step._asdict)]


class BudgetBound(Record):
    """One bound of a train_budget; ``policy`` names the params.yaml that sets it.

    ``status`` says which part of the estimate is above the bound: ``exceeds`` the low end, ``likely exceeds`` the
    middle, ``may exceed`` the high end. ``fits``: the share of this training that the bound allows; None if none.
    """

    policy: str
    metric: str
    at_most: float
    estimate: Range | None = None
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
    factors: tuple[Factor, ...]


class Estimate(Record):
    """The estimate; ``headline`` sums it up in one line. A figure without an estimate is None."""

    status: Literal["estimated", "nothing to train", "no estimate"]
    headline: str
    minutes: Range | None = None
    gpu_hours: Range | None = None
    cost: Range | None = None
    hourly_price: float | None = None
    bounds: tuple[BudgetBound, ...] = ()
    basis: Basis | None = None
    memory: MemoryAhead | None = None
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
    _hold(root, data)
    places = _places(root, ref)
    bounds, prices, notes = _bounds(records, params, places)
    if _is_trained(tree, data, base):
        return Estimate(status="nothing to train", headline=NOTHING, notes=notes)
    without = ("without an estimate no training is refused",) if bounds else ()
    ahead = training_ahead.planned(root, params.training, data, base)
    why: list[str] = []
    for name, commit in places.items():
        try:
            recorded = _record(records, name, commit, device)
            seconds = training_ahead.seconds(root, ahead, recorded)
            needs = memory_ahead.bounds(root, params, data, base, recorded)
            return _estimated(recorded, seconds, bounds, prices, notes).model_copy(update={"memory": needs})
        except Unscalable as unscalable:
            why.append(str(unscalable))
    if device:
        why.append(throughput.fastest(records, ahead, device, places))
    needs = memory_ahead.bounds(root, params, data, base, None)
    return Estimate(
        status="no estimate", headline=NO_HISTORY, bounds=bounds, memory=needs, notes=(*why, *without, *notes)
    )


def refusal(found: Estimate) -> Refusal | None:
    """The refusal for an estimate whose low end is above a bound, or that does not fit; None for any other estimate."""
    over = [bound for bound in found.bounds if bound.status == "exceeds"]
    if not over:
        return found.memory.refusal() if found.memory else None
    first, *others = map(bound_line, over)
    todo = f"{_less(over)}, or let code owners raise the bound on the target branch"
    return VerdictFailed(f"over the budget before training: {first}", todo, tuple(others))


def bound_line(bound: BudgetBound) -> str:
    """A bound and its estimate on one line."""
    where = f"{bound.policy}: train_budget.{bound.metric}"
    if bound.estimate is None:
        return f"{where} at most {bound.at_most:,.6g}, {bound.status}"
    low, middle, high = map(cost.shown, bound.estimate)
    return f"{where} {middle} ({low} to {high}) {bound.status} {bound.at_most:,.6g}"


def _less(over: Sequence[BudgetBound]) -> str:
    """How to bring the middle of the estimates within their bounds."""
    share = min((bound.fits or 0 for bound in over), default=0)
    part = f"{share:.0%}" if share >= 0.01 else "less than 1%"
    how = "lower train.epochs or max_steps, fewer layers of train.lora or train.full, fewer rows, a smaller base"
    return f"shorten the training to {part} of its estimated time ({how})"


def _hold(root: Path, data: DataReport) -> None:
    """Check that the splits on disk are those that validate passed."""
    report, again = layout.DATA_REPORT, "run `lockstep run validate`"
    if not data.success:
        raise DataRefused(f"{report}: an expectation on the splits fails", "fix the data: nothing is trained")
    if not data.rows.get("train"):
        raise DataRefused(f"{report}: there are no rows to train on", again)
    for name, expected in data.splits.items():
        path = layout.SPLITS / f"{name}.jsonl"
        if digest.of_file(root / path).sha256 != expected:
            raise EvidenceRefused(f"{path}: is not what {report} is about", again)


def _places(root: Path, ref: str | None) -> dict[str, str]:
    """Refs and commits whose records can be scaled from; the target branch comes first."""
    if not commits.has_repository(root):
        if ref is not None:
            raise EvidenceRefused(f"{ref}: there is no git repository here", "run it in a clone")
        return {}
    name, commit = commits.target(root, ref)
    head = commits.resolve(root, "HEAD")
    found = {name: commit} if commit else {}
    return found | {"HEAD": head} if head is not None and head != commit else found


def _record(records: Records, name: str, commit: str, device: str | None) -> RecordedTraining:
    """The record at ``commit``; with ``device``, the latest record up to it of a training on that device."""
    if device is None:
        return training_record.read(records.at(commit), name)
    for earlier in commits.touching(records.root, commit, layout.TRAIN_MEASURED):
        with suppress(Unscalable):
            recorded = training_record.read(records.at(earlier), name)
            if device.lower() in recorded.measured.device.lower():
                return recorded
    raise Unscalable(f"{name} has no record of a training on {device}")


def _bounds(
    records: Records, params: Params, places: Mapping[str, str]
) -> tuple[tuple[BudgetBound, ...], dict[str, float], tuple[str, ...]]:
    """The bounds of both policies without duplicates, the hourly price by policy, and notes."""
    budgets = {layout.PARAMS.as_posix(): params.train_budget}
    notes: tuple[str, ...] = ()
    name, commit = next(iter(places.items()), ("", ""))
    if commit:
        where = f"{name}:{layout.PARAMS}"
        try:
            if records.at(commit).data(layout.PARAMS) is None:
                notes = (f"{where}: missing; only the budget of the work tree applies",)
            else:
                budgets[where] = records.at(commit).params(where).train_budget
        except ParamsRefused:
            notes = (f"{where}: this version cannot read it; only the budget of the work tree applies",)
    found: dict[tuple[object, ...], BudgetBound] = {}
    for policy, budget in budgets.items():
        for metric in _METRICS:
            if (bound := getattr(budget, metric)) is not None:
                key = (metric, bound, budget.hourly_price if metric == "cost" else None)
                found.setdefault(key, BudgetBound(policy=policy, metric=metric, at_most=bound))
    prices = {policy: budget.hourly_price for policy, budget in budgets.items() if budget.hourly_price}
    return tuple(found.values()), prices, notes


def _is_trained(tree: WorkTree, data: DataReport, base: str) -> bool:
    """Whether the training is already recorded for these inputs, so that DVC would not run it."""
    try:
        report = tree.report(layout.TRAIN_REPORT, TrainReport)
    except EvidenceRefused:
        return False
    return report.splits == data.splits and report.base == base and not lock_check.differences(tree, _BEFORE)


def _estimated(
    recorded: RecordedTraining,
    seconds: Seconds,
    bounds: tuple[BudgetBound, ...],
    prices: Mapping[str, float],
    notes: tuple[str, ...],
) -> Estimate:
    report, measured = recorded.report, recorded.measured
    cpu = measured.device.startswith("cpu")
    minutes, hours = seconds.train.times(1 / 60), seconds.device.times(1 / 3600)
    on_gpu = hours.times(0 if cpu else 1)
    if cpu and any(each.metric == "gpu_hours" for each in bounds):
        notes = (*notes, "gpu_hours is 0 on a CPU, where the record was made: there is no estimate for a GPU")
    if not seconds.answers_known:
        notes = (*notes, "hours and cost cover training alone: the record has no speed of the evaluation")
    compared = tuple(
        _compared(each, minutes, seconds.train, seconds)
        if each.metric == "train_minutes"
        else _compared(
            each, on_gpu if each.metric == "gpu_hours" else hours.times(prices[each.policy]), seconds.device, seconds
        )
        for each in bounds
    )
    notes = (*notes, *(f"{bound_line(each)}: {_less((each,))}" for each in compared if each.status == "likely exceeds"))
    price = prices.get(layout.PARAMS.as_posix()) or next((prices[b.policy] for b in bounds if b.metric == "cost"), None)
    return Estimate(
        status="estimated",
        headline="training: {1} min ({0} to {2})".format(*map(cost.shown, minutes)),
        minutes=minutes,
        gpu_hours=on_gpu,
        cost=hours.times(price) if price else None,
        hourly_price=price,
        bounds=compared,
        basis=Basis(
            ref=recorded.ref, commit=recorded.commit, device=measured.device, seconds=measured.seconds,
            rows=report.rows, epochs=report.epochs, tokens=report.tokens, factors=seconds.factors,
        ),
        notes=notes,
    )  # fmt: skip


def _compared(bound: BudgetBound, span: Span, whole: Span, seconds: Seconds) -> BudgetBound:
    """The bound with its estimate and status. ``whole``: the estimated seconds; only its training part can shrink."""
    train, answers = seconds.train.middle, whole.middle - seconds.train.middle
    left = whole.middle * bound.at_most / span.middle - answers if span.middle > 0 else whole.middle
    fits = left / train if train > 0 else 0
    status: Status = "may exceed" if span.high > bound.at_most else "within"
    if span.middle > bound.at_most:
        status = "exceeds" if span.low > bound.at_most else "likely exceeds"
    return bound.model_copy(
        update={"estimate": span, "status": status, "fits": cost.bounded(fits) if fits > 0 else None}
    )
