"""Serving runtimes as data: each file ``<name>.yaml`` of this folder says how a server is started and queried.

A team adds a file of its own to its repository (``release.runtimes.lookup``): docs/reference/runtimes.md. In
``environment``, ``entrypoint``, ``command`` and ``model_field`` these placeholders are replaced: {model} (the weights'
folder as the server sees it), {name}, {host} (to listen on), {port}, {dtype} (by ``dtypes``), {max_input_tokens},
{max_total_tokens}, {all_tokens} (that times ``concurrency``), {max_concurrent_requests}, {shards}, {draft_tokens},
{max_rank}, {most_adapters}, {tool_parser}, {reasoning_parser}, {temperature}, {top_p}.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from checks.config.release_params import Serve
from checks.formats.serving import CheckName
from checks.process.errors import ParamsRefused
from checks.records.record import Digest
from checks.records.sections import Name, Section, Strings
from checks.storage import digest, files, layout, plain_yaml
from release.runtimes.settings import Identity, Setting, Settings

FOLDER = Path(__file__).parent
_WORDS = (
    "model", "name", "host", "port", "dtype", "max_input_tokens", "max_total_tokens", "all_tokens",
    "max_concurrent_requests", "shards", "draft_tokens", "max_rank", "most_adapters", "tool_parser", "reasoning_parser",
    "temperature", "top_p",
)  # fmt: skip
_WORD = re.compile(f"{{({'|'.join(_WORDS)})}}")

# How a server is asked for what OpenAI's API has no word for: the code that speaks it is release/serving/dialects.py.
Dialect = Literal["tgi", "vllm", "sglang", "llamacpp", "openai"]


class Watched(Section):
    """The metrics that alerts, the dashboard and scaling of a cluster ask for; null if the server has none.

    A file of a team may leave them out.
    """

    waiting: Annotated[str | None, Field(description="gauge: requests in the server's queue")] = (
        None
    )
    running: Annotated[str | None, Field(description="gauge: requests that are answered")] = None
    cache: Annotated[
        str | None, Field(description="gauge: share of the room for keys and values in use")
    ] = None
    first_token: Annotated[
        str | None, Field(description="histogram: seconds to the first token")
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the metrics that the server has."""
        return tuple(name for name in self.model_dump().values() if name is not None)


class Metrics(Section):
    """Prometheus metrics at ``path``; every counter of ``counters`` must grow with requests.

    ``labels``: by the name of a sample, labels that say how the server was started, each with the value it must have.
    """

    path: str
    counters: Strings
    watched: Watched = Watched()
    labels: dict[str, dict[str, str]] = Field(default_factory=dict)


class Errors(Section):
    """Expected status codes for wrong requests; null if this server cannot be checked: ``cannot`` says why."""

    too_long: Annotated[tuple[int, ...] | None, Field(strict=False)]
    malformed: Annotated[tuple[int, ...] | None, Field(strict=False)]
    unknown_model: Annotated[tuple[int, ...] | None, Field(strict=False)]


class Drain(Section):
    """How the server stops: its own limit in seconds, and the exit codes of a clean stop."""

    seconds: Annotated[
        float | None, Field(ge=0, description="null: as long as the requests in flight take")
    ]
    exit_codes: Annotated[tuple[int, ...], Field(strict=False)]


class OwnEnvironment(Section):
    """A Python environment apart from Lockstep's, because the server pins packages that Lockstep has in other versions.

    ``folder``: below .lockstep. ``variable``: names the Python of another environment instead. ``make``: the command.
    """

    folder: Name
    variable: str
    make: str


class Runtime(Section):
    """One server. ``cannot`` names what it does not support, with reasons.

    That is a check, or a field of ``errors`` or of ``metrics.watched``, as ``errors.too_long`` or ``metrics.cache``.

    A check ``read-only`` in ``cannot`` means that the root file system is writable. ``rope``: kinds of rotary embedding
    that it computes as transformers does, each with the values that it assumes. ``heads``: supported sizes of an
    attention head. ``windows``: model types with sliding windows, each with n if every n-th layer has full attention, 0
    if none has. null: no restriction. ``unknown``: keys of config.json that are newer than this server, each with the
    value that it assumes.
    """

    name: Name
    archived: Annotated[
        str | None, Field(description="since when it is no longer developed; null: it is")
    ]
    image: Annotated[str, Field(description="what serve.base is pinned from, by tag")]
    platform: Annotated[str, Field(description="of the image, unless serve.platform names another")]
    entrypoint: Annotated[
        tuple[str, ...] | None, Field(strict=False, description="null: the base's")
    ]
    command: Strings
    environment: dict[str, str]
    dtypes: Annotated[
        dict[Literal["bf16", "fp16", "fp32"], str], Field(min_length=1, description="its own words")
    ]
    port: Annotated[int, Field(ge=1024, le=65535)]
    user: str | None
    package: Annotated[
        str | None,
        Field(description="what brings the entrypoint to an environment; null: only its image"),
    ]
    own_environment: Annotated[
        OwnEnvironment | None, Field(description="null: `package` is beside Lockstep")
    ]
    writable: Annotated[
        tuple[str, ...], Field(strict=False, description="paths that need room on a read-only root")
    ]
    shm_mb: int
    health: str
    dialect: Dialect
    concurrency: Annotated[
        int, Field(ge=1, description="requests that verify keeps in flight while it scores")
    ]
    context_multiple: Annotated[
        int,
        Field(
            ge=1, description="the server rounds serve.max_total_tokens up to a multiple of this"
        ),
    ] = 1
    model_field: Annotated[
        str, Field(description="what a request calls the model, with placeholders")
    ]
    identity: Identity | None
    metrics: Metrics | None
    errors: Errors
    drain: Drain
    rope: dict[str, dict[str, bool | float | None]] | None
    heads: Annotated[tuple[int, ...] | None, Field(strict=False)]
    windows: dict[str, Annotated[int, Field(ge=0)]] | None
    unknown: dict[str, bool | float | None]
    settings: Settings
    cannot: dict[str, str]
    _file: Digest | None = PrivateAttr(None)

    @property
    def file(self) -> Digest | None:
        """The digest of the file in the team's repository; None: Lockstep ships this runtime."""
        return self._file

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        """Check that everything left out has a reason, and every reason is for something that exists."""
        parts = {f"errors.{name}": getattr(self.errors, name) for name in Errors.model_fields}
        watched = self.metrics.watched if self.metrics else Watched()
        named = watched.model_dump(exclude_unset=True)
        parts |= {f"metrics.{name}": metric for name, metric in named.items()}
        given = {"identity": self.identity, "metrics": self.metrics, **parts}
        if silent := [
            name for name, value in given.items() if value is None and not self.cannot.get(name)
        ]:
            raise ValueError(f"cannot: gives no reason for {', '.join(silent)}")
        if stray := sorted(set(self.cannot) - set(get_args(CheckName)) - set(parts)):
            raise ValueError(f"cannot: {', '.join(stray)}: there is no such check")
        if denied := [
            name for name, value in given.items() if value is not None and name in self.cannot
        ]:
            raise ValueError(f"cannot: {', '.join(denied)}: the file says how")
        return self

    def platform_for(self, serve: Serve) -> str:
        """The platform of an image, such as linux/amd64."""
        return serve.platform or self.platform

    def chosen(self, serve: Serve) -> dict[str, Setting]:
        """The optional settings that ``serve`` names, by their keys. Raises ParamsRefused if the server lacks one."""
        return self.settings.chosen(self.name, serve)


class Filled(Section):
    """A runtime with every placeholder replaced, for one platform. ``identity``: None where it cannot be asked."""

    platform: str
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...]
    environment: dict[str, str]
    model_field: str
    identity: Identity | None


def names() -> list[str]:
    """The names of the runtimes that Lockstep ships."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Runtime:
    """Read a runtime that Lockstep ships. Raises ParamsRefused if there is none of that name or its file is invalid."""
    if name not in names():
        raise ParamsRefused(
            f"serve.runtime: {name!r} is not a runtime",
            f"use one of {', '.join(names())}, or commit {layout.RUNTIMES}/NAME.yaml",
        )
    path = FOLDER / f"{name}.yaml"
    try:
        return _parse(path.read_bytes(), str(path), name)
    except OSError as error:
        raise ParamsRefused(f"{path}: {error.strerror or error}", "fix the file") from error


def of_team(data: bytes, called: str, name: str) -> Runtime:
    """Read a runtime from a team's file, named ``called`` in refusals. Raises ParamsRefused if it is invalid."""
    runtime = _parse(data, called, name)
    runtime._file = digest.of_bytes(data)
    return runtime


def _parse(data: bytes, called: str, name: str) -> Runtime:
    node: yaml.Node | None = None
    try:
        node, value = plain_yaml.read(data.decode())
        runtime = Runtime.model_validate(value)
    except ValidationError as error:
        line = _line(node, error.errors(include_url=False)[0]["loc"])
        raise ParamsRefused(f"{called}:{line}: {files.first(error)}", "fix the file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsRefused(
            f"{called}:{line}: not YAML: {error.problem}", "fix the file"
        ) from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8
        what = str(error).splitlines()[0]
        raise ParamsRefused(f"{called}: not YAML: {what}", "fix the file") from error
    if runtime.name != name:
        line = _line(node, ("name",))
        raise ParamsRefused(f"{called}:{line}: is called {runtime.name!r}", f"call it {name}")
    return runtime


def _line(node: yaml.Node | None, keys: Sequence[str | int]) -> int:
    """Return the line of the value at ``keys``, or of the last of them that the file has."""
    line = 1
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            node = node.value[key]
            line = node.start_mark.line + 1
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        entry = next((pair for pair in pairs if pair[0].value == key), None)
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line


def fill(runtime: Runtime, serve: Serve, path: str, host: str = "0.0.0.0") -> Filled:  # noqa: S104 - in a container
    """Replace the placeholders; ``path``: the weights' folder as the server sees it, ``host``: where it listens.

    Raises ParamsRefused if the server does not support ``serve.dtype``, ``serve.max_total_tokens``, ``serve.shards`` or
    a setting that is named.
    """
    if serve.dtype not in runtime.dtypes:
        raise ParamsRefused(
            f"serve.dtype: {serve.dtype}: {runtime.name} does not compute in it",
            f"use {' or '.join(runtime.dtypes)}",
        )
    beyond = -serve.max_total_tokens % runtime.context_multiple
    if beyond:
        raise ParamsRefused(
            f"serve.max_total_tokens: {serve.max_total_tokens}: {runtime.name} rounds it up to a multiple of "
            f"{runtime.context_multiple}, and would answer longer requests",
            f"write {serve.max_total_tokens + beyond}",
        )
    shards, added = serve.shards or 1, runtime.chosen(serve).values()
    command = [*runtime.command, *(text for setting in added for text in setting.command)]
    environment = runtime.environment | {
        name: text for setting in added for name, text in setting.environment.items()
    }
    if shards > 1 and not any("{shards}" in text for text in (*command, *environment.values())):
        raise ParamsRefused(
            f"serve.shards: {shards}: {runtime.name} computes on one device",
            "use null, or another serve.runtime",
        )
    words = {
        "model": path,
        "name": serve.name,
        "host": host,
        "port": str(runtime.port),
        "dtype": runtime.dtypes[serve.dtype],
        "max_input_tokens": str(serve.max_input_tokens),
        "max_total_tokens": str(serve.max_total_tokens),
        "all_tokens": str(serve.max_total_tokens * runtime.concurrency),
        "max_concurrent_requests": str(serve.max_concurrent_requests),
        "shards": str(shards),
        "draft_tokens": str(serve.speculation.tokens if serve.speculation else 0),
        "max_rank": str(serve.adapter.max_rank if serve.adapter else 0),
        "most_adapters": str(serve.adapter.most if serve.adapter else 0),
        "tool_parser": serve.tools.parser if serve.tools else "",
        "reasoning_parser": serve.reasoning.parser if serve.reasoning else "",
        "temperature": f"{serve.decoding.temperature:g}" if serve.decoding else "",
        "top_p": f"{serve.decoding.top_p:g}" if serve.decoding else "",
    }

    adapter = runtime.settings.adapter if serve.adapter else None
    identity = runtime.identity if adapter is None else adapter.identity

    def filled(text: str) -> str:
        """Replace in one pass, so that a value that looks like a placeholder is kept."""
        return _WORD.sub(lambda found: words[found[1]], text)

    return Filled(
        platform=runtime.platform_for(serve),
        entrypoint=None if runtime.entrypoint is None else tuple(map(filled, runtime.entrypoint)),
        command=tuple(map(filled, command)),
        environment={name: filled(value) for name, value in sorted(environment.items())},
        model_field=filled(runtime.model_field if adapter is None else adapter.model_field),
        identity=identity and identity.model_copy(update={"field": filled(identity.field)}),
    )
