"""params.yaml as strict, frozen models; ``checks.params_file`` reads the file into them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from checks.drafts import Loader
from checks.gates import Gate
from checks.kinds import NameOf, OneOf
from checks.loaders import LOADERS
from checks.methods import AnyTrain
from checks.rules import RULES
from checks.scorers import Scorer
from checks.sections import Agreement, Bound, Fraction, Name, Positive, Section, stricter

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


class Probes(Section):
    """Prompts that a server must answer as the merged model does offline."""

    rows: Annotated[int, Field(ge=1, le=512, description="rows of the valid split"), stricter("higher")]
    max_new_tokens: Annotated[Positive, stricter("higher")]


class Verify(Section):
    """How far a served model may be from the offline one, and how long to wait for a server.

    How fast it answers is measured and shown, and decides nothing: that depends on the machine.
    """

    max_logprob_diff: Annotated[
        float, Field(gt=0, description="of one generated token, nats, where a server tells it"), stricter("lower")
    ]
    near_tie: Annotated[
        float,
        Field(ge=0, description="answers may part only where the two best tokens were this near, nats"),
        stricter("lower"),
    ]
    margin: Annotated[
        float, Field(ge=0, lt=1, description="of the score on the test rows, served against offline"), stricter("lower")
    ]
    start_seconds: Annotated[float, Field(gt=0, description="from start to the first answer"), stricter("lower")]
    drain_seconds: Annotated[
        float, Field(gt=0, description="from SIGTERM to the end of the process"), stricter("lower")
    ]


class Serve(Section):
    """The serving image, and what it is held to."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$",
            max_length=60,
            description="of the model, in tags too: it is served from /models/<name>-<first 12 of its digest>",
        ),
    ]
    runtime: Annotated[Name, Field(description="a file of release/runtimes")]
    base: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the image that the weights are added to: HOST/NAME:TAG@sha256:…, or oci:FOLDER@sha256:…; "
            "null: the weights alone, as a volume",
        ),
    ]
    source: Annotated[str | None, Field(min_length=1, description="address of this repository, for the image's labels")]
    dtype: Literal["bf16", "fp16", "fp32"]
    max_input_tokens: Positive
    max_total_tokens: Annotated[int, Field(ge=2, description="of prompt and answer together")]
    max_concurrent_requests: Positive
    probes: Probes
    verify: Verify

    @model_validator(mode="after")
    def _an_answer_has_room(self) -> Self:
        if self.max_total_tokens <= self.max_input_tokens:
            raise ValueError(
                f"max_total_tokens: {self.max_total_tokens} leaves no room for an answer to {self.max_input_tokens} "
                "tokens|raise it above max_input_tokens"
            )
        return self


class Environment(Section):
    """A place where the model runs, and what must hold before an image moves there."""

    after: Annotated[Name | None, Field(description="the environment that must run the same image first; null: none")]
    soak_hours: Annotated[float, Field(ge=0, description="how long it must have run there"), stricter("higher")]
    approvals: Annotated[int, Field(ge=0, description="signed approvals by different people"), stricter("higher")]
    runtimes: Annotated[
        tuple[Name, ...],
        Field(strict=False, min_length=1, description="runtimes that count when it was verified"),
        stricter("fewer"),
    ]
    verified: Annotated[
        tuple[Literal["container", "process", "url"], ...],
        Field(strict=False, min_length=1, description="ways to verify that count"),
        stricter("fewer"),
    ]
    served_as_verified: Annotated[
        bool,
        Field(
            description="whether it must have been verified as it will serve: by the image's runtime in a container, "
            "of the image itself or for weights alone of the server that the environment names"
        ),
        stricter("higher"),
    ] = True


class Promote(Section):
    """Environments, and the branch that holds what they run."""

    repository: Annotated[
        str | None, Field(min_length=1, description="URL of the repository with the environments; null: this one")
    ]
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=200)]
    environments: Annotated[dict[Name, Environment], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_has_a_way_to_it(self) -> Self:
        for name, environment in self.environments.items():
            if name.endswith(("-", "_")):
                raise ValueError(f"environments.{name}: cannot be in a tag|end it with a letter or a digit")
            if name in ("base", "components"):
                raise ValueError(f"environments.{name}: is a folder that environments share|call it otherwise")
            if environment.soak_hours and environment.after is None:
                raise ValueError(f"environments.{name}.soak_hours: nothing to soak in|set it to 0, or set after")
        for name in set(self.environments) - set(self.ordered):
            raise ValueError(
                f"environments.{name}.after: {self.environments[name].after!r} leads to no first environment|"
                "use null for the first, or the name of another that leads to it"
            )
        return self

    @property
    def ordered(self) -> tuple[str, ...]:
        """The environments, each behind the one it comes after; as they are written where that leaves a choice."""
        found: list[str] = []
        while True:
            ready = [n for n, e in self.environments.items() if n not in found and e.after in (None, *found)]
            if not ready:
                return tuple(found)
            found.append(ready[0])


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
