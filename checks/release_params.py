"""The sections serve and promote of params.yaml: how a model is served, and what must hold before it moves."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from checks.sections import Name, Positive, Section, stricter


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
