"""params.yaml as strict, frozen models; ``checks.params_file`` reads the file into them.

A validator's message is "problem|remedy". No field has a default that would
change a result: what is not written in the file is either refused or off (``null``), so that an
edit of this module never changes what a stage computes.
"""

import math
from statistics import NormalDist
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]


class Section(BaseModel):
    """A part of params.yaml: strict types, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """Where bytes come from, and which bytes they must be."""

    uri: Annotated[str, Field(min_length=1, description="pypi://, hf://, s3://, gs://, https:// or a local path")]
    sha256: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9a-f]{64}$",
            description="SHA-256 of the file the URI names (for pypi:// the wheel), or of the directory's manifest",
        ),
    ]


class AzureCli(Section):
    """Examples of the Azure CLI's own help: a request in words, and the command that does it."""

    kind: Literal["azure-cli"]
    task: Annotated[Literal["service", "command"], Field(description="what the model answers")]
    services: Annotated[int, Field(ge=2, description="the commonest services that are kept")]
    rows_per_service: Annotated[int, Field(ge=10, description="at most this many rows of each")]
    instruction: Annotated[str, Field(description="the system message of every row")]


class Columns(Section):
    """Names of columns in a table; ``messages``, or ``prompt`` and ``reference``."""

    prompt: str | None = None
    reference: str | None = None
    messages: str | None = None
    id: str | None = None
    slice: str | None = None
    group: str | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        pair = (self.prompt is not None, self.reference is not None)
        if self.messages is not None and any(pair):
            raise ValueError("has both messages and prompt/reference|keep messages, or prompt and reference")
        if self.messages is None and not all(pair):
            raise ValueError("lacks prompt or reference|name both columns, or the one of messages")
        return self


class Table(Section):
    """A team's own rows: JSONL, Parquet or CSV."""

    kind: Literal["table"]
    files: Annotated[str, Field(description="glob below the data source, for example **/*.jsonl", min_length=1)]
    columns: Columns
    instruction: Annotated[str | None, Field(description="the system message for rows without one")] = None


class NearDuplicates(Section):
    """Rows whose shingle sets are at least this similar are one group and never cross a split."""

    shingle: Annotated[int, Field(ge=1, le=20, description="characters in a shingle of the normalised prompt")]
    similarity: Annotated[float, Field(gt=0, le=1, description="Jaccard similarity of two shingle sets")]


class SplitShares(Section):
    """Shares of the rows; the rest is for training."""

    valid: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test is {self.valid + self.test:g}|leave rows to train on: a sum below 1")
        return self


class Prepare(Section):
    """Raw data to train, valid and test splits."""

    seed: Annotated[int, Field(ge=0)]
    loader: Annotated[AzureCli | Table, Field(discriminator="kind")]
    rules: Annotated[Strings, Field(description="named rules, applied in this order")]
    near_duplicates: NearDuplicates
    splits: SplitShares


class MinRows(Section):
    """Fewest rows of each split."""

    train: Positive
    valid: Positive
    test: Positive


class Labels(Section):
    """For a task with a closed set of answers."""

    max_distinct: Annotated[int, Field(ge=2)]
    min_share: Annotated[float, Field(ge=0, lt=1, description="of a label, in each split")]
    max_share: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _shares_are_ordered(self) -> Self:
        if self.min_share > self.max_share:
            raise ValueError(f"min_share {self.min_share:g} is above max_share {self.max_share:g}|swap or widen them")
        return self


class Validate(Section):
    """Bounds of the expectations on the splits."""

    min_rows: MinRows
    max_prompt_tokens: Positive
    max_reference_tokens: Positive
    labels: Annotated[Labels | None, Field(description="null for free text")]


class Lora(Section):
    """Low-rank adaptation (Hu et al., 2021), as PEFT spells it."""

    r: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[Literal["all-linear"] | Strings, Field(description="all-linear, or module names")]
    layers: Annotated[int | None, Field(ge=1, description="adapt only the last so many layers; null: all")]


class Train(Section):
    """Supervised fine-tuning with LoRA."""

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


class Agreement(Section):
    """How closely two models must agree on the reference tokens of real prompts."""

    max_logprob_diff: Annotated[float, Field(gt=0, description="largest difference of a token's log-probability, nats")]
    min_top1: Annotated[float, Field(gt=0, le=1, description="share of positions with the same most likely token")]


class MergeParity(Agreement):
    """Where merge itself stops; the gate of kind parity may ask for more."""

    prompts: Annotated[int, Field(ge=1, description="rows of the valid split that are compared")]


class Merge(Section):
    """Base and adapter to the directory that ships."""

    shard_mb: Annotated[int, Field(ge=1, description="largest shard in megabytes (10^6 bytes)")]
    parity: MergeParity


class ExactMatch(Section):
    """1 when prediction and reference are equal after trimming white space."""

    kind: Literal["exact-match"]


class TokenF1(Section):
    """F1 of the two bags of lower-cased words (SQuAD)."""

    kind: Literal["token-f1"]


class EditSimilarity(Section):
    """1 - Levenshtein distance / length of the longer text."""

    kind: Literal["edit-similarity"]


class JsonValid(Section):
    """1 when the prediction parses as JSON."""

    kind: Literal["json-valid"]


class Regex(Section):
    """1 when the whole prediction matches ``pattern``."""

    kind: Literal["regex"]
    pattern: str


Scorer = Annotated[ExactMatch | TokenF1 | EditSimilarity | JsonValid | Regex, Field(discriminator="kind")]


class BasePrompt(Section):
    """How the untuned base is asked, so that the comparison is fair."""

    labels: Annotated[bool, Field(description="append the list of labels to the system message")]
    shots: Annotated[int, Field(ge=0, le=50, description="examples of the train split shown first")]


class Evaluate(Section):
    """One prediction per test row, for the merged model, the base and the baselines."""

    scorers: Annotated[tuple[Scorer, ...], Field(strict=False, min_length=1, description="the first is the score")]
    max_new_tokens: Positive
    batch_tokens: Annotated[int, Field(ge=1, description="prompt tokens of a batch, padding included")]
    precision: Literal["bf16", "fp16", "fp32"]
    confidence: Fraction
    base_prompt: BasePrompt
    baselines: Annotated[tuple[Literal["majority", "naive-bayes"], ...], Field(strict=False)]

    @model_validator(mode="after")
    def _each_scorer_once(self) -> Self:
        kinds = [scorer.kind for scorer in self.scorers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"scorers {', '.join(kinds)} has one twice|name each scorer once")
        return self


class ThresholdGate(Section):
    """The interval's bound, not the point, must clear ``at_least`` (or stay under ``at_most``)."""

    kind: Literal["threshold"]
    metric: Annotated[str, Field(description="one of evaluate.scorers")]
    at_least: float | None = None
    at_most: float | None = None
    confidence: Fraction
    resolution: Annotated[
        Fraction, Field(description="half-width that the two-sided interval must not exceed; sets the rows needed")
    ]

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs exactly one of at_least and at_most|write one of them")
        return self

    @property
    def rows_needed(self) -> int:
        """Rows for a half-width of ``resolution`` at worst (p = 1/2, normal approximation): z² / 4r²."""
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        return math.ceil(z * z / (4 * self.resolution**2))


class DataGate(Section):
    """Every expectation on the splits held, about these splits."""

    kind: Literal["data"]


class ParityGate(Agreement):
    """Merged and adapter agree on real prompts."""

    kind: Literal["parity"]


Gate = Annotated[ThresholdGate | DataGate | ParityGate, Field(discriminator="kind")]


class Tracking(Section):
    """Where MLflow keeps runs; MLFLOW_TRACKING_URI, when set, wins. Changes nothing that is computed."""

    uri: Annotated[str, Field(min_length=1)]
    experiment: Annotated[str, Field(min_length=1)]


class Params(Section):
    """All of params.yaml."""

    base: Source
    data: Source
    prepare: Prepare
    validate_: Annotated[Validate, Field(alias="validate")]
    train: Train
    merge: Merge
    evaluate: Evaluate
    tracking: Tracking
    gates: Annotated[dict[Name, Gate], Field(min_length=1)]

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        rows, room = self.validate_, self.validate_.max_prompt_tokens + self.validate_.max_reference_tokens
        if self.train.max_length < room:
            raise ValueError(
                f"train.max_length: {self.train.max_length} would cut rows that validate lets through (up to {room} "
                f"tokens)|raise it to {room}, or lower validate.max_prompt_tokens or validate.max_reference_tokens"
            )
        if self.evaluate.max_new_tokens < rows.max_reference_tokens:
            raise ValueError(
                f"evaluate.max_new_tokens: {self.evaluate.max_new_tokens} cannot reach a reference of "
                f"{rows.max_reference_tokens} tokens|raise it to validate.max_reference_tokens or more"
            )
        names = [scorer.kind for scorer in self.evaluate.scorers]
        for name, gate in self.gates.items():
            if not isinstance(gate, ThresholdGate):
                continue
            if gate.metric not in names:
                raise ValueError(
                    f"gates.{name}.metric: {gate.metric!r} is not scored|"
                    f"use one of {', '.join(names)}, or add it to evaluate.scorers"
                )
            if rows.min_rows.test < gate.rows_needed:
                raise ValueError(
                    f"validate.min_rows.test: {rows.min_rows.test} rows cannot give gate {name!r} its resolution of "
                    f"{gate.resolution:g}|raise it to {gate.rows_needed}, or widen gates.{name}.resolution"
                )
        return self
