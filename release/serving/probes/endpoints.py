"""identity, metrics, errors: what a server reports about itself, and how it answers wrong requests."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from checks.formats.serving import ServingCheck
from checks.records.rows import Message
from release.runtimes import Metrics
from release.serving import dialects
from release.serving.client import NoAnswer, Reply, shown
from release.serving.probes import agreement
from release.serving.probes.context import ProbeContext, failed, passed, some, unavailable

_USED = {"prefix_caching": "prefix caching", "speculation": "speculation"}
METRIC_SECONDS = 10.0  # Seconds by which counters may lag behind the answers.
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)


def identity(context: ProbeContext) -> ServingCheck:
    """The server reports the folder that it was given, or its file in there; the name has the model's digest."""
    identity_at = context.identity
    if identity_at is None:
        return unavailable("identity", context.runtime.cannot["identity"])
    value = context.client.get(identity_at.path).good().json()
    for part in identity_at.field.split("."):
        key, _, wanted = part.partition("=")
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, list) and (entry := _entry(value, key, wanted)) is not None:
            value = entry
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return failed("identity", f"{identity_at.path} has no {identity_at.field}")
    named = f"{identity_at.path} says that {identity_at.field} is"
    folder = PurePosixPath(context.server.model)
    right = str(folder / (identity_at.file or ""))
    if value != right:
        name = value if isinstance(value, str) else json.dumps(value)
        return failed("identity", f"{named} {shown(name, 200)}, not {right}")
    inside = f"{identity_at.file} in " if identity_at.file else ""
    return passed("identity", f"{named} {inside}the folder that it was given, {folder.name}")


def _entry(listed: list[Any], key: str, wanted: str) -> dict[str, Any] | None:
    """Return the first mapping of ``listed`` whose ``key`` is ``wanted``; None if there is none."""
    mappings = (entry for entry in listed if isinstance(entry, dict))
    return next((entry for entry in mappings if entry.get(key) == wanted), None)


def metrics(context: ProbeContext) -> ServingCheck:
    """Check that every counter that the runtime names grows with requests, and that its labels have their values.

    Every metric that alerts, the dashboard and scaling ask for must be there.
    """
    exposed = context.runtime.metrics
    if exposed is None:
        return unavailable("metrics", context.runtime.cannot["metrics"])
    if wrong := _wrong_label(exposed, context.client.get(exposed.path).good().body):
        return failed("metrics", wrong)

    before = counters(context, exposed.counters)
    for probe in context.probes.probes[:2]:
        context.chat(probe, context.probes.max_new_tokens)
    still = [name for name, more in grown(context, exposed.counters, before).items() if more <= 0]
    if still:
        after = counters(context, exposed.counters)
        absent = [name for name in still if name not in after]
        why = (
            f"{', '.join(absent)} not at {exposed.path}"
            if absent
            else f"{', '.join(still)} did not grow with requests"
        )
        return failed("metrics", why)
    text = context.client.get(exposed.path).good().body.decode(errors="replace")
    unseen = [
        name
        for name in exposed.watched.names
        if not re.search(rf"^{re.escape(name)}(_bucket)?[ {{]", text, re.MULTILINE)
    ]
    if unseen:
        return failed(
            "metrics", f"{', '.join(unseen)} not at {exposed.path}: an alert on it would be silent"
        )
    return passed("metrics", f"{', '.join(exposed.counters)} at {exposed.path} grew with requests")


def _wrong_label(exposed: Metrics, body: bytes) -> str | None:
    """Say which label has another value than ``exposed.labels`` names; None if there is none."""
    text = body.decode(errors="replace")
    for sample, labels in exposed.labels.items():
        for label, expected in labels.items():
            pattern = rf'^{re.escape(sample)}\{{(?:.*,)?{re.escape(label)}="([^"]*)"'
            values = re.findall(pattern, text, re.MULTILINE)
            if others := [value for value in values if value != expected]:
                return f"{sample} says {label}={shown(others[0], 100)}, and {expected} is expected"
            if not values:
                return f"{sample} with the label {label} is not at {exposed.path}"
    return None


def samples(body: bytes) -> dict[str, float]:
    """Samples of Prometheus' text format by name, summed over labels; NaN and invalid numbers are left out."""
    values: dict[str, float] = {}
    for name, value in _SAMPLE.findall(body.decode(errors="replace")):
        with suppress(ValueError):
            if not math.isnan(number := float(value)):
                values[name] = values.get(name, 0.0) + number
    return values


def counters(context: ProbeContext, names: Sequence[str]) -> dict[str, float]:
    """Return the server's counters; empty without ``names`` of some, or if the runtime names no metrics."""
    exposed = context.runtime.metrics if names else None
    return samples(context.client.get(exposed.path).good().body) if exposed else {}


def grown(
    context: ProbeContext, names: Sequence[str], before: Mapping[str, float]
) -> dict[str, float]:
    """Return by how much each counter grew since ``before``; those that lag behind the answers are waited for."""
    until = time.monotonic() + METRIC_SECONDS
    while True:
        after = counters(context, names)
        grew = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}
        if all(more > 0 for more in grew.values()) or time.monotonic() > until:
            return grew
        time.sleep(0.2)


def settings_used(
    context: ProbeContext, before: Mapping[str, float]
) -> tuple[str | None, list[str]]:
    """Tell whether a server used the optional settings that params.yaml turns on, by its own counters.

    Return what is wrong if a counter did not grow since ``before``, else None; and what is known of each setting.
    """
    uses = []
    for key, setting in context.runtime.chosen(context.serve).items():
        if key not in _USED or getattr(context.serve, key) is False:
            continue
        grew = grown(context, setting.counters, before)
        if still := [name for name, more in grew.items() if more <= 0]:
            wrong = f"serve.{key}: {still[0]} did not grow while the probes were answered"
            return f"{wrong}: so {_USED[key]} was not tested", []
        counted = ", ".join(f"{name} grew by {more:g}" for name, more in grew.items())
        uses.append(
            f"{_USED[key]}: {counted or f'{context.runtime.name} does not count how often it was used'}"
        )
    return None, uses


def errors(context: ProbeContext) -> ServingCheck:
    """Wrong requests get the runtime's status codes and a reason, and the next correct request its answer."""
    probe, right = context.probes.probes[0], context.runtime.errors
    started = context.beside.serve if context.beside else context.serve
    message = Message(role="user", content=" ".join(["a"] * (started.max_total_tokens + 1)))
    ordinary = dialects.request(context.model, probe.messages, context.probes.max_new_tokens)
    ordinary |= context.speech.for_text(probe.tools)
    requests: dict[str, tuple[Any, tuple[int, ...] | None]] = {
        "too_long": (dialects.request(context.model, [message], 1), right.too_long),
        "malformed": (b'{"messages": [', right.malformed),
        "unknown_model": (
            ordinary | {"model": "lockstep-asks-for-a-model-that-is-not-there"},
            right.unknown_model,
        ),
    }
    wrong, seen, unchecked = [], [], []
    for name, (body, codes) in requests.items():
        words = name.replace("_", " ")
        if codes is None:
            unchecked.append(f"{words}: {context.runtime.cannot[f'errors.{name}']}")
            continue
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = context.client.post_bytes(dialects.CHAT, data)
        if complaint := _unfit(reply, codes):
            wrong.append(f"{words}: {complaint}")
        else:
            seen.append(f"{words} {reply.status}")
    again = context.chat(probe, context.probes.max_new_tokens).text
    if agreement.tidy(again) != agreement.tidy(context.answers[0].text):
        wrong.append(f"answers probe {probe.id} differently after wrong requests:  {shown(again)}")
    if wrong:
        return failed("errors", some(wrong))
    if not seen:
        return unavailable("errors", "; ".join(unchecked))
    return passed(
        "errors",
        "; ".join([f"refused: {', '.join(seen)}", *(f"not asked: {one}" for one in unchecked)]),
    )


def _unfit(reply: Reply, codes: tuple[int, ...]) -> str | None:
    """Return what is wrong with a refusal: another status, no reason, or internals of the server."""
    if reply.status not in codes:
        return f"HTTP {reply.status} where {' or '.join(map(str, codes))} is right: {shown(reply.body)}"
    text = reply.body.decode(errors="replace").strip()
    if not text or "Traceback (most recent call last)" in text:
        return f"HTTP {reply.status} without a reason a client can use: {shown(text)}"
    try:
        reply.json()
    except NoAnswer:
        if text.startswith("<") or len(text.splitlines()) > 1:
            return f"HTTP {reply.status} and neither JSON nor one line of text: {shown(text)}"
    return None
