"""``kserve``: what KServe's inference logger sent: CloudEvents as JSON, or the JSON files that it stores in a bucket.

A request and its answer are two events with one id. The logger sends an answer only if its status was 200, so a
request without one is left out and counted: which status it had is not known. It writes the pod's annotation
lockstep/model into each event if the InferenceService has spec.predictor.logger.metadataAnnotations: [lockstep/model].
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import (
    AliasChoices,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    Field,
    JsonValue,
)

from release.monitoring.gateway.answers import object_in
from release.monitoring.log_kind import Entry, LogKind, documents, entry, validated
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan

_REQUEST = "org.kubeflow.serving.inference.request"
_RESPONSE = "org.kubeflow.serving.inference.response"
_MODEL = "lockstep/model"
_EVENTS = "give events of KServe's inference logger: CloudEvents as JSON with their data, or the files of its store"
_MAIN = ("", "default")  # endpoints; the other one is KServe's canary


class _Event(BaseModel):
    """The first name of each is CloudEvents', the other that of the files in a bucket (KServe's LogRequest)."""

    id: str
    type: str = Field(validation_alias=AliasChoices("type", "reqType"))
    time: AwareDatetime = Field(validation_alias=AliasChoices("time", "occurrenceTime"))
    data: JsonValue = None
    raw: Base64Bytes | None = Field(None, validation_alias=AliasChoices("data_base64", "bytes"))
    endpoint: str = ""
    # An extension of CloudEvents is no object, so the annotations may be text.
    annotations: dict[str, str] | str = Field(default_factory=dict)

    @property
    def body(self) -> JsonValue:
        """The request or the answer."""
        return self.data if self.raw is None else self.raw.decode(errors="replace")

    @property
    def release(self) -> str | None:
        """The digest of the model in the pod's annotations."""
        annotations: dict[str, Any] | str = self.annotations
        if isinstance(annotations, str):
            annotations = object_in(annotations)
        model = annotations.get(_MODEL)
        return None if model is None else str(model)


# Events with the places that they were read at.
_Placed = list[tuple[str, _Event]]


class KServe(LogKind):
    """KServe's inference logger."""

    name = "kserve"

    def read(self, source: str, span: TimeSpan) -> Iterator[Entry]:
        """The events in a file, or in all files in a folder or at an address of fsspec, paired by their ids."""
        del span
        by_id: dict[str, dict[str, _Placed]] = defaultdict(lambda: {_REQUEST: [], _RESPONSE: []})
        for name, data in CaptureStore(source).documents():
            for place, value in documents(name, data):
                event = validated(place, _Event, value, _EVENTS)
                if event.type not in (_REQUEST, _RESPONSE):
                    yield Entry(place, None, f"an event of type {event.type[:80]}")
                    continue
                known = by_id[event.id][event.type]
                if event not in [other for _, other in known]:  # It may be delivered twice.
                    known.append((place, event))
        for name, events in by_id.items():
            yield _paired(name, events[_REQUEST], events[_RESPONSE])


def _paired(name: str, requests: _Placed, answers: _Placed) -> Entry:
    place = (requests or answers)[0][0]
    faults = (
        (not requests, "an answer without its request"),
        (max(len(requests), len(answers)) > 1, "two requests or answers with the same id"),
        (not answers, "a request without an answer: KServe logs only answers with status 200"),
    )
    if fault := next((what for applies, what in faults if applies), ""):
        return Entry(place, None, fault)
    request, answer = requests[0][1], answers[0][1]
    if request.release is None and request.endpoint not in _MAIN:
        return Entry(
            place, None, f"a request to endpoint {request.endpoint[:40]} that names no release"
        )
    return entry(
        place, time=request.time, request_id=name, request=request.body, response=answer.body, status=200,
        seconds=max(0.0, (answer.time - request.time).total_seconds()), release=request.release,
    )  # fmt: skip
