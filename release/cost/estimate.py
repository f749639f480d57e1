"""estimate: what the training that params.yaml asks for will cost, against the budget, before a GPU is used.

It is scaled, as ``checks.cost`` says, from the last training on the same device that git has a record of. Only a
training that cannot keep within the section train_budget is refused, of the work tree and of the target branch. What a
training took in the end is shown in the comment and decides nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import PlainSerializer

from checks import cost, digest, layout
from checks.cost import Span, Step
from checks.errors import DataRefused, EvidenceRefused, ParamsRefused, VerdictFailed
from checks.evidence import Count, DataReport, FetchReport, TrainMeasured, TrainReport
from checks.params import Params
from checks.rows import Record
from release.adapters import commits
from release.cost import throughput, training_ahead, training_record
from release.cost.training_ahead import Seconds
from release.cost.training_record import Recorded, Unscalable
from release.record import lock_check
from release.record.records import Records, WorkTree

NOTHING = "nothing to train: the record is of these parameters"
NO_HISTORY = "no estimate: nothing was recorded to scale from"
_BEFORE = ("fetch", "prepare", "validate", "train")  # the stages that decide whether training runs at all
_METRICS = ("train_minutes", "gpu_hours", "cost")  # the bounds of a TrainBudget
Status = Literal["within", "may exceed", "likely exceeds", "exceeds", "not estimated"]


# Figures between bounds, and steps of the scaling: objects with the names of their parts in JSON.
Range = Annotated[Span, PlainSerializer(Span._asdict)]
Factor = Annotated[Step, PlainSerializer(Step._asdict)]


class Asked(Record):
    """One bound of a train_budget; ``policy`` is the params.yaml that it is in.

    ``exceeds``: even the low end is above it. ``likely exceeds``: the middle is. ``may exceed``: the high end is.
    ``fits``: how much of this training would be within it, as a share; None where no training would.
    """

    policy: str
    metric: str
    at_most: float
    estimate: Range | None = None
    status: Status = "not estimated"
    fits: float | None = None


class Basis(Record):
    """The training that was scaled from."""

    ref: str
    commit: str
    device: str
    seconds: float
    rows: Count
    epochs: float
    tokens: Count | None
    factors: tuple[Factor, ...]


class Estimate(Record):
    """``headline`` says it in a line; a figure is None where there is no estimate of it."""

    status: Literal["estimated", "nothing to train", "no estimate"]
    headline: str
    minutes: Range | None = None
    gpu_hours: Range | None = None
    cost: Range | None = None
    hourly_price: float | None = None
    bounds: tuple[Asked, ...] = ()
    basis: Basis | None = None
    notes: tuple[str, ...] = ()


def estimate(root: Path, ref: str | None = None, device: str | None = None) -> Estimate:
    """Estimate the training that lies ahead below ``root``, where validate has run.

    Held against the budget here and that of ``ref``, or of the branch that ``commits.target`` finds. ``device``: part
    of the name of the one that will train; None: that of the last record. Raises ParamsRefused for params.yaml,
    DataRefused when validate refused the data, EvidenceRefused when its report cannot be read, is about other splits,
    or git knows no ``ref``, MachineRefused when there is no git.
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
    ahead = training_ahead.planned(params.train, data, base)
    why: list[str] = []
    for name, commit in places.items():
        try:
            recorded = _record(records, name, commit, device)
            return _estimated(
                recorded, training_ahead.seconds(root, ahead, params.train, recorded), bounds, prices, notes
            )
        except Unscalable as unscalable:
            why.append(str(unscalable))
    if device:
        why.append(throughput.fastest(records, ahead, params.train, device, places))
    without = ("without an estimate no training is refused",) if bounds else ()
    return Estimate(status="no estimate", headline=NO_HISTORY, bounds=bounds, notes=(*why, *without, *notes))


def refusal(found: Estimate) -> VerdictFailed | None:
    """What an estimate raises whose low end is above a bound; None for any other."""
    over = [bound for bound in found.bounds if bound.status == "exceeds"]
    if not over:
        return None
    first, *others = map(told, over)
    todo = f"{_less(over)}, or let code owners raise the bound on the target branch"
    return VerdictFailed(f"over the budget before training: {first}", todo, tuple(others))


def told(bound: Asked) -> str:
    """A bound and its estimate, for a person."""
    where = f"{bound.policy}: train_budget.{bound.metric}"
    if bound.estimate is None:
        return f"{where} at most {bound.at_most:,.6g}, {bound.status}"
    low, middle, high = map(cost.shown, bound.estimate)
    return f"{where} {middle} ({low} to {high}) {bound.status} {bound.at_most:,.6g}"


def after_the_fact(
    records: Records, params: Params, ref: str, commit: str, report: TrainReport, took: TrainMeasured
) -> Seconds | None:
    """What would have been estimated of the training of ``report`` and ``took``, from the record at ``commit``.

    None where there is nothing to scale from, nothing was trained since, or what lies here does not say enough.
    """
    try:
        recorded = training_record.read(records.at(commit), ref)
        test_rows = records.work_tree.report(layout.DATA_REPORT, DataReport).rows.get("test", 0)
        if (recorded.report, recorded.measured) == (report, took):
            return None
        return training_ahead.seconds(records.root, training_ahead.done(report, test_rows), params.train, recorded)
    except (EvidenceRefused, Unscalable):
        return None


def _less(over: Sequence[Asked]) -> str:
    """What would bring the middle of the estimates within their bounds."""
    share = min((bound.fits or 0 for bound in over), default=0)
    less = f"train {share:.0%} of it" if share >= 0.01 else "train far less"
    return f"{less} (train.epochs or max_steps, train.lora.layers, rows, a smaller base)"


def _hold(root: Path, data: DataReport) -> None:
    """The splits that lie here are those that validate passed."""
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
    """Names and commits of the records to scale from, the target branch's first."""
    if not commits.has_repository(root):
        if ref is not None:
            raise EvidenceRefused(f"{ref}: there is no git repository here", "run it in a clone")
        return {}
    name, commit = commits.target(root, ref)
    head = commits.resolve(root, "HEAD")
    found = {name: commit} if commit else {}
    return found | {"HEAD": head} if head is not None and head != commit else found


def _record(records: Records, name: str, commit: str, device: str | None) -> Recorded:
    """The record at ``commit``, or the last one up to it that was made on ``device``."""
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
) -> tuple[tuple[Asked, ...], dict[str, float], tuple[str, ...]]:
    """What both policies ask, each bound once; the price by policy; and what must be known of them."""
    budgets = {layout.PARAMS.as_posix(): params.train_budget}
    notes: tuple[str, ...] = ()
    name, commit = next(iter(places.items()), ("", ""))
    if commit:
        where = f"{name}:{layout.PARAMS}"
        try:
            if records.at(commit).data(layout.PARAMS) is None:
                notes = (f"{where}: is not there: only the budget here is held",)
            else:
                budgets[where] = records.at(commit).params(where).train_budget
        except ParamsRefused:
            notes = (f"{where}: this version cannot read it: only the budget here is held",)
    asked: dict[tuple[object, ...], Asked] = {}
    for policy, budget in budgets.items():
        for metric in _METRICS:
            if (bound := getattr(budget, metric)) is not None:
                key = (metric, bound, budget.hourly_price if metric == "cost" else None)
                asked.setdefault(key, Asked(policy=policy, metric=metric, at_most=bound))
    prices = {policy: budget.hourly_price for policy, budget in budgets.items() if budget.hourly_price}
    return tuple(asked.values()), prices, notes


def _is_trained(tree: WorkTree, data: DataReport, base: str) -> bool:
    """Whether DVC would take the training from its record."""
    try:
        report = tree.report(layout.TRAIN_REPORT, TrainReport)
    except EvidenceRefused:
        return False
    return report.splits == data.splits and report.base == base and not lock_check.differences(tree, _BEFORE)


def _estimated(
    recorded: Recorded, seconds: Seconds, bounds: tuple[Asked, ...], prices: Mapping[str, float], notes: tuple[str, ...]
) -> Estimate:
    report, measured = recorded.report, recorded.measured
    cpu = measured.device.startswith("cpu")
    minutes, hours = seconds.train.times(1 / 60), seconds.device.times(1 / 3600)
    on_gpu = hours.times(0 if cpu else 1)
    if cpu and any(each.metric == "gpu_hours" for each in bounds):
        notes = (*notes, "gpu_hours is 0 on a CPU, where the record was made: there is no estimate for a GPU")
    if not seconds.answers_known:
        notes = (*notes, "hours and cost are of training alone: the record does not say how fast answers come")
    asked = tuple(
        _asked(each, minutes, seconds.train, seconds)
        if each.metric == "train_minutes"
        else _asked(
            each, on_gpu if each.metric == "gpu_hours" else hours.times(prices[each.policy]), seconds.device, seconds
        )
        for each in bounds
    )
    notes = (*notes, *(f"{told(each)}: {_less((each,))}" for each in asked if each.status == "likely exceeds"))
    price = prices.get(layout.PARAMS.as_posix()) or next((prices[b.policy] for b in bounds if b.metric == "cost"), None)
    return Estimate(
        status="estimated",
        headline="training: {1} min ({0} to {2})".format(*map(cost.shown, minutes)),
        minutes=minutes,
        gpu_hours=on_gpu,
        cost=hours.times(price) if price else None,
        hourly_price=price,
        bounds=asked,
        basis=Basis(
            ref=recorded.ref, commit=recorded.commit, device=measured.device, seconds=measured.seconds,
            rows=report.rows, epochs=report.epochs, tokens=report.tokens, factors=seconds.factors,
        ),
        notes=notes,
    )  # fmt: skip


def _asked(bound: Asked, span: Span, whole: Span, seconds: Seconds) -> Asked:
    """A bound against its estimate. ``whole``: the same in seconds; what is not training no shorter one saves."""
    train, answers = seconds.train.middle, whole.middle - seconds.train.middle
    left = whole.middle * bound.at_most / span.middle - answers if span.middle > 0 else whole.middle
    fits = left / train if train > 0 else 0
    status: Status = "may exceed" if span.high > bound.at_most else "within"
    if span.middle > bound.at_most:
        status = "exceeds" if span.low > bound.at_most else "likely exceeds"
    return bound.model_copy(
        update={"estimate": span, "status": status, "fits": cost.bounded(fits) if fits > 0 else None}
    )
