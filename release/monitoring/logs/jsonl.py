"""``jsonl``: an access log of a server, a proxy or an application, with one JSON object a line.

{"time": "2026-11-26T16:20:00Z", "request_id": "3f1c", "status": 200, "seconds": 0.31, "request": {"messages": […]},
 "response": {"choices": […]}}

``time``: when the request arrived. ``request`` and ``response``: the bodies, or their text; for a stream, the text of
all events. ``seconds_to_first_token``, ``release`` (the model's digest) and ``user`` are optional. Other fields are not
read, and lines of requests without a chat or completion are left out.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, JsonValue

from checks.formats.serving import Seconds
from release.monitoring.log_kind import Entry, LogKind, documents, entry, validated
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan

_FIELDS = "docs/how-to/gateway.md#requests-that-other-tools-recorded has the fields of a line"


class _Line(BaseModel):
    time: AwareDatetime
    request_id: str
    status: Annotated[int, Field(ge=100, le=599)]
    seconds: Seconds
    seconds_to_first_token: Seconds | None = None
    release: str | None = None
    user: str | None = None
    request: JsonValue = None
    response: JsonValue = None


class JsonLines(LogKind):
    """Lines of JSON."""

    name = "jsonl"

    def read(self, source: str, span: TimeSpan) -> Iterator[Entry]:
        """The lines of a file, or of all files in a folder or at an address of fsspec."""
        del span
        for name, data in CaptureStore(source).documents():
            for place, value in documents(name, data):
                line = validated(place, _Line, value, _FIELDS)
                yield entry(
                    place, time=line.time, request_id=line.request_id, request=line.request, response=line.response,
                    status=line.status, seconds=line.seconds, first=line.seconds_to_first_token, release=line.release,
                    user=line.user,
                )  # fmt: skip
