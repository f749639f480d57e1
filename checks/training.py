"""What a training method is: the section ``train`` of params.yaml, and the trainer that it makes.

A method is one file of ``stages/training/methods``, or of a package of a user (entry points ``lockstep.methods``). It
defines one class below ``Train``: its fields are its parameters, ``columns`` says what it needs in the data,
``reported`` what it measures, ``trainer`` makes its trainer. Its module may import pydantic, the standard library and
``checks``, but for ``checks.params``, which imports the methods. Torch, transformers and TRL it imports in the
functions that need them: the release tool reads params.yaml too, without those libraries.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from checks.rows import Row
from checks.sections import Positive, Section, Strings

OF_EVERY_ROW = frozenset({"prompt", "reference"})  # columns that rows have whatever the method is


@dataclass(frozen=True)
class Job:
    """What a trainer is made of. ``settings`` are transformers' arguments that follow from the section train.

    ``model`` is the base, ``adapter`` PEFT's configuration, ``stops`` the token ids that end a turn.
    """

    model: Any
    tokenizer: Any
    rows: Sequence[Row]
    valid: Sequence[Row]
    settings: Mapping[str, Any]
    adapter: Any
    callbacks: Sequence[Any]
    stops: frozenset[int]


class Lora(Section):
    """Low-rank adaptation (Hu et al., 2021), as PEFT spells it."""

    r: Positive
    alpha: Positive
    variant: Annotated[
        Literal["lora", "rslora", "dora"],
        Field(
            description="rslora scales by alpha / √r (Kalajdzievski, 2023); dora learns each row's length apart "
            "(Liu et al., 2024)"
        ),
    ] = "lora"
    init: Annotated[
        Literal["default", "gaussian", "orthogonal"],
        Field(description="how A and B start; default: A as Kaiming has it, B zero"),
    ] = "default"
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[Literal["all-linear"] | Strings, Field(description="all-linear, or module names")]
    layers: Annotated[int | None, Field(ge=1, description="adapt only the last so many layers; null: all")]

    @field_validator("init", mode="before")
    @classmethod
    def _keeps_the_base(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(("pissa", "olora")):
            raise ValueError(
                f"{value} starts by taking the largest directions out of the base's weights, so the adapter would fit "
                "no base that is pinned|use default, gaussian or orthogonal"
            )
        return value

    @model_validator(mode="after")
    def _rank_can_be_halved(self) -> Self:
        if self.init == "orthogonal" and self.r % 2:
            raise ValueError(f"r: {self.r} is odd, and init orthogonal needs an even rank|use {self.r + 1}")
        return self


class Quantization(Section):
    """QLoRA (Dettmers et al., 2023): the base's linear layers, but for the head, have 4 bits while the adapter learns.

    Needs the extra ``qlora``. What ships has the base's precision: see ``merge.base``.
    """

    kind: Annotated[Literal["nf4"], Field(description="the sixteen values that a weight can have")]
    double: Annotated[bool, Field(description="quantise the scale of each block of 64 weights too: 0.4 bits less")]


# Of the section merge: here, where DVC sees its default change.
MergedInto = Annotated[
    Literal["trained", "original"],
    Field(
        default="trained",
        description="where the base was quantised for training: merge into its dequantised weights, which the adapter "
        "was trained on, or into the original ones",
    ),
]


class Train(Section):
    """What every training method takes: the adapter, the optimiser, the rows at a time.

    A subclass has the field ``method: Literal["its-name"]``. The method of Lockstep whose field has a default is the
    one that is used where params.yaml names none.
    """

    # Columns of a row that the method needs. Those that not every row has come from the loader, in ``Row.extra``.
    columns: ClassVar[tuple[str, ...]] = ("prompt", "reference")
    # What the trainer logs besides loss, learning rate and norm of the gradient, and the report and MLflow take.
    reported: ClassVar[tuple[str, ...]] = ()

    method: Annotated[str, Field(description="how the adapter is trained")]
    seed: Annotated[int, Field(ge=0)]
    lora: Lora
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    epochs: Annotated[float | None, Field(gt=0)]
    max_steps: Annotated[int | None, Field(ge=1)]
    batch_size: Positive
    gradient_accumulation: Positive
    gradient_checkpointing: bool
    max_length: Annotated[int, Field(ge=8, description="tokens of prompt and completion together")]
    precision: Literal["bf16", "fp16", "fp32"]
    quantization: Annotated[Quantization | None, Field(description="null: the base as `precision` says")] = None
    optimizer: Annotated[
        Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"],
        Field(description="the 8-bit ones keep AdamW's moments in 8 bits, and need the extra qlora"),
    ] = "adamw_torch"
    neftune_alpha: Annotated[
        float | None, Field(gt=0, description="noise on the embeddings while it trains (Jain et al., 2023); null: none")
    ] = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("epochs and max_steps must be one number and one null|set exactly one of them")
        return self

    @model_validator(mode="after")
    def _quantised_base_fits(self) -> Self:
        if self.quantization and self.precision == "fp16":
            raise ValueError("precision: fp16 is not offered with a 4-bit base|use bf16 or fp32")
        if self.quantization and self.lora.init == "orthogonal":
            raise ValueError("lora.init: orthogonal cannot start beside 4-bit weights|use default or gaussian")
        return self

    @property
    def needs_bitsandbytes(self) -> bool:
        """Whether it needs the extra ``qlora``."""
        return self.quantization is not None or self.optimizer != "adamw_torch"

    @abstractmethod
    def trainer(self, job: Job) -> Any:
        """A trainer of transformers that is ready to train: a class below ``stages.training.trainer.Steady``.

        Raises TrainingRefused when the parameters do not fit the model or the data.
        """

    @classmethod
    def extra(cls) -> tuple[str, ...]:
        """The columns that it needs of ``Row.extra``."""
        return tuple(name for name in cls.columns if name not in OF_EVERY_ROW)

    def steps(self, rows: int) -> int:
        """Optimiser steps of the whole training."""
        if self.max_steps is not None:
            return self.max_steps
        batches = math.ceil(rows / self.batch_size)
        return math.ceil((self.epochs or 1) * math.ceil(batches / self.gradient_accumulation))
