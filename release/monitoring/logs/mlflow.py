"""``mlflow``: traces of an MLflow experiment, as its AI Gateway and mlflow.openai.autolog() write them; its labels.

The source is the experiment's name; MLFLOW_TRACKING_URI says which MLflow is asked. Requests of judges are left out:
the gateway traces them into the same experiment. Request id: the trace's client_request_id, else the trace's own id.
"""

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from checks.formats.captures import Name
from checks.process import distribution
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.process.text import redact
from release.monitoring.gateway.answers import Events, ParsedAnswer
from release.monitoring.log_kind import NO_COMPLETION, Entry, LogKind, entry
from release.monitoring.store import Label
from release.monitoring.window import TimeSpan

_VARIABLE = "MLFLOW_TRACKING_URI"
_CALLER = "mlflow.gateway.caller"
_USER = "mlflow.trace.user"
_CHUNK = "mlflow.chunk.value"  # an attribute of an event of a span, one for each piece of a stream
_STATUS = re.compile(r"([45]\d\d)(?::|$)")  # how the gateway's HTTPException begins
_JUDGES = ("LLM_JUDGE", "AI_JUDGE")
_NOT_ENDED = "a trace that has not ended"
_PAGE = 100
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Traces(LogKind):
    """Traces of an experiment."""

    name = "mlflow"

    def read(self, source: str, span: TimeSpan) -> Iterator[Entry]:
        """Yield the traces of the experiment ``source`` that began within ``span``.

        MLflow leaves a trace out of a search with spans until all of its spans are stored. Such a trace is named.
        """
        whole = {trace.info.trace_id: trace for trace in _traces(source, span, spans=True)}
        for trace in _traces(source, span, spans=False):
            name = trace.info.trace_id
            yield _entry(whole[name]) if name in whole else Entry(f"trace {name}", None, _NOT_ENDED)


def labels(experiment: str, name: str, span: TimeSpan) -> Iterator[Label | str]:
    """The labels in assessments called ``name``; in place of each one that is left out, a str that says why.

    A label is an Expectation, or Feedback whose value is text. Feedback that says only right or wrong is left out: the
    correct label of a wrong answer is not known, and labels of right answers alone would make the model look too good.
    """
    for trace in _traces(experiment, span, spans=False):
        for assessment in trace.info.assessments:
            # An assessment is not valid after another one took its place.
            if assessment.name != name or assessment.valid is False:
                continue
            value = getattr(assessment.expectation or assessment.feedback, "value", None)
            if assessment.source.source_type in _JUDGES:
                yield "from a judge, not from a person"
            elif not isinstance(value, str):
                yield "not the text of a correct answer"
            else:
                yield Label(request_id=_id(trace.info), label=value)


def _entry(trace: Any) -> Entry:
    info = trace.info
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    place = f"trace {info.trace_id}"
    if info.trace_metadata.get(_CALLER) == "judge":
        return Entry(place, None, "a judge's request")
    if info.state not in ("OK", "ERROR"):
        return Entry(place, None, _NOT_ENDED)
    if root is None or not isinstance(root.inputs, dict):
        return Entry(place, None, NO_COMPLETION)
    response = root.outputs
    # MLflow stores each piece of a stream that the gateway passes on as Python shows bytes.
    if isinstance(response, list):
        response = b"".join(map(_piece, response)).decode(errors="replace")
    return entry(
        place, time=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=info.request_time),
        request_id=_id(info), request=root.inputs, response=response,
        status=200 if info.state == "OK" else _status(root), seconds=(info.execution_duration or 0) / 1000,
        first=_first(root), user=info.trace_metadata.get(_USER),
    )  # fmt: skip


def _id(info: Any) -> str:
    name = info.client_request_id or info.trace_id
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise EvidenceRefused(
            f"trace {info.trace_id}: client_request_id: {name[:80]!r} is no id",
            "give such traces ids of at most 128 letters, digits and ._:-",
        ) from error


def _piece(shown: Any) -> bytes:
    try:
        value = ast.literal_eval(shown)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = shown
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def _status(root: Any) -> int:
    """The status of a failed request; 500 where the trace does not say it, so that it counts against availability."""
    for event in root.events:
        if event.name == "exception" and (
            match := _STATUS.match(str(event.attributes.get("exception.message", "")))
        ):
            return int(match[1])
    return 500


def _first(root: Any) -> float | None:
    """Seconds until the first piece of a stream that has text."""
    answer = ParsedAnswer()
    events = Events(answer)
    for event in root.events:
        if _CHUNK not in event.attributes:
            continue
        value = json.loads(event.attributes[_CHUNK])
        if answer.add(value) if isinstance(value, dict) else events.feed(_piece(value)):
            return float(max(0, event.timestamp - root.start_time_ns)) / 1e9
    return None


def _traces(experiment: str, span: TimeSpan, *, spans: bool) -> Iterator[Any]:
    address = os.environ.get(_VARIABLE)
    if not address:
        raise MachineRefused(
            f"the variable {_VARIABLE} is not set", "set it, such as to http://127.0.0.1:5000"
        )
    for name, value in PATIENCE.items():  # MLflow's own defaults wait for many minutes
        os.environ.setdefault(name, value)
    shown = redact(address)
    with _refusing(shown):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=address)
        of_name = client.get_experiment_by_name(experiment)
        if of_name is None:
            known = ", ".join(
                repr(other.name) for other in client.search_experiments(max_results=5)
            )
            raise EvidenceRefused(
                f"{shown}: has no experiment {experiment[:80]!r}",
                f"use one of its experiments: {known}",
            )
    begins, ends = (int(moment.timestamp() * 1000) for moment in span)
    condition, token = f"timestamp_ms >= {begins} AND timestamp_ms < {ends}", None
    while True:
        with _refusing(shown):
            page = client.search_traces(
                locations=[of_name.experiment_id], filter_string=condition, max_results=_PAGE, page_token=token,
                order_by=["timestamp_ms ASC"], include_spans=spans,
            )  # fmt: skip
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _refusing(shown: str) -> Iterator[None]:
    """Turn what MLflow raises into MachineRefused: each kind of store has errors of its own."""
    try:
        yield
    except Refusal:
        raise
    except ImportError as error:
        raise MachineRefused("MLflow is not installed", distribution.install("pipeline")) from error
    except Exception as error:
        raise MachineRefused(
            f"{shown}: {redact(str(error), 200)}",
            f"check {_VARIABLE}, the server and its credentials, then run it again",
        ) from error
