"""Counts requests for Prometheus, by environment and release; requests that wait and servers by environment.

A counter that is first scraped with its first errors has no increase, so no rule would see them. Therefore every series
of a rule is exported as soon as its release is known, and stays 0 until it must have been scraped.
"""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

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
from release.monitoring.gateway.outcomes import OUTCOMES, Outcome, outcome_of
from release.monitoring.gateway.rows import Exchange
from release.monitoring.gateway.settings import Settings
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
_LABELS = ("environment", "release")
_SCRAPES = 1.25  # intervals within which a scrape is certain


class _Ended(NamedTuple):
    """The figures of an ended request that rules ask for."""

    release: str
    outcome: Outcome
    seconds: float
    first: float | None


class Metrics:
    """Counts requests. The library's own metrics may be used by several threads."""

    def __init__(self, settings: Settings) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._environment, self._known = settings.environment, settings.labels
        # The latest release: rows and requests that reach no server count under it.
        self.release = settings.release or UNKNOWN
        ProcessCollector(registry=self.registry)

        def make(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
            return kind(
                f"lockstep_gateway_{name}",
                text,
                (*labels, *_LABELS),
                registry=self.registry,
                **more,
            )

        seconds, token = settings.seconds, settings.token_seconds
        self._outcomes = make(Counter, "outcomes", "Requests by what became of them.", "outcome")
        self._requests = make(Counter, "requests", "Requests that ended.", "code", "finish_reason")
        self._seconds = make(
            Histogram, "request_seconds", "From arrival to the end.", buckets=seconds
        )
        self._first = make(
            Histogram,
            "time_to_first_token_seconds",
            "Of streams: to the first text.",
            buckets=seconds,
        )
        self._between = make(
            Histogram, "inter_token_seconds", "Of streams: between two texts.", buckets=token
        )
        self._tokens = make(
            Counter, "tokens", "Tokens of prompts (in) and answers (out).", "direction"
        )
        self._in_flight = make(Gauge, "in_flight", "Requests that a server is answering.")
        self._rejected = make(
            Counter, "rejected", "Invalid requests, of which no server heard.", "code"
        )
        self._retries = make(
            Counter, "retries", "Requests sent to another server: one took no connection."
        )
        self._dropped = make(Counter, "captures_dropped", "Sampled requests that were not stored.")
        self._stored = make(Counter, "captures", "Sampled requests that were stored.")
        self._large = make(
            Counter, "captures_too_large", "Sampled requests that are too large to be stored."
        )
        self._refusals = make(Counter, "refusals", "Answers that decline.")
        self._repetitive = make(Counter, "repetitive", "Answers that repeat themselves.")
        self._labelled = make(Counter, "known_labels", "Answers that are one of the known labels.")
        self._length = make(
            Histogram, "answer_characters", "Length of answers.", buckets=_CHARACTERS
        )
        self._silent = Gauge(
            "lockstep_gateway_silent_requests", "Requests at a server from which no text came for so many seconds.",
            ("after", "environment"), registry=self.registry,
        )  # fmt: skip
        self._last_text = Gauge(
            "lockstep_gateway_last_text_seconds", "Unix time at which a server last sent text.",
            ("environment",), registry=self.registry,
        )  # fmt: skip
        self._servers = Gauge(
            "lockstep_gateway_servers", "Servers that take requests (ready), and that do not (out).",
            ("state", "environment"), registry=self.registry,
        )  # fmt: skip
        self._telemetry = None
        if settings.otlp is not None:
            from release.monitoring.gateway.telemetry import Telemetry

            self._telemetry = Telemetry(settings.otlp, settings.environment)
        self._bounds = settings.seconds
        self._open: dict[int, Exchange] = {}
        self._zero_seconds = _SCRAPES * settings.scrape_interval
        self._counted: dict[
            str, float
        ] = {}  # releases, and since when on the clock of time.monotonic
        self._uncounted: list[_Ended] = []
        self.count_release(self.release)
        self.spoke(None)

    def text(self, servers: Iterable[Server] = ()) -> bytes:
        """Return the metrics in Prometheus' text format, with the state of ``servers`` and their releases."""
        states = {"ready": 0, "out": 0}
        for server in servers:
            states["ready" if server.ready else "out"] += 1
            if server.release is not None:
                self.count_release(server.release)
        for state, number in states.items():
            self._servers.labels(state, self._environment).set(number)
        uncounted, self._uncounted = self._uncounted, []
        for ended in uncounted:
            self._count(ended)
        now = time.monotonic()
        silences = [
            now - exchange.heard
            for exchange in self._open.values()
            if exchange.upstream is not None
        ]
        for bound in self._bounds:
            self._silent.labels(f"{bound:g}", self._environment).set(
                sum(silence > bound for silence in silences)
            )
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
        for name in OUTCOMES:
            self._outcomes.labels(name, self._environment, release)
        for metric in (self._seconds, self._first, self._dropped):
            metric.labels(self._environment, release)

    def _count(self, ended: _Ended) -> None:
        """Count what rules ask for: now, or once it was exported at 0 for long enough."""
        if time.monotonic() - self._counted[ended.release] < self._zero_seconds:
            self._uncounted.append(ended)
            return
        labels = (self._environment, ended.release)
        self._outcomes.labels(ended.outcome, *labels).inc()
        # A request that is refused at once says nothing about the server's speed.
        if ended.outcome != "client_error":
            self._seconds.labels(*labels).observe(ended.seconds)
        if ended.first is not None:
            self._first.labels(*labels).observe(ended.first)

    def spoke(self, exchange: Exchange | None) -> None:
        """Text came from a server, for a request."""
        self._last_text.labels(self._environment).set(time.time())
        if exchange is not None:
            exchange.heard = time.monotonic()

    def began(self, exchange: Exchange) -> None:
        """Watch a request until it ends."""
        self._open[id(exchange)] = exchange

    def entered(self, release: str | None, number: int) -> None:
        """``number``: 1 as a request is sent to a server, -1 as it ends."""
        self._in_flight.labels(self._environment, release or UNKNOWN).inc(number)

    def between(self, release: str | None, seconds: float) -> None:
        """Two texts of a stream came ``seconds`` apart."""
        self._between.labels(self._environment, release or UNKNOWN).observe(seconds)

    def dropped(self, number: int) -> None:
        """Rows were not stored."""
        self._dropped.labels(self._environment, self.release).inc(number)

    def stored(self, number: int) -> None:
        """Rows were stored."""
        self._stored.labels(self._environment, self.release).inc(number)

    def too_large(self, number: int) -> None:
        """Rows were not stored because the requests are too large."""
        self._large.labels(self._environment, self.release).inc(number)

    def rejected(self, code: int) -> None:
        """A request was no valid one. It belongs to no release."""
        self._rejected.labels(str(code), self._environment, UNKNOWN).inc()

    def retried(self) -> None:
        """A request is sent to another server."""
        self._retries.labels(self._environment, self.release).inc()

    def ended(self, exchange: Exchange) -> None:
        """Count a request that ended."""
        self._open.pop(id(exchange), None)
        self.release = exchange.release or self.release
        self.count_release(self.release)
        self._count(_Ended(self.release, outcome_of(exchange), exchange.seconds, exchange.first))
        labels = (self._environment, self.release)
        answer = exchange.answer
        finish = "error" if exchange.error else answer.finish or "none"
        self._requests.labels(
            str(exchange.status), finish if finish in _FINISHES else "other", *labels
        ).inc()
        out = answer.pieces if answer.output_tokens is None else answer.output_tokens
        for direction, tokens in (("in", answer.input_tokens), ("out", out)):
            if tokens:
                self._tokens.labels(direction, *labels).inc(tokens)
        if exchange.error is None and answer.choices:
            self._signals(answer.text, labels)
        if self._telemetry is not None:
            self._telemetry.ended(exchange)

    def _signals(self, text: str, where: tuple[str, str]) -> None:
        self._length.labels(*where).observe(len(text))
        for counter, is_so in (
            (self._refusals, signals.is_refusal(text)),
            (self._repetitive, signals.is_repetitive(text)),
            (self._labelled, text.strip() in self._known),
        ):
            counter.labels(*where).inc(is_so)  # by 0 too: a share needs a counter that is there
