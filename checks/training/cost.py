"""How long a training takes, from one that was measured: arithmetic alone, with how far it may be off.

The time goes by the floating-point operations. A token's forward pass takes 2 for each parameter, its backward pass 2
for the gradients of activations and 2 for those of weights: 6 N together (Kaplan et al. 2020, arXiv:2001.08361,
section 2.1; N leaves out the embeddings, and attention's own products, small for short rows, are left out too). LoRA
leaves out more: the base's weights need no gradients, and below the lowest layer that is adapted nothing is passed
back. What remains for a token, with A parameters in the adapter and b the share of N that is passed back through:

    2 N (1 + b) + 6 A

Gradient checkpointing computes the forward pass once more, and TRL then asks for gradients of the inputs, so that
everything is passed back through: 2 N (1 + 1 + 1) + 6 A. Where T of the base's own parameters are trained instead of an
adapter, 2 T takes the place of 6 A.
"""

import math
from typing import NamedTuple

from checks.training.interface import Train

MOST = 1e15  # what is larger counts as this: no figure is infinite, and none overflows
_UNKNOWN = 0.5  # share that is passed back through, where nobody knows
_HALF = 3.0  # how much faster a GPU is in 16 bits: memory says 2, its units 16, and not all is products

# How far a step may be off, as a factor in both directions.
_ALWAYS = 1.5  # the machine, its load, kernels, padding
_OTHER_BASE = 2.0  # together with the former: 3
_UNKNOWN_SHARE = 1.35
_TEXT, _UNKNOWN_TEXT = 1.25, 1.5
_PRECISION_CPU, _PRECISION_GPU = 2.0, 3.0
_OTHER_DEVICES = 1.5  # they wait for one another at each step
_QUANTISED, _DORA = 1.5, 2.0  # weights made whole for each product; rows measured in each
_PACKED = 1.5  # no padding, but attention over all sequences of a batch at once
_OWN = 2.0  # the optimiser's step takes time too, which goes by steps and not by tokens


class Training(NamedTuple):
    """The quantities that determine how long a training takes.

    ``parameters``: those that every token is multiplied with; ``passed_back``: the share of them that gradients pass
    through (None: unknown); ``adapter``: LoRA's parameters; ``own``: those of the base's own that are trained.
    ``row_bytes``: mean size of a row in bytes of JSON. ``batch``: rows of a forward pass, on average.
    """

    rows: int
    epochs: float
    batch: float
    parameters: int
    passed_back: float | None
    adapter: int
    checkpointing: bool
    precision: str
    row_bytes: float | None
    quantised: bool = False
    dora: bool = False
    devices: int = 1
    own: int = 0
    packed: bool = False

    @property
    def row_passes(self) -> float:
        """The number of rows that go through the model in the whole training."""
        return bounded(bounded(self.rows) * bounded(self.epochs))

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations per token."""
        back = 1.0 if self.checkpointing else _UNKNOWN if self.passed_back is None else self.passed_back
        forward = 2 * bounded(self.parameters)
        return forward * (1 + back + self.checkpointing) + 6 * bounded(self.adapter) + 2 * bounded(self.own)


class Step(NamedTuple):
    """One factor, its reason, and its uncertainty below and above, as factors of at least 1."""

    why: str
    times: float
    below: float
    above: float


class Span(NamedTuple):
    """A figure with its bounds."""

    low: float
    middle: float
    high: float

    def __add__(self, other: object) -> "Span":
        """The sum; the bounds are added as if both errors had the same sign."""
        if not isinstance(other, Span):
            return NotImplemented
        return Span(*(bounded(one + another) for one, another in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Span":
        """The figure in another unit."""
        return Span(*(bounded(value * factor) for value in self))


def bounded(value: float) -> float:
    """``value`` as a float, at most MOST."""
    return float(min(value, MOST))


def shown(value: float) -> str:
    """A number for people: 0.444, 4,334 or 312 M."""
    if value < 1e5:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    unit, name = next(each for each in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= each[0])
    return f"{value / unit:,.0f} {name}" if value >= 100 * unit else f"{value / unit:.3g} {name}"


def epochs(train: Train, rows: int) -> float:
    """Passes over ``rows`` rows or packed sequences, as the trainer counts them; an incomplete last batch counts."""
    if train.max_steps is None:
        return bounded(train.epochs or 1)
    return bounded(train.max_steps) / train.steps_of_epoch(rows)


def steps(old: Training, new: Training, same_base: bool, same_rows: bool, device: str) -> tuple[Step, ...]:
    """The factors between the times of ``old`` and ``new`` on the same device."""
    found = [
        _step(
            f"rows x epochs: {shown(new.row_passes)}, recorded {shown(old.row_passes)}", new.row_passes / old.row_passes
        ),
        _step(
            f"operations for a token: {shown(new.flops_per_token)}, recorded {shown(old.flops_per_token)}",
            new.flops_per_token / old.flops_per_token,
        ),
    ]
    if not same_rows:
        found.append(_text(old, new))
    if not same_base:
        found.append(_step("another base model", 1, _OTHER_BASE))
    if (old.passed_back is None) != (new.passed_back is None) and not (old.checkpointing and new.checkpointing):
        found.append(_step("how many layers are passed back through is not known", 1, _UNKNOWN_SHARE))
    # A device that waits for its orders takes as long for a small batch as for a large one.
    per_row = _batches_per_row(new) / _batches_per_row(old)
    if per_row != 1:
        found.append(
            Step("batches of another size, if the time goes by batches", 1, max(1, 1 / per_row), max(1, per_row))
        )
    if (old.precision == "fp32") != (new.precision == "fp32"):
        found.append(_precision(new.precision == "fp32", device.startswith("cpu")))
    if old.quantised != new.quantised:
        found.append(_step(f"a base in 4 bits {'here' if new.quantised else 'there'} alone", 1, _QUANTISED))
    if old.dora != new.dora:
        found.append(_step(f"DoRA {'here' if new.dora else 'there'} alone", 1, _DORA))
    if old.packed != new.packed:
        found.append(_step(f"packed rows {'here' if new.packed else 'there'} alone", 1, _PACKED))
    if bool(old.own) != bool(new.own):
        found.append(_step(f"full fine-tuning {'here' if new.own else 'there'} alone", 1, _OWN))
    if old.devices != new.devices:
        why = f"devices: {new.devices}, recorded {old.devices}"
        found.append(_step(why, old.devices / new.devices, _OTHER_DEVICES))
    return (*found, _step("the machine and its load", 1, _ALWAYS))


def scaled(seconds: float, factors: tuple[Step, ...]) -> Span:
    """``seconds`` times every factor, with the combined bounds."""
    middle = bounded(seconds)
    for step in factors:
        middle = bounded(middle * step.times)
    below = math.prod(bounded(step.below) for step in factors)
    above = math.prod(bounded(step.above) for step in factors)
    return Span(middle / below, middle, bounded(middle * above))


def answering(rows: int, per_second: float, parameters: float, same_base: bool) -> Span:
    """Seconds to answer ``rows`` rows; ``parameters``: the ratio of the new model's parameters to the old one's."""
    wide = _ALWAYS * (1 if same_base else _OTHER_BASE)
    return scaled(bounded(rows) / per_second, (_step("answers", parameters, wide),))


def _step(why: str, times: float, wide: float = 1.0) -> Step:
    return Step(why, bounded(times), wide, wide)


def _text(old: Training, new: Training) -> Step:
    """Other rows have other lengths: bytes are used instead of tokens, with bounds that widen with the difference."""
    if old.row_bytes is None or new.row_bytes is None:
        return _step("other rows, of lengths that are not known", 1, _UNKNOWN_TEXT)
    ratio = new.row_bytes / old.row_bytes
    apart = math.sqrt(max(ratio, 1 / ratio))
    why = f"other rows: {new.row_bytes:,.0f} bytes on average, recorded {old.row_bytes:,.0f}"
    return _step(why, ratio, max(_TEXT, apart))


def _precision(to_fp32: bool, cpu: bool) -> Step:
    why = "fp32, recorded 16 bits" if to_fp32 else "16 bits, recorded fp32"
    if cpu:  # some processors have units for bf16, others imitate it
        return _step(f"{why}, on a CPU", 1, _PRECISION_CPU)
    return _step(why, _HALF if to_fp32 else 1 / _HALF, _PRECISION_GPU)


def _batches_per_row(training: Training) -> float:
    rows = max(1, training.rows)
    return bounded(-(-rows // training.batch)) / bounded(rows)
