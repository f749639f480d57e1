"""The interface of a training method: the section ``train`` of params.yaml, and the trainer that it makes.

A method is one file of ``stages/training/methods``, or of a user's package (entry points ``lockstep.methods``). It
defines one subclass of ``Train``: the fields are its parameters, ``columns`` names the data columns that it needs,
``reported`` what it measures, ``refuse_rows`` what it cannot learn from, and ``trainer`` makes its trainer. Its module
may import pydantic, the standard library and ``checks``, except ``checks.config.params``, which imports the methods. It
imports torch, transformers and TRL only inside functions, because the release tool reads params.yaml without these
libraries.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from checks.formats.thinking import Thinking
from checks.kinds.registry import Registry, Unfit, tag
from checks.kinds.scorer import ScorerKind
from checks.records.record import CommitHash
from checks.records.rows import Row
from checks.records.sections import Positive, Section, Strings, problems

OF_EVERY_ROW = frozenset({"prompt", "reference"})  # columns that rows have whatever the method is


@dataclass(frozen=True)
class Job:
    """The inputs of a trainer. ``settings``: arguments of transformers' trainer, from the section train.

    ``model``: the base; ``adapter``: PEFT's configuration, None where the base's own weights are trained or the model
    has its adapter; ``stops``: the token ids that end a turn. ``thinking``: how the base thinks; None: it does not.
    """

    model: Any
    tokenizer: Any
    rows: Sequence[Row]
    valid: Sequence[Row]
    settings: Mapping[str, Any]
    adapter: Any
    callbacks: Sequence[Any]
    stops: frozenset[int]
    thinking: Thinking | None = None


class Lora(Section):
    """Low-rank adaptation (Hu et al., 2021), with PEFT's names."""

    r: Annotated[
        Positive, Field(description="rank: more can learn more, and makes the adapter larger")
    ]
    alpha: Annotated[
        Positive, Field(description="the adapter's output is scaled by alpha / r; often 2 r")
    ]
    variant: Annotated[
        Literal["lora", "rslora", "dora"],
        Field(
            description="rslora scales by alpha / √r (Kalajdzievski, 2023); dora learns each row's length separately "
            "(Liu et al., 2024)"
        ),
    ] = "lora"
    init: Annotated[
        Literal["default", "gaussian", "orthogonal"],
        Field(description="first values of A and B; default: A by Kaiming's rule, B zero"),
    ] = "default"
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout probability of the adapter's input; 0: none")
    ] = 0.0
    targets: Annotated[
        Literal["all-linear"] | Strings,
        Field(description="modules to adapt: their names, or all-linear for all"),
    ] = "all-linear"
    layers: Annotated[
        int | None,
        Field(ge=1, description="adapt only the last layers, this many; null: all layers"),
    ] = None
    modules_to_save: Annotated[
        Strings,
        Field(
            description="embeddings or head, by name, that learn whole beside the adapter, as tokens need which the "
            "base never learned; empty: none"
        ),
    ] = ()

    @field_validator("init", mode="before")
    @classmethod
    def _keeps_the_base(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(("pissa", "olora")):
            raise ValueError(
                f"{value} starts by taking the largest directions out of the base's weights, so the adapter would fit "
                "no base that is pinned|use default, gaussian or orthogonal"
            )
        return value

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.init == "orthogonal" and self.r % 2,
                f"r: {self.r} is odd, and init orthogonal needs an even rank|use {self.r + 1}",
            )
        )


class Full(Section):
    """Full fine-tuning: the base's own weights learn, in float32, and there is no adapter."""

    layers: Annotated[
        int | None,
        Field(
            ge=1,
            description="train the last layers alone, this many; null: all weights, embeddings and head too",
        ),
    ]


class Quantization(Section):
    """QLoRA (Dettmers et al., 2023): the base's linear layers, but for the head, have 4 bits while the adapter learns.

    Needs the extra ``qlora``. What ships has the base's precision: see ``merge.base``.
    """

    kind: Annotated[Literal["nf4"], Field(description="the sixteen values that a weight can have")]
    double: Annotated[
        bool, Field(description="quantise the scale of each block of 64 weights too: 0.4 bits less")
    ]


class EarlyStopping(Section):
    """Stop where the loss on the valid split no longer falls, and keep the weights of the lowest loss."""

    patience: Annotated[
        Positive,
        Field(description="evaluations in a row without a lower loss, after which it stops"),
    ]
    per_epoch: Annotated[
        Positive, Field(description="evaluations in a pass over the train split, evenly spread")
    ]


# Of the section merge: here, where DVC sees its default change.
MergedInto = Annotated[
    Literal["trained", "original"],
    Field(
        default="trained",
        description="where the base was quantised for training: merge into its dequantised weights, which the adapter "
        "was trained on, or into the original ones",
    ),
]


Failure = Literal["divergence", "no-reward"]

# A loss has risen far when it is so much above its beginning: this share of it, and so many nats.
_FAR_SHARE, _FAR_NATS = 0.5, 0.5


class Train(Section):
    """The parameters of every training method: adapter, optimiser, batches.

    A subclass has the field ``method: Literal["its-name"]``. If params.yaml names no method, the one of Lockstep whose
    field has a default is used.
    """

    # Columns of a row that the method needs. Those that not every row has come from the loader, in ``Row.extra``.
    columns: ClassVar[tuple[str, ...]] = ("prompt", "reference")
    # Sequences of a row that one forward pass with gradients takes: 2 for pairs.
    sequences: ClassVar[int] = 1
    # What the trainer logs besides loss, learning rate and norm of the gradient, and the report and MLflow take.
    reported: ClassVar[tuple[str, ...]] = ()
    # Why the method cannot divide the base among devices (``shard``), where it cannot.
    unshardable: ClassVar[str] = ""
    # Whether it can train the base's own weights (``full``). Not if it compares the model with the base, which is the
    # model with its adapter switched off.
    without_adapter: ClassVar[bool] = False
    # Whether it can learn from packed sequences (``packing``): only if its loss is one of each row by itself.
    packable: ClassVar[bool] = False
    # It learns from documents, and from nothing else; all other methods learn from the rows that are none.
    of_documents: ClassVar[bool] = False
    # It learns chats that call functions, with the tools that they describe.
    learns_calls: ClassVar[bool] = False

    method: Annotated[str, Field(description="the training method: docs/how-to/training.md")]
    seed: Annotated[
        int,
        Field(ge=0, description="of the adapter's first weights, the order of rows, and dropout"),
    ] = 17
    lora: Annotated[
        Lora | None, Field(description="an adapter on the frozen base; null: see full")
    ] = None
    full: Annotated[
        Full | None, Field(description="the base's own weights, without an adapter; null: see lora")
    ] = None
    start: Annotated[
        CommitHash | None,
        Field(
            description="the commit of an earlier model: training continues from its adapter. `lockstep start` writes "
            "it; null: training begins with a new adapter"
        ),
    ] = None
    learning_rate: Annotated[
        float, Field(gt=0, lt=1, description="the largest learning rate, reached after the warm-up")
    ]
    schedule: Annotated[
        Literal["cosine", "cosine_with_min_lr", "linear", "constant"],
        Field(description="how the learning rate changes after the warm-up"),
    ] = "cosine"
    min_learning_rate: Annotated[
        float | None,
        Field(gt=0, description="where schedule cosine_with_min_lr ends; null for the other ones"),
    ] = None
    warmup_ratio: Annotated[
        float,
        Field(ge=0, lt=1, description="share of the steps in which the learning rate rises from 0"),
    ] = 0.06
    weight_decay: Annotated[float, Field(ge=0, description="of AdamW; 0: none")] = 0.0
    max_grad_norm: Annotated[
        float, Field(gt=0, description="gradients are scaled down to this norm")
    ] = 1.0
    epochs: Annotated[
        float | None, Field(gt=0, description="passes over the train split; null: see max_steps")
    ]
    max_steps: Annotated[
        int | None, Field(ge=1, description="optimiser steps; null: see epochs")
    ] = None
    batch_size: Annotated[Positive, Field(description="rows per forward pass, on each device")] = 16
    gradient_accumulation: Annotated[
        Positive, Field(description="batches per optimiser step: larger steps without more memory")
    ] = 1
    gradient_checkpointing: Annotated[
        bool,
        Field(description="compute activations again in the backward pass: less memory, more time"),
    ] = False
    max_length: Annotated[
        int,
        Field(
            ge=8,
            description="most tokens of prompt and reference together; longer rows are refused",
        ),
    ]
    packing: Annotated[
        Literal["bfd", False],
        Field(
            description="bfd: whole rows are packed into sequences of max_length tokens (best-fit decreasing), and "
            "batch_size counts sequences; false: each row is a sequence"
        ),
    ] = False
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"],
        Field(description="number format of the base's weights and of arithmetic"),
    ] = "bf16"
    quantization: Annotated[
        Quantization | None, Field(description="null: the base as `precision` says")
    ] = None
    optimizer: Annotated[
        Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"],
        Field(
            description="the 8-bit ones keep AdamW's moments in 8 bits, and need the extra qlora"
        ),
    ] = "adamw_torch"
    neftune_alpha: Annotated[
        float | None,
        Field(
            gt=0,
            description="noise on the embeddings while it trains (Jain et al., 2023); null: none",
        ),
    ] = None

    kernels: Annotated[
        Literal["liger"] | None,
        Field(
            description="liger: Liger's kernels in the model's layers while it trains, faster on a GPU and with less "
            "memory; needs the extra liger. null: PyTorch's own"
        ),
    ] = None
    devices: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="processes on one machine, each with its own GPU; on a CPU they share its threads. A step has "
            "devices x batch_size x gradient_accumulation rows",
        ),
    ] = 1
    shard: Annotated[
        Literal["fsdp2"] | None,
        Field(
            description="null: each device holds the whole base; fsdp2: the base is divided among them, for one that "
            "does not fit one device"
        ),
    ] = None
    early_stopping: Annotated[
        EarlyStopping | None, Field(description="null: train to the end, and keep the last weights")
    ] = None
    max_memory_gb: Annotated[
        float | None,
        Field(
            gt=0,
            description="refuse a training that takes more on a device (10^9 bytes), as measured after each step; "
            "null: the device's own memory",
        ),
    ] = None
    allow: Annotated[
        tuple[Failure, ...],
        Field(
            strict=False,
            description="go on although the training failed: divergence, the loss rose far and ended no lower than it "
            "began; no-reward, with grpo the answers to each prompt were rewarded alike. Empty: refuse",
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        lora, full, shard, method = self.lora, self.full, self.shard, repr(self.method)
        lowest = self.min_learning_rate
        wholes = lora.modules_to_save if lora else ()
        never = {"full": full, "shard": shard, "lora.modules_to_save": wholes}
        written = [name for name, value in never.items() if value] if self.start else []
        return problems(
            (
                (self.epochs is None) == (self.max_steps is None),
                "epochs and max_steps must be one number and one null|set exactly one of them",
            ),
            (
                (self.schedule == "cosine_with_min_lr") != (lowest is not None),
                (
                    f"schedule is {self.schedule} and min_learning_rate is {'null' if lowest is None else lowest}|"
                    "write min_learning_rate with schedule: cosine_with_min_lr, and with no other one"
                ),
            ),
            (
                (lowest or 0) >= self.learning_rate,
                (
                    f"min_learning_rate: {lowest or 0:g} is not below learning_rate {self.learning_rate:g}|"
                    f"set it to {self.learning_rate / 10:g}, say"
                ),
            ),
            (
                self.packing and not self.packable,
                (
                    f"packing: train.method {method} does not offer it: that takes a loss of each row by itself|"
                    "use false, or write it for train.method sft alone"
                ),
            ),
            (
                self.packing and self.neftune_alpha is not None,
                (
                    "packing: neftune_alpha makes its noise smaller the longer a sequence is, whatever its rows are|"
                    "use false, or neftune_alpha: null"
                ),
            ),
            (
                self.packing and shard,
                f"packing: shard {shard} is not offered with it, it was never tried|use false",
            ),
            (
                not lora and not full,
                "neither lora nor full is written|write lora for an adapter, or full for the base's own weights",
            ),
            (
                lora and full,
                "lora and full are both written|write lora for an adapter, or full for the base's own weights",
            ),
            (
                full and not self.without_adapter,
                (
                    f"full: train.method {method} needs an adapter: the model with its adapter switched off is what "
                    "it compares with|use lora, or train.method sft"
                ),
            ),
            (written, f"start: is not offered with {' and '.join(written)}|write start: null"),
            (
                full and self.quantization,
                "full: weights in 4 bits cannot be trained|remove quantization, or use lora",
            ),
            (
                full and shard,
                f"full: shard {shard} is not offered with it, it was never tried|use null, or lora",
            ),
            (
                self.quantization and self.precision == "fp16",
                "precision: fp16 is not offered with a 4-bit base|use bf16 or fp32",
            ),
            (
                self.quantization and lora and lora.init == "orthogonal",
                "lora.init: orthogonal cannot start beside 4-bit weights|use default or gaussian",
            ),
            (
                shard and self.devices == 1,
                f"shard: {shard} divides the base among devices, and devices is 1|use null",
            ),
            (
                shard and self.optimizer != "adamw_torch",
                f"shard: {shard} is not offered with optimizer {self.optimizer}|use adamw_torch",
            ),
            (
                shard and wholes,
                f"shard: {shard} is not offered with lora.modules_to_save, it was never tried|use null",
            ),
            (
                shard and self.kernels,
                f"shard: {shard} is not offered with kernels, it was never tried|use null",
            ),
            (
                shard and self.early_stopping,
                f"shard: {shard} is not offered with early_stopping|use null for one of them",
            ),
            (
                shard and self.unshardable,
                f"shard: train.method {method} cannot use it: {self.unshardable}|use null",
            ),
        )

    @field_validator("packing", mode="before")
    @classmethod
    def _whole_rows(cls, value: Any) -> Any:
        if value == "wrapped":
            raise ValueError(
                "wrapped cuts rows where a sequence is full, and lets them see one another|use bfd"
            )
        if value == "bfd_split":
            raise ValueError(
                "bfd_split cuts rows above max_length, which are refused; it is bfd for all others|use bfd"
            )
        return value

    @field_validator("start", mode="before")
    @classmethod
    def _stays(cls, value: Any) -> Any:
        if value is not None and not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(value)):
            raise ValueError(
                f"{value!r} is not the full hash of a commit, and another name may mean another model tomorrow|run "
                f"`lockstep start {value}`, which writes the commit that it means now"
            )
        return value

    @property
    def layers(self) -> int | None:
        """How many of the last layers learn; None: all of them."""
        return self.lora.layers if self.lora else self.full.layers if self.full else None

    @property
    def makes_sequences(self) -> bool:
        """Whether a sequence is not a row: several rows are packed into one, or a document is cut into several."""
        return bool(self.packing) or self.of_documents

    @property
    def needs_bitsandbytes(self) -> bool:
        """Whether it needs the extra ``qlora``."""
        return self.quantization is not None or self.optimizer != "adamw_torch"

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages of extras that compute the weights: their versions belong to checkpoint key and record."""
        names = ("bitsandbytes",) if self.needs_bitsandbytes else ()
        return (*names, "liger-kernel", "triton") if self.kernels else names

    @abstractmethod
    def trainer(self, job: Job) -> Any:
        """A trainer of transformers that is ready to train: a subclass of ``stages.training.trainer.Steady``.

        Raises TrainingRefused if the parameters do not fit the model or the data.
        """

    def refuse_rows(self, rows: Sequence[Row], valid: Sequence[Row]) -> None:
        """Raise TrainingRefused for rows that cannot be learned from; called before the base is loaded."""

    def failure(self, points: Sequence[Mapping[str, float]]) -> tuple[Failure, str] | None:
        """How a finished training failed, by the ``points`` of its loss curve, and what shows it; None if it did not.

        Diverged is a loss that rose far above its beginning and ended no lower than it began. Beginning and end are
        means of a tenth of the points.
        """
        if not points:  # early stopping kept the weights of a step before the first one
            return None
        losses = [point["loss"] for point in points]
        tenth = max(1, len(losses) // 10)
        begin, end = (math.fsum(some) / tenth for some in (losses[:tenth], losses[-tenth:]))
        peak = max(losses)
        if end < begin or peak < begin + max(_FAR_NATS, _FAR_SHARE * abs(begin)):
            return None
        return (
            "divergence",
            f"the loss began at {begin:.3f}, rose to {peak:.3f} and ended at {end:.3f}: it diverged",
        )

    def rewards(self) -> tuple[ScorerKind, ...]:
        """The scorers whose scores training itself raises; the report names them, since gates may ask the same."""
        return ()

    @classmethod
    def extra(cls) -> tuple[str, ...]:
        """Return the columns of ``Row.extra`` that it needs."""
        return tuple(name for name in cls.columns if name not in OF_EVERY_ROW)

    def steps(self, rows: int) -> int:
        """Return the number of optimiser steps of the whole training on ``rows`` rows."""
        return self.max_steps or math.ceil((self.epochs or 1) * self.steps_of_epoch(rows))

    def steps_of_epoch(self, rows: int) -> int:
        """Return the number of optimiser steps of one pass over ``rows`` rows; an incomplete last batch counts."""
        return max(
            1,
            math.ceil(
                math.ceil(rows / (self.batch_size * self.devices)) / self.gradient_accumulation
            ),
        )


class NoDropout(Train):
    """The base of methods that compare the model with itself: TRL trains these without dropout."""

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        dropout = self.lora.dropout if self.lora else 0
        yield from problems(
            (
                dropout,
                (
                    f"lora.dropout is {dropout:g}, and train.method {self.method!r} trains without dropout|"
                    "set train.lora.dropout to 0.0"
                ),
            )
        )


def _name(method: type[Train]) -> str:
    name = tag(method, "method")
    if taken := sorted(set(method.extra()) & set(Row.model_fields)):
        raise Unfit(f"needs a column {taken[0]!r}, which is a field of every row")
    return name


METHODS: Registry[Train] = Registry("lockstep.methods", Train, _name, "method")
AnyTrain = Annotated[Train, METHODS]
