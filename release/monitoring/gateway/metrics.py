"""Counts requests for Prometheus, by environment and release; requests that wait and servers by environment.

A counter that is first scraped with its first errors has no increase, so no rule would see them. Therefore every series
of a rule is exported as soon as its release is known, and stays 0 until it must have been scraped.
"""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from checks.data import signals
from release.monitoring.gateway.options import GatewaySettings
from release.monitoring.gateway.outcomes import OUTCOMES, Outcome, outcome_of
from release.monitoring.gateway.rows import Exchange
from release.monitoring.gateway.upstreams import Server

UNKNOWN = "unknown"  # release: no server answered, or it does not say what it serves
# Reasons by which OpenAI, vLLM, TGI and transformers end an answer; others would be labels without a bound.
_FINISHES = frozenset(
    {
        "stop",
        "length",
        "tool_calls",
        "function_call",
        "content_filter",
        "abort",
        "error",
        "repetition",
        "eos_token",
    }
)
_CHARACTERS = (10, 30, 100, 300, 1000, 3000, 10000, 30000)
_SCRAPES = 1.25  # intervals within which a scrape is certain
_OF_A_RELEASE = ("environment", "release")
CounterName = Literal["captures", "captures_dropped", "captures_too_large", "retries"]

# Each metric: its kind, what it is, and its labels.
_METRICS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "outcomes": (Counter, "Requests by what became of them.", ("outcome", *_OF_A_RELEASE)),
    "requests": (Counter, "Requests that ended.", ("code", "finish_reason", *_OF_A_RELEASE)),
    "request_seconds": (Histogram, "From arrival to the end.", _OF_A_RELEASE),
    "time_to_first_token_seconds": (Histogram, "Of streams: to the first text.", _OF_A_RELEASE),
    "inter_token_seconds": (Histogram, "Of streams: between two texts.", _OF_A_RELEASE),
    "tokens": (Counter, "Tokens of prompts (in) and answers (out).", ("direction", *_OF_A_RELEASE)),
    "thought_tokens": (Counter, "Tokens of answers that are thoughts, a part of out.", _OF_A_RELEASE),
    "in_flight": (Gauge, "Requests that a server is answering.", _OF_A_RELEASE),
    "rejected": (Counter, "Invalid requests, of which no server heard.", ("code", *_OF_A_RELEASE)),
    "retries": (Counter, "Requests sent to another server: one took no connection.", _OF_A_RELEASE),
    "captures_dropped": (Counter, "Sampled requests that were not stored.", _OF_A_RELEASE),
    "captures": (Counter, "Sampled requests that were stored.", _OF_A_RELEASE),
    "captures_too_large": (Counter, "Sampled requests that are too large to be stored.", _OF_A_RELEASE),
    "refusals": (Counter, "Answers that decline.", _OF_A_RELEASE),
    "repetitive": (Counter, "Answers that repeat themselves.", _OF_A_RELEASE),
    "known_labels": (Counter, "Answers that are one of the known labels.", _OF_A_RELEASE),
    "answer_characters": (Histogram, "Length of answers.", _OF_A_RELEASE),
    "silent_requests": (
        Gauge, "Requests at a server from which no text came for so many seconds.", ("after", "environment"),
    ),
    "last_text_seconds": (Gauge, "Unix time at which a server last sent text.", ("environment",)),
    "servers": (Gauge, "Servers that take requests (ready), and that do not (out).", ("state", "environment")),
}  # fmt: skip


class _Ended(NamedTuple):
    """The figures of an ended request that rules ask for."""

    release: str
    outcome: Outcome
    seconds: float
    first: float | None


class Metrics:
    """Counts requests. The library's own metrics may be used by several threads."""

    def __init__(self, settings: GatewaySettings) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        buckets = {
            "request_seconds": settings.seconds,
            "time_to_first_token_seconds": settings.seconds,
            "inter_token_seconds": settings.token_seconds,
            "answer_characters": _CHARACTERS,
        }
        self._metrics = {
            name: kind(
                f"lockstep_gateway_{name}",
                text,
                labels,
                registry=self.registry,
                **({"buckets": buckets[name]} if name in buckets else {}),
            )
            for name, (kind, text, labels) in _METRICS.items()
        }
        self._telemetry = None
        if settings.otlp is not None:
            from release.monitoring.gateway.telemetry import Telemetry

            self._telemetry = Telemetry(settings.otlp, settings.environment)
        self._settings = settings
        # The latest release: requests that reach no server, and name no adapter, count under it.
        self.release = settings.release or UNKNOWN
        self._open: dict[int, Exchange] = {}
        # Releases, and since when they are exported, on the clock of time.monotonic.
        self._counted: dict[str, float] = {}
        self._uncounted: list[_Ended] = []
        self.count_release(self.release)
        self.spoke(None)

    def _of(self, name: str, *labels: str, release: str | None = None) -> Any:
        """Return the metric ``name`` with its labels. ``release``: None: the latest one."""
        scope = (self._settings.environment, release or self.release)
        return self._metrics[name].labels(*labels, *scope[: len(_METRICS[name][2]) - len(labels)])

    def text(self, servers: Iterable[Server] = ()) -> bytes:
        """Return the metrics in Prometheus' text format, with the state of ``servers`` and their releases."""
        states = {"ready": 0, "out": 0}
        for server in servers:
            states["ready" if server.ready else "out"] += 1
            for release in {server.release, *server.releases.values()} - {None}:
                self.count_release(str(release))
        for state, number in states.items():
            self._of("servers", state).set(number)
        uncounted, self._uncounted = self._uncounted, []
        for ended in uncounted:
            self._count(ended)
        now = time.monotonic()
        silences = [
            now - exchange.heard
            for exchange in self._open.values()
            if exchange.upstream is not None
        ]
        for bound in self._settings.seconds:
            silent = sum(silence > bound for silence in silences)
            self._of("silent_requests", f"{bound:g}").set(silent)
        text: bytes = generate_latest(self.registry)
        return text

    def stop(self) -> None:
        """Send what a collector lacks."""
        if self._telemetry is not None:
            self._telemetry.stop()

    def count_release(self, release: str) -> None:
        """Export every series that a rule asks for at 0, unless the release is counted already."""
        if release in self._counted:
            return
        self._counted[release] = time.monotonic()
        for outcome in OUTCOMES:
            self._of("outcomes", outcome, release=release)
        for name in ("request_seconds", "time_to_first_token_seconds", "captures_dropped"):
            self._of(name, release=release)

    def _count(self, ended: _Ended) -> None:
        """Count what rules ask for: now, or once it was exported at 0 for long enough."""
        exported = time.monotonic() - self._counted[ended.release]
        if exported < _SCRAPES * self._settings.scrape_interval:
            self._uncounted.append(ended)
            return
        self._of("outcomes", ended.outcome, release=ended.release).inc()
        # A request that was refused at once says nothing about the server's speed.
        if ended.outcome != "client_error":
            self._of("request_seconds", release=ended.release).observe(ended.seconds)
        if ended.first is not None:
            self._of("time_to_first_token_seconds", release=ended.release).observe(ended.first)

    def spoke(self, exchange: Exchange | None) -> None:
        """Text came from a server, for a request."""
        self._of("last_text_seconds").set(time.time())
        if exchange is not None:
            exchange.heard = time.monotonic()

    def began(self, exchange: Exchange) -> None:
        """Watch a request until it ends."""
        self._open[id(exchange)] = exchange

    def entered(self, release: str | None, number: int) -> None:
        """Count a request at a server: ``number`` is 1 as it is sent, -1 as it ends."""
        self._of("in_flight", release=release or UNKNOWN).inc(number)

    def between(self, release: str | None, seconds: float) -> None:
        """Two texts of a stream came ``seconds`` apart."""
        self._of("inter_token_seconds", release=release or UNKNOWN).observe(seconds)

    def count(self, name: CounterName, number: int = 1, release: str | None = None) -> None:
        """Sampled requests to ``release`` were stored or were not, or a request is sent to another server."""
        self._of(name, release=release).inc(number)

    def rejected(self, code: int) -> None:
        """Count a request that is no valid one. It belongs to no release."""
        self._of("rejected", str(code), release=UNKNOWN).inc()

    def ended(self, exchange: Exchange) -> None:
        """Count a request that ended."""
        self._open.pop(id(exchange), None)
        self.release = exchange.release or self.release
        release = exchange.release or exchange.asked or self.release
        of_release = partial(self._of, release=release)
        self.count_release(release)
        self._count(_Ended(release, outcome_of(exchange), exchange.seconds, exchange.first))
        answer = exchange.answer
        finish = "error" if exchange.error else answer.finish or "none"
        finish = finish if finish in _FINISHES else "other"
        of_release("requests", str(exchange.status), finish).inc()
        for direction, tokens in (("in", answer.input_tokens), ("out", answer.written_tokens)):
            if tokens:
                of_release("tokens", direction).inc(tokens)
        if answer.thought_tokens:
            of_release("thought_tokens").inc(answer.thought_tokens)
        if exchange.error is None and answer.choices:
            text = answer.text
            of_release("answer_characters").observe(len(text))
            # CounterName by 0 too: a share needs a counter that is there.
            of_release("refusals").inc(signals.is_refusal(text))
            of_release("repetitive").inc(signals.is_repetitive(text))
            of_release("known_labels").inc(text.strip() in self._settings.labels)
        if self._telemetry is not None:
            self._telemetry.ended(exchange)
