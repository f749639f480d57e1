"""What a training method is: the section ``train`` of params.yaml, and the trainer that it makes.

A method is one file of ``stages/training/methods``, or of a package of a user (entry points ``lockstep.methods``). It
defines one class below ``Train``: its fields are its parameters, ``columns`` says what it needs in the data,
``reported`` what it measures, ``refuse_rows`` what it cannot learn from, ``trainer`` makes its trainer. Its module may
import pydantic, the standard library and ``checks``, but for ``checks.params``, which imports the methods. Torch,
transformers and TRL it imports in the functions that need them: the release tool reads params.yaml too, without those
libraries.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from checks.rows import Row
from checks.scorer_kind import ScorerKind
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
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[Literal["all-linear"] | Strings, Field(description="all-linear, or module names")]
    layers: Annotated[int | None, Field(ge=1, description="adapt only the last so many layers; null: all")]


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

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("epochs and max_steps must be one number and one null|set exactly one of them")
        return self

    @abstractmethod
    def trainer(self, job: Job) -> Any:
        """A trainer of transformers that is ready to train: a class below ``stages.training.trainer.Steady``.

        Raises TrainingRefused when the parameters do not fit the model or the data.
        """

    def refuse_rows(self, rows: Sequence[Row], valid: Sequence[Row]) -> None:
        """Raise TrainingRefused for rows that cannot be learned from; called before the base is loaded."""

    def rewards(self) -> tuple[ScorerKind, ...]:
        """The scorers whose scores training itself raises; the report names them, since gates may ask the same."""
        return ()

    @classmethod
    def extra(cls) -> tuple[str, ...]:
        """The columns that it needs of ``Row.extra``."""
        return tuple(name for name in cls.columns if name not in OF_EVERY_ROW)

    def steps(self, rows: int) -> int:
        """Optimiser steps of the whole training."""
        return self.max_steps or math.ceil((self.epochs or 1) * self.steps_of_epoch(rows))

    def steps_of_epoch(self, rows: int) -> int:
        """Optimiser steps of one pass over the rows; a last batch that is not full is a batch too."""
        return max(1, math.ceil(math.ceil(rows / self.batch_size) / self.gradient_accumulation))


class NoDropout(Train):
    """What the methods share that compare the model with itself: TRL switches dropout off in them."""

    @model_validator(mode="after")
    def _without_dropout(self) -> Self:
        if self.lora.dropout:
            raise ValueError(
                f"lora.dropout is {self.lora.dropout:g}, and train.method {self.method!r} trains without dropout|"
                "set train.lora.dropout to 0.0"
            )
        return self
