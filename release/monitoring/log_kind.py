"""The interface of a kind of log: requests and answers of OpenAI's API that another tool recorded.

One kind, one file in ``release.monitoring.logs``. A kind reads time, request and answer from its log; ``entry`` checks
them and makes the same Exchange as the gateway. Afterwards ``release.monitoring.gateway.rows`` redacts and makes rows.
"""

import abc
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from checks.formats.captures import SHADOW_ID, release_named
from checks.process.errors import EvidenceRefused
from checks.process.text import redact
from checks.storage import files
from release.monitoring.gateway.answers import Events, ParsedAnswer, whole
from release.monitoring.gateway.rows import Exchange
from release.monitoring.window import TimeSpan

M = TypeVar("M", bound=BaseModel)
_STREAM = ("data:", "event:", "id:", ":")  # how server-sent events begin
NO_COMPLETION = "no chat and no completion"


class Entry(NamedTuple):
    """A request of a log. ``where``: file and line, or the trace. ``exchange``: None if the request is left out."""

    where: str
    exchange: Exchange | None
    left_out: str = ""  # why it is left out


class LogKind(abc.ABC):
    """``name``: as the command calls it."""

    name: ClassVar[str]

    @abc.abstractmethod
    def read(self, source: str, span: TimeSpan) -> Iterator[Entry]:
        """The requests at ``source``. Those outside of ``span`` may be missing: `capture` would drop them anyway.

        Raises EvidenceRefused, with the line, for a malformed log; MachineRefused if a package is missing.
        """


def entry(
    where: str, *, time: datetime, request_id: str, request: Any, response: Any, status: int, seconds: float,
    release: str | None = None, first: float | None = None, user: str | None = None,
) -> Entry:  # fmt: skip
    """Check a request and its answer. ``request``: a JSON object or its text; ``response``: that, or a stream's text.

    ``release``: the digest of the model that answered, if the log has it; ``first``: seconds to the first token.
    ``user``: whoever asked, if another field than those of OpenAI names it; only a keyed hash of it is ever stored.
    Raises EvidenceRefused for a malformed digest, or if ``status`` is below 400 and the answer is not one of OpenAI's.
    """
    body = _object(f"{where}: request", request)
    if "messages" not in body and "prompt" not in body:
        return Entry(where, None, NO_COMPLETION)
    if request_id == SHADOW_ID:
        return Entry(where, None, "a request of `lockstep shadow`")
    answer = _answer(response)
    error = None if status < 400 else str(status)
    if status < 400:
        if not answer.choices:
            todo = "give the log of the server's own API, /v1/chat/completions or /v1/completions"
            raise EvidenceRefused(
                f"{where}: response: has no choices, so it is no answer of OpenAI's API", todo
            )
        if answer.failed or not answer.complete:
            error = "upstream_error"
    if answer.cut:
        return Entry(where, None, "an answer that is too long to be stored")
    named = None if release is None else release_named(release)
    if release is not None and named is None:
        todo = "write the digest of the model that answered, or its first 12 digits"
        raise EvidenceRefused(f"{where}: release: {release[:80]!r} is no digest of a model", todo)
    operation: Literal["chat", "text_completion"] = (
        "chat" if "messages" in body else "text_completion"
    )
    return Entry(
        where,
        Exchange(
            time,
            request_id,
            operation,
            json.dumps(body).encode(),
            named,
            status,
            error,
            answer,
            seconds,
            first,
            user=user,
        ),
    )


def documents(name: str, data: bytes) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file, each with its place: one a line, or in NAME.json a single value or a list of them.

    Raises EvidenceRefused, with the line, for invalid JSON.
    """
    if not name.endswith(".json"):
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield f"{name}:{number}", _parsed(name, line, number)
        return
    value = _parsed(name, data, 1)
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield f"{name}:[{number}]", item


def validated(where: str, model: type[M], value: Any, todo: str) -> M:
    """Return ``value`` as a ``model``. Raises EvidenceRefused if it is none."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise EvidenceRefused(f"{where}: {files.first(error)}", todo) from error


def _parsed(name: str, data: bytes, line: int) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        at = line + getattr(error, "lineno", 1) - 1
        why = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise EvidenceRefused(
            f"{name}:{at}: Invalid JSON: {redact(why)}",
            "give complete lines of JSON: copy the log, and remove a last line that is still being written",
        ) from error


def _object(where: str, value: Any) -> dict[str, Any]:
    """Parse a JSON object or its text. Null is an empty object: access logs write it for requests without a body."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            value = ()
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise EvidenceRefused(
            f"{where}: is no JSON object",
            "log the body of the request as an object, or as its text",
        )
    return value


def _answer(response: Any) -> ParsedAnswer:
    """Parse the answer. It has no choices if it is not one of OpenAI's API."""
    if not isinstance(response, str):
        return whole(json.dumps(response).encode())
    if response.lstrip().startswith(_STREAM):
        answer = ParsedAnswer()
        Events(answer).feed(f"{response}\n".encode(errors="replace"))
        return answer
    return whole(response.encode(errors="replace"))
