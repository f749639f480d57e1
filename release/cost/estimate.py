"""estimate: what the training that params.yaml asks for will cost, against the budget, before a GPU is used.

It is scaled from the last training that git has a record of, as ``checks.cost`` says, on the device of that record.
Only a training that cannot keep within the section train_budget is refused, of the work tree and of the target branch.
What a training took in the end is shown in the comment and decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from checks import cost, digest, files, layout, params_file
from checks.cost import Span
from checks.errors import DataRefused, EvidenceRefused, ParamsRefused, VerdictFailed
from checks.evidence import Count, DataReport, FetchReport, TrainMeasured, TrainReport
from checks.params import Params, TrainBudget
from checks.rows import Record
from release.adapters import commits
from release.cost import training_ahead, training_record
from release.cost.training_ahead import Seconds
from release.cost.training_record import Recorded
from release.record import lock_check
from release.record.records import WorkTree

NOTHING = "nothing to train: the record is of these parameters"
NO_HISTORY = "no estimate: nothing was recorded to scale from"
_BEFORE = ("fetch", "prepare", "validate", "train")  # the stages that decide whether training runs at all
_METRICS = ("train_minutes", "gpu_hours", "cost")  # the bounds of a TrainBudget
Status = Literal["within", "may exceed", "likely exceeds", "exceeds", "not estimated"]


class Range(Record):
    """A figure between bounds."""

    low: float
    middle: float
    high: float


class Asked(Record):
    """One bound of a train_budget; ``policy`` is the params.yaml that it is in.

    ``exceeds``: even the low end is above it. ``likely exceeds``: the middle is. ``may exceed``: the high end is.
    ``fits``: how much of this training would be within it, as a share; None where no training would.
    """

    policy: str
    metric: str
    at_most: float
    estimate: Range | None
    status: Status
    fits: float | None


class Factor(Record):
    """One step of the scaling, and by which factors the truth may lie below and above."""

    why: str
    times: float
    below: float
    above: float


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


class _Bound(NamedTuple):
    policy: str
    metric: str
    at_most: float
    price: float | None


def estimate(root: Path, ref: str | None = None) -> Estimate:
    """Estimate the training that lies ahead below ``root``, where validate has run.

    Held against the budget here and that of ``ref``, or of the branch that ``commits.target`` finds. Raises
    ParamsRefused for params.yaml, DataRefused when validate refused the data, EvidenceRefused when its report cannot
    be read, is about other splits, or git knows no ``ref``, MachineRefused when there is no git.
    """
    params = params_file.load(root / layout.PARAMS)
    data = files.read_json(root / layout.DATA_REPORT, DataReport)
    base = files.read_json(root / layout.FETCH_REPORT, FetchReport).base.digest
    _hold(root, data)
    places = _places(root, ref)
    bounds, notes = _bounds(root, params, places)
    if _is_trained(root, data, base):
        return Estimate(status="nothing to train", headline=NOTHING, notes=notes)
    ahead = training_ahead.planned(params.train, data, base)
    why = []
    for name, commit in places.items():
        recorded = training_record.read(root, name, commit)
        seconds = recorded if isinstance(recorded, str) else training_ahead.seconds(root, ahead, params.train, recorded)
        if not isinstance(recorded, str) and not isinstance(seconds, str):
            return _estimated(recorded, seconds, bounds, params.train_budget.hourly_price, notes)
        why.append(str(seconds))
    unasked = tuple(
        Asked(
            policy=each.policy, metric=each.metric, at_most=each.at_most, estimate=None, status="not estimated",
            fits=None,
        )
        for each in bounds
    )  # fmt: skip
    without = ("without an estimate no training is refused",) if unasked else ()
    return Estimate(status="no estimate", headline=NO_HISTORY, bounds=unasked, notes=(*why, *without, *notes))


def refusal(found: Estimate) -> VerdictFailed | None:
    """What an estimate raises whose low end is above a bound; None for any other."""
    over = [bound for bound in found.bounds if bound.status == "exceeds"]
    if not over:
        return None
    first, *others = map(told, over)
    return VerdictFailed(
        f"over the budget before training: {first}",
        f"{_less(over)}, or let code owners raise the bound on the target branch", tuple(others),
    )  # fmt: skip


def told(bound: Asked) -> str:
    """A bound and its estimate, for a person."""
    where = f"{bound.policy}: train_budget.{bound.metric}"
    if bound.estimate is None:
        return f"{where} at most {bound.at_most:,.6g}, {bound.status}"
    low, middle, high = map(cost.shown, (bound.estimate.low, bound.estimate.middle, bound.estimate.high))
    return f"{where} {middle} ({low} to {high}) {bound.status} {bound.at_most:,.6g}"


def after_the_fact(
    root: Path, params: Params, ref: str, commit: str, report: TrainReport, took: TrainMeasured
) -> Seconds | None:
    """What would have been estimated of the training of ``report`` and ``took``, from the record at ``commit``.

    None where there is nothing to scale from, nothing was trained since, or what lies here does not say enough.
    """
    recorded = training_record.read(root, ref, commit)
    try:
        test_rows = files.read_json(root / layout.DATA_REPORT, DataReport).rows.get("test", 0)
    except EvidenceRefused:
        return None
    if isinstance(recorded, str) or (recorded.report, recorded.measured) == (report, took):
        return None
    found = training_ahead.seconds(root, training_ahead.done(report, test_rows), params.train, recorded)
    return None if isinstance(found, str) else found


def _less(over: Sequence[Asked]) -> str:
    """What would bring the middle of the estimates within their bounds."""
    share = min((bound.fits or 0 for bound in over), default=0)
    less = f"train {share:.0%} of it" if share >= 0.01 else "train far less"
    return f"{less} (train.epochs or max_steps, train.lora.layers, rows, a smaller base)"


def _hold(root: Path, data: DataReport) -> None:
    """The splits that lie here are those that validate passed."""
    if not data.success:
        raise DataRefused(
            f"{layout.DATA_REPORT}: an expectation on the splits fails", "mend the data: nothing is trained"
        )
    if not data.rows.get("train"):
        raise DataRefused(f"{layout.DATA_REPORT}: there are no rows to train on", "run `lockstep run validate`")
    for name, expected in data.splits.items():
        path = layout.SPLITS / f"{name}.jsonl"
        if digest.of_file(root / path).sha256 != expected:
            raise EvidenceRefused(f"{path}: is not what {layout.DATA_REPORT} is about", "run `lockstep run validate`")


def _places(root: Path, ref: str | None) -> dict[str, str]:
    """Names and commits of the records to scale from, the target branch's first."""
    if not commits.has_repository(root):
        if ref is not None:
            raise EvidenceRefused(f"{ref}: there is no git repository here", "run it in a clone")
        return {}
    name, commit = commits.target(root, ref)
    head = commits.resolve(root, "HEAD")
    found = {name: commit} if commit else {}
    if head is not None and head != commit:
        found["HEAD"] = head
    return found


def _bounds(root: Path, params: Params, places: Mapping[str, str]) -> tuple[tuple[_Bound, ...], tuple[str, ...]]:
    """What both policies ask, each bound once; and what must be known of them."""
    found = list(_of(params.train_budget, layout.PARAMS.as_posix()))
    name, commit = next(iter(places.items()), ("", ""))
    if not commit:
        return tuple(found), ()
    where = f"{name}:{layout.PARAMS}"
    try:
        text = commits.read(root, commit, layout.PARAMS)
        theirs = params_file.parse(text.decode(), where) if text is not None else None
    except (ParamsRefused, UnicodeDecodeError):
        return tuple(found), (f"{where}: this version cannot read it: only the budget here is held",)
    if theirs is None:
        return tuple(found), (f"{where}: is not there: only the budget here is held",)
    mine = {each._replace(policy="") for each in found}
    found += [each for each in _of(theirs.train_budget, where) if each._replace(policy="") not in mine]
    return tuple(found), ()


def _of(budget: TrainBudget, policy: str) -> Iterator[_Bound]:
    for metric in _METRICS:
        if (bound := getattr(budget, metric)) is not None:
            yield _Bound(policy, metric, bound, budget.hourly_price if metric == "cost" else None)


def _is_trained(root: Path, data: DataReport, base: str) -> bool:
    """Whether DVC would take the training from its record."""
    try:
        report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    except EvidenceRefused:
        return False
    return report.splits == data.splits and report.base == base and not lock_check.differences(WorkTree(root), _BEFORE)


def _estimated(
    recorded: Recorded, seconds: Seconds, bounds: tuple[_Bound, ...], price: float | None, notes: tuple[str, ...]
) -> Estimate:
    minutes, hours = seconds.train.times(1 / 60), seconds.device.times(1 / 3600)
    on_gpu = hours.times(0 if recorded.measured.device.startswith("cpu") else 1)
    if recorded.measured.device.startswith("cpu") and any(each.metric == "gpu_hours" for each in bounds):
        notes = (*notes, "gpu_hours is 0 on a CPU, where the record was made: there is no estimate for a GPU")
    price = price or next((each.price for each in bounds if each.price), None)
    if not seconds.answers_known:
        notes = (*notes, "hours and cost are of training alone: the record does not say how fast answers come")
    asked = tuple(
        _asked(each, {"train_minutes": minutes, "gpu_hours": on_gpu, "cost": hours.times(each.price or 0)}[each.metric],
               0 if each.metric == "train_minutes" else seconds.device.middle - seconds.train.middle, seconds)
        for each in bounds
    )  # fmt: skip
    notes = (*notes, *(f"{told(each)}: {_less((each,))}" for each in asked if each.status == "likely exceeds"))
    report = recorded.report
    return Estimate(
        status="estimated",
        headline="training: {1} min ({0} to {2})".format(*map(cost.shown, minutes)),
        minutes=_range(minutes),
        gpu_hours=_range(on_gpu),
        cost=_range(hours.times(price)) if price else None,
        hourly_price=price,
        bounds=asked,
        basis=Basis(
            ref=recorded.ref, commit=recorded.commit, device=recorded.measured.device,
            seconds=recorded.measured.seconds, rows=report.rows, epochs=report.epochs, tokens=report.tokens,
            factors=tuple(Factor(**step._asdict()) for step in seconds.factors),
        ),
        notes=notes,
    )  # fmt: skip


def _asked(bound: _Bound, span: Span, answers: float, seconds: Seconds) -> Asked:
    """A bound against its estimate. ``answers``: seconds that no shorter training saves."""
    whole = answers + seconds.train.middle
    # The bound in seconds of the device, less the answers, of the training's.
    left = whole * bound.at_most / span.middle - answers if span.middle > 0 else whole
    fits = left / seconds.train.middle if seconds.train.middle > 0 else None
    return Asked(
        policy=bound.policy, metric=bound.metric, at_most=bound.at_most, estimate=_range(span),
        status=_status(span, bound.at_most), fits=cost.bounded(fits) if fits is not None and fits > 0 else None,
    )  # fmt: skip


def _status(span: Span, at_most: float) -> Status:
    if span.low > at_most:
        return "exceeds"
    if span.middle > at_most:
        return "likely exceeds"
    return "may exceed" if span.high > at_most else "within"


def _range(span: Span) -> Range:
    return Range(low=span.low, middle=span.middle, high=span.high)
