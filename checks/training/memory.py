"""How much memory a training takes at its peak, and which change of params.yaml would make it fit: arithmetic alone.

The peak comes where the backward pass begins. Held in memory are then, in bytes:

    libraries + weights + 16 T + activations + logits

* libraries: on a CPU 800 MB of the process, which is what was left over of measured peaks.
* weights: 2 for each of the base's parameters, 4 in fp32. In nf4 those of the layers take 0.52: 4 bits, and a scale for
  each block of 64 (Dettmers et al. 2023, arXiv:2305.14314, section 3). On a CPU the file that they were read from stays
  mapped beside them.
  A base that is divided among devices (``shard``) has its part on each, and one layer at a time whole.
* T: the parameters that learn: value, gradient and AdamW's two moments in float32. Moments in 8 bits leave 10. They are
  the adapter's, or with ``full`` the base's own, which are then not among the weights; in 16 bits each has a copy of 2
  bytes for arithmetic.
* activations: what autograd keeps for the backward pass, padding included. ``stages.training.memory`` counts it. Where
  no model is loaded it is taken as 24 h + 10 i for a token and layer that gradients pass through, in 16 bits, with h
  the hidden and i the intermediate size. This fits Llamas. With gradient checkpointing each layer keeps its input
  alone, and one layer at a time is computed again (Chen et al. 2016, arXiv:1604.06174).
* logits: those that are held at once.

On a GPU the libraries take no memory, but its allocator keeps blocks that nothing uses: ``needed`` adds 15 %. That
margin is an estimate: the project has not measured a GPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from checks import files
from checks.errors import EvidenceRefused, MachineRefused, Refusal, TrainingRefused
from checks.formats.report import Count
from checks.training import tensors
from checks.training.interface import Train

GB = 1_000_000_000
LIBRARIES = 800_000_000
USABLE = 0.95  # of a device's memory: the rest is the system's, or CUDA's context
_SLACK = 1.15
_NF4 = 0.52
_LEAST = 4  # rows are not cut to less than a fourth: nobody would want that


class Sizes(NamedTuple):
    """The sizes of a base: numbers of parameters, layers, and widths.

    ``inner``: parameters in the layers. ``adapter``: those that learn, the base's own with full fine-tuning.
    """

    total: int
    inner: int
    adapter: int
    layers: int
    hidden: int
    intermediate: int


class Batch(NamedTuple):
    """The largest batch: ``rows`` sequences of ``tokens``, padding included, and the bytes of their logits."""

    rows: int
    tokens: int
    logits: int


class Limit(NamedTuple):
    """Bytes that a training may need, what sets the limit, and whether that is params.yaml."""

    size: int
    what: str
    chosen: bool


class Foretold(NamedTuple):
    """A training before it runs. ``kept``: bytes of activations per token and layer, where they were counted.

    ``scale``: measured over predicted peak of an earlier training on this kind of device, by the same formula.
    """

    train: Train
    sizes: Sizes
    batch: Batch
    cpu: bool
    kept: float | None = None
    scale: float = 1.0

    def peak(self, train: Train | None = None, tokens: int | None = None) -> int:
        """Bytes of the process on a CPU, of what is allocated on a GPU; with other parameters or shorter rows."""
        old, train, of = self.train, train or self.train, self.sizes
        tokens = self.batch.tokens if tokens is None else tokens
        share = train.batch_size / old.batch_size
        width = 4 if train.precision == "fp32" else 2
        outer = of.total - of.inner  # embeddings and head are not quantised
        weights: float = width * of.total
        if train.full and width == 4:  # among what learns
            weights -= width * of.adapter
        if train.quantization:
            weights = _NF4 * of.inner + width * (of.total if self.cpu else outer)
        if train.shard:
            weights = weights / train.devices + weights / of.layers
        state = (16 if train.optimizer == "adamw_torch" else 10) * of.adapter
        kept = (24 * of.hidden + 10 * of.intermediate) * width / 2 if self.kept is None else self.kept
        layers = 1 if train.gradient_checkpointing else passed(train, of.layers)
        inputs = of.layers * width * of.hidden if train.gradient_checkpointing else 0
        activations = share * self.batch.rows * tokens * (inputs + layers * kept)
        return round(self.scale * (LIBRARIES * self.cpu + weights + state + activations + share * self.batch.logits))

    def needed(self, train: Train | None = None, tokens: int | None = None) -> int:
        """Bytes that the device must have."""
        return round(self.peak(train, tokens) * (1 if self.cpu else _SLACK))


class _Widths(BaseModel):
    hidden_size: Count
    intermediate_size: Count


class _Config(BaseModel, extra="allow"):
    text_config: dict[str, Any] | None = None  # of a model that sees pictures too


def sizes(base: Path, train: Train) -> Sizes | None:
    """The sizes of the model in ``base`` with its adapter, by its headers and config.json; None if they do not say."""
    try:
        found = tensors.read(base)
        config = files.read_json(base / "config.json", _Config)
        widths = _Widths.model_validate(config.text_config or config.model_extra)
    except (EvidenceRefused, ValidationError):
        return None
    hidden, intermediate = widths.hidden_size, widths.intermediate_size
    return Sizes(found.total, found.inner, found.trained(train), found.layers, hidden, intermediate)


def passed(train: Train, layers: int) -> int:
    """How many layers gradients pass through: those from the lowest adapted one.

    With gradient checkpointing it is all of them, because TRL asks for the gradients of the embeddings.
    """
    return layers if train.gradient_checkpointing or train.layers is None else min(layers, train.layers)


def limit(total: int | None, device: str, train: Train) -> Limit | None:
    """The lower one of what ``device`` with ``total`` bytes can give and train.max_memory_gb; None if neither is known.

    What else runs on the device does not count: free memory would make the answer depend on the moment.
    """
    found = [Limit(int(total * USABLE), f"{USABLE:.0%} of the {gigabytes(total)} of {device}", False)] if total else []
    if train.max_memory_gb is not None:
        found.append(Limit(int(train.max_memory_gb * GB), f"train.max_memory_gb {train.max_memory_gb:g}", True))
    return min(found, default=None)


def refusal(foretold: Foretold, most: Limit | None) -> Refusal | None:
    """The refusal of a training that needs more than ``most``, with what would make it fit; None if it fits."""
    if most is None or foretold.needed() <= most.size:
        return None
    first, *others = fitting(foretold, most.size) or [""]
    also = f" (or {', or '.join(others)})" if others else ""
    todo = f"set {first}{also}" if first else "take a smaller base or a larger device: no setting makes this one fit"
    kind = TrainingRefused if most.chosen else MachineRefused
    least = "" if foretold.batch.tokens else "at least "  # the rows are not known yet
    return kind(f"training needs {least}{gigabytes(foretold.needed())} of memory, above {most.what}", todo)


def fitting(foretold: Foretold, most: int) -> list[str]:
    """The changes of the section train that need at most ``most`` bytes, the least invasive one first.

    Gradient checkpointing costs time alone, and a smaller batch with more accumulation rounds otherwise. A base in 4
    bits is another base, and shorter rows are fewer rows. They are combined only where none is enough alone.
    """
    old, checkpointing = foretold.train, {"gradient_checkpointing": True}
    nf4 = {} if old.quantization else {"quantization": {"kind": "nf4", "double": True}}
    single = [
        *_as_it_is(foretold, checkpointing, most),
        *_smaller(foretold, {}, most),
        *_as_it_is(foretold, nf4, most),
        *_shorter(foretold, {}, most),
    ]
    if single:
        return single
    alone = _batch(old, 1)
    changes: list[dict[str, Any]] = [checkpointing, checkpointing | nf4]
    for change in changes:
        if both := [*_as_it_is(foretold, change, most), *_smaller(foretold, change, most)]:
            return both[:1]
    for change in (*({**each, **alone} for each in changes), *changes):
        if found := [*_shorter(foretold, change, most)]:
            return found
    return []


def gigabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / GB:,.2f} GB" if size < 10 * GB else f"{size / GB:,.0f} GB"


def _as_it_is(foretold: Foretold, change: dict[str, Any], most: int) -> Iterator[str]:
    train = _changed(foretold.train, change)
    if train and foretold.needed(train) <= most:
        yield _text(foretold.train, train)


def _smaller(foretold: Foretold, change: dict[str, Any], most: int) -> Iterator[str]:
    """The largest batch that fits, such that a step has as many rows as before."""
    size = foretold.train.batch_size
    for rows in range(size // 2, 0, -1):
        train = None if size % rows else _changed(foretold.train, change | _batch(foretold.train, rows))
        if train and foretold.needed(train) <= most:
            yield _text(foretold.train, train)
            return


def _shorter(foretold: Foretold, change: dict[str, Any], most: int) -> Iterator[str]:
    """The longest rows that fit, beside ``change``."""
    longest = foretold.batch.tokens
    train = _changed(foretold.train, change) if change else foretold.train
    if train is None or foretold.needed(train, longest // _LEAST) > most:
        return
    tokens = next(each for each in range(longest - 1, 0, -1) if foretold.needed(train, each) <= most)
    before = f"{_text(foretold.train, train)} and " if change else ""
    yield f"{before}train.max_length: {tokens}, with rules that leave longer rows out"


def _batch(old: Train, rows: int) -> dict[str, int]:
    return {"batch_size": rows, "gradient_accumulation": old.gradient_accumulation * (old.batch_size // rows)}


def _changed(old: Train, change: dict[str, Any]) -> Train | None:
    """The section with a change; None where that changes nothing, or the method does not take it."""
    try:
        found = type(old).model_validate(old.model_dump(mode="json") | change)
    except ValidationError:
        return None
    return None if found == old else found


def _text(old: Train, new: Train) -> str:
    """The fields that differ, as params.yaml has them."""
    before, after = (each.model_dump(mode="json") for each in (old, new))
    said = {True: "true", str({"kind": "nf4", "double": True}): "{kind: nf4, double: true}"}
    changed = ((name, value) for name, value in after.items() if value != before[name])
    return " and ".join(
        f"train.{name}: {said.get(value if value is True else str(value), value)}" for name, value in changed
    )
