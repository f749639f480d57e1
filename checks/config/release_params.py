"""The sections serve and promote of params.yaml: how a model is served, and what must hold before it moves."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from checks.config.monitor import Monitor
from checks.formats import json_schema
from checks.records.sections import Bound, Name, Positive, Section, problems, stricter
from checks.storage import layout

# The host of images that people or a release name in their place. No such host exists (RFC 2606). As kustomize does, it
# is compared as a regular expression.
INVALID_HOST = "lockstep.invalid/"

# Kinds of gates that measure how good answers are. No exception may name a gate of another kind.
EXCUSABLE = frozenset(("threshold", "improves", "non_inferior", "slice", "remembers"))


class Probes(Section):
    """Prompts that a server must answer as the merged model does offline."""

    rows: Annotated[
        int,
        Field(ge=1, le=512, description="number of prompts, from the valid split"),
        stricter("higher"),
    ] = 16
    max_new_tokens: Annotated[
        Positive,
        Field(description="most tokens of a probe's answer; more compare more"),
        stricter("higher"),
    ] = 24


class Verify(Section):
    """How much a served model may differ from the offline one, and how long to wait for a server.

    Its speed is measured and shown, but decides nothing, because it depends on the machine.
    """

    max_logprob_diff: Annotated[
        float,
        Field(
            gt=0,
            description="largest difference of a generated token's log-probability, in nats, if returned",
        ),
        stricter("lower"),
    ] = 0.8
    near_tie: Annotated[
        float,
        Field(
            ge=0,
            description="answers may differ only where the two best tokens are this close, in nats",
        ),
        stricter("lower"),
    ] = 0.4
    margin: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="largest difference between served and offline score on the test rows; where that is less than "
            "two rows, two rows may differ; 0: none may",
        ),
        stricter("lower"),
    ] = 0.01
    start_seconds: Annotated[
        float,
        Field(gt=0, description="most seconds from start to the first answer"),
        stricter("lower"),
    ] = 600.0
    drain_seconds: Annotated[
        float,
        Field(gt=0, description="most seconds from SIGTERM to the end of the process"),
        stricter("lower"),
    ] = 120.0

    slower: Annotated[
        Bound,
        Field(
            description="with `verify --against`: how many times as long as before requests may take, timed by turns; "
            "a server is refused if the whole interval of the ratio lies above; null: no limit",
        ),
        stricter("lower"),
    ] = None
    slower_machine: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the class of machines on which `slower` counts, as `lockstep verify` names it; null: any",
        ),
    ] = None


class Speculation(Section):
    """Speculative decoding: the server guesses the next tokens, and keeps those that the model would have chosen."""

    kind: Annotated[
        Literal["ngram", "draft"],
        Field(
            description="ngram: guess the next tokens from earlier text in the prompt and the answer; draft: by the "
            "smaller model of merge.draft"
        ),
    ]
    tokens: Annotated[int, Field(ge=1, le=32, description="most tokens that are guessed at a time")]


# It becomes an argument of the server.
Parser = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]


class Tools(Section):
    """How a server reads calls of functions in an answer, so that clients get them as ``tool_calls``."""

    parser: Annotated[
        Parser, Field(description="the server's name of the form in which the model writes calls")
    ]


class Reasoning(Section):
    """How a server takes the thought out of an answer, so that clients get it as ``reasoning_content``."""

    parser: Annotated[
        Parser,
        Field(description="the server's name of the form in which the model writes thoughts"),
    ]
    begins: Annotated[
        str, Field(min_length=1, description="what the template writes before a thought")
    ] = "<think>"
    ends: Annotated[
        str, Field(min_length=1, description="what the template writes after a thought")
    ] = "</think>"


class ServedDecoding(Section):
    """The sampling of requests that name none."""

    temperature: Annotated[
        float, Field(ge=0, le=2, description="that of evaluate.decoding; 0: the most likely token")
    ]
    top_p: Annotated[float, Field(gt=0, le=1, description="that of evaluate.decoding; 1: all")] = (
        1.0
    )


class ServedAdapter(Section):
    """The adapter that the server adds to the base's weights, where ``merge.form`` is adapter."""

    max_rank: Annotated[
        Positive,
        Field(
            description="largest rank of an adapter that the server keeps room for; vLLM takes 1, 8, 16, 32, 64, 128, "
            "256, 320 and 512"
        ),
    ]
    most: Annotated[
        Positive,
        Field(description="most adapters on the server, this release's and those of its guests"),
    ] = 1


class Serve(Section):
    """The serving image, and the bounds of its verification."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$",
            max_length=60,
            description="name of the model, also in tags; it is served from /models/<name>-<first 12 of its digest>",
        ),
    ]
    runtime: Annotated[Name, Field(description="the server: docs/reference/runtimes.md")]
    base: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the image that the weights are added to: HOST/NAME:TAG@sha256:…, or oci:FOLDER@sha256:…; "
            "null: the weights alone, as a volume",
        ),
    ] = None
    server: Annotated[
        str | None,
        Field(
            pattern=r"^[^\s@]{1,400}@sha256:[0-9a-f]{64}$",
            description="the server image in which weights alone run, HOST/NAME:TAG@sha256:…; null: each environment "
            "names one",
        ),
    ] = None
    source: Annotated[
        str | None,
        Field(
            min_length=1,
            description="address of this repository, for the image's labels; null: none",
        ),
    ] = None
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"],
        Field(description="number format that the server computes in"),
    ] = "bf16"
    max_input_tokens: Annotated[
        Positive, Field(description="most tokens of a prompt; at least validate.max_prompt_tokens")
    ] = 1024
    max_total_tokens: Annotated[
        int, Field(ge=2, description="most tokens of prompt and answer together")
    ] = 1280
    max_concurrent_requests: Annotated[
        Positive, Field(description="requests that the server accepts at a time")
    ] = 128
    shards: Annotated[
        Positive | None,
        Field(
            description="GPUs that a server spreads the weights over (tensor parallelism); null: one device"
        ),
    ] = None
    platform: Annotated[
        Literal["linux/amd64", "linux/arm64"] | None,
        Field(
            description="platform of the image, which serve.base must offer; null: the runtime's"
        ),
    ] = None
    adapter: Annotated[
        ServedAdapter | None,
        Field(
            description="how the server holds the adapter of merge.form: adapter; null: one merged model"
        ),
    ] = None
    prefix_caching: Annotated[
        bool | None,
        Field(
            description="whether the server reuses the keys and values of prompts with the same beginning; "
            "null: the runtime's default"
        ),
    ] = None
    speculation: Annotated[
        Speculation | None,
        Field(
            description="speculative decoding: guess tokens and check several in one pass; null: off"
        ),
    ] = None
    tools: Annotated[
        Tools | None,
        Field(description="calls of functions as `tool_calls`; null: the runtime's default"),
    ] = None
    reasoning: Annotated[
        Reasoning | None,
        Field(description="thoughts as `reasoning_content`; null: the runtime's default"),
    ] = None
    json_schema: Annotated[
        dict[str, JsonValue] | None,
        Field(
            description="the JSON Schema (draft 2020-12) of answers to requests that ask for it by `response_format`; "
            "null: none is promised"
        ),
    ] = None
    decoding: Annotated[
        ServedDecoding | None,
        Field(
            description="how the server samples for a request that does not say; null: the runtime's default, "
            "whatever the gates judged"
        ),
    ] = None
    probes: Probes = Probes()
    verify: Verify = Verify()

    @property
    def promises(self) -> tuple[str, ...]:
        """Return the keys that say what clients find in a reply."""
        keys = ("tools", "reasoning", "json_schema", "decoding")
        return tuple(key for key in keys if getattr(self, key) is not None)

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        unusable = json_schema.problem(self.json_schema) if self.json_schema is not None else None
        return problems(
            (
                self.base is not None and self.server is not None,
                "base and server: an image with a base has its server in it|set one of them to null",
            ),
            (
                re.match(INVALID_HOST, self.server or ""),
                f"server: {(self.server or '')[:60]}: no image can have this name|name another",
            ),
            (
                self.max_total_tokens <= self.max_input_tokens,
                (
                    f"max_total_tokens: {self.max_total_tokens} leaves no room for an answer to "
                    f"{self.max_input_tokens} tokens|raise it above max_input_tokens"
                ),
            ),
            (unusable, f"json_schema: {unusable}"),
        )


class ServingBudget(Section):
    """Limits for the energy and price of 1,000 requests, as a verifier measured them on one class of machines.

    A bound that is not written does not apply.
    """

    machine: Annotated[
        str,
        Field(
            min_length=1,
            description="class of machine, as `lockstep verify` names it; other classes do not count",
        ),
    ]
    watt_hours: Annotated[
        Bound, Field(description="most watt-hours for 1,000 requests"), stricter("lower")
    ] = None
    price: Annotated[
        Bound,
        Field(description="highest price of 1,000 requests, in the currency of hourly_price"),
        stricter("lower"),
    ] = None
    hourly_price: Annotated[
        Bound,
        Field(description="price of the machine, with all GPUs that serve, for an hour"),
        stricter("higher"),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.watt_hours is None and self.price is None,
                "has no bound|write watt_hours or price",
            ),
            (
                self.price is not None and self.hourly_price is None,
                "price: cannot be computed without hourly_price|write hourly_price too",
            ),
        )


class Emergency(Section):
    """The exceptions that people may sign when a release must go out although gates do not pass."""

    gates: Annotated[
        tuple[Name, ...],
        Field(
            strict=False, min_length=1, description="gates that an exception may name; "
            f"only of kind {', '.join(sorted(EXCUSABLE))}",
        ),
        stricter("fewer"),
    ]  # fmt: skip
    hours: Annotated[
        float,
        Field(gt=0, le=168, description="most hours until an exception expires"),
        stricter("lower"),
    ]
    signers: Annotated[
        int,
        Field(ge=2, description="different people with the role `approve` who must sign it"),
        stricter("higher"),
    ] = 2


class Environment(Section):
    """A place where the model runs, and the conditions for moving an image there."""

    after: Annotated[
        Name | None,
        Field(description="the environment that must run the same image first; null: none"),
    ] = None
    soak_hours: Annotated[
        float,
        Field(ge=0, description="hours that the image must have run in that environment"),
        stricter("higher"),
    ] = 0.0
    approvals: Annotated[
        int,
        Field(ge=0, description="signed approvals needed, by different people"),
        stricter("higher"),
    ] = 0
    signatures: Annotated[
        int,
        Field(
            ge=1,
            description="different signers who must have signed the same statement of the release",
        ),
        stricter("higher"),
    ] = 1
    sealed: Annotated[
        bool,
        Field(description="whether the sealed split must have said that the model passes"),
        stricter("higher"),
    ] = False
    runtimes: Annotated[
        tuple[Name, ...],
        Field(
            strict=False,
            min_length=1,
            description="runtimes of `lockstep verify` that are accepted",
        ),
        stricter("fewer"),
    ]
    verified: Annotated[
        tuple[Literal["container", "process", "url"], ...],
        Field(
            strict=False, min_length=1, description="ways of `lockstep verify` that are accepted"
        ),
        stricter("fewer"),
    ]
    served_as_verified: Annotated[
        bool,
        Field(
            description="whether it must have been verified the way it will be served: by the image's runtime in a "
            "container, in the image itself or, for weights alone, in the server image that serve.server or the "
            "environment names"
        ),
        stricter("higher"),
    ] = True
    server_compared: Annotated[
        bool,
        Field(
            description="whether another server for the weights that the environment runs must have been compared with "
            "the server there: `lockstep verify --against ENVIRONMENT`"
        ),
        stricter("higher"),
    ] = False
    budget: Annotated[
        ServingBudget | None,
        Field(description="limits for the energy and price of 1,000 requests; null: no limit"),
        stricter("section"),
    ] = None
    # Without a direction: to add it asks for less, so a change from null needs approval.
    emergency: Annotated[
        Emergency | None,
        Field(description="which gates people may except in an emergency; null: none, ever"),
    ] = None


class Promote(Section):
    """Environments, and the branch with their pointers."""

    repository: Annotated[
        str | None,
        Field(
            min_length=1, description="URL of the repository with the environments; null: this one"
        ),
    ] = None
    branch: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
            max_length=200,
            description="the branch with release/environments; promotions commit to it",
        ),
    ] = "main"
    checkpoint_hours: Annotated[
        int | None,
        Field(
            ge=1,
            description="how old the last signed checkpoint of the branch may be; null: none is required. "
            "`lockstep checkpoint` signs one",
        ),
    ] = None
    environments: Annotated[
        dict[Name, Environment],
        Field(min_length=1, description="each environment by its name, with its conditions"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        for name, environment in self.environments.items():
            yield from problems(
                (
                    name.endswith(("-", "_")),
                    f"environments.{name}: cannot be in a tag|end it with a letter or a digit",
                ),
                (
                    name in ("base", "components", layout.SEALED_LOOKS.name),
                    f"environments.{name}: is a folder that environments share|choose another name",
                ),
                (
                    environment.soak_hours and environment.after is None,
                    f"environments.{name}.soak_hours: nothing to soak in|set it to 0, or set after",
                ),
            )
        for name in sorted(set(self.environments) - set(self.ordered)):
            yield (
                f"environments.{name}.after: {self.environments[name].after!r} leads to no first environment|"
                "use null for the first, or the name of another that leads to it"
            )

    @property
    def ordered(self) -> tuple[str, ...]:
        """Return the environments, each after the one that it requires; otherwise in the order of params.yaml."""
        environments: list[str] = []
        while True:
            ready = [
                n
                for n, e in self.environments.items()
                if n not in environments and e.after in (None, *environments)
            ]
            if not ready:
                return tuple(environments)
            environments.append(ready[0])


class TrainBudget(Section):
    """Limits on one training: `lockstep estimate` compares its prediction with them before a GPU is used.

    No gate uses them, because times differ between machines. A bound that is not written does not apply.
    """

    train_minutes: Annotated[
        Bound, Field(description="most minutes of training"), stricter("lower")
    ] = None
    gpu_hours: Annotated[
        Bound,
        Field(description="most hours of training and evaluation on a GPU; a CPU counts 0"),
        stricter("lower"),
    ] = None
    cost: Annotated[
        Bound,
        Field(description="most device hours times hourly_price, in the price's currency"),
        stricter("lower"),
    ] = None
    hourly_price: Annotated[
        Bound,
        Field(description="price of one device for an hour; the comment uses it to show the cost"),
        stricter("higher"),  # the same hours cost more
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.cost is not None and self.hourly_price is None,
                "cost: cannot be estimated without hourly_price|write hourly_price too",
            )
        )


class ReleaseParams(Section):
    """The sections that say how a model is served and promoted. Reading them imports no kind, so no pipeline."""

    model_config = ConfigDict(extra="ignore")

    train_budget: TrainBudget = TrainBudget()
    serve: Serve
    promote: Promote
    monitor: Monitor = Monitor()
