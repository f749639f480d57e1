"""What Prometheus is told of the requests. All metrics have the labels environment and release."""

from typing import Any

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
from release.monitoring.gateway.rows import Exchange
from release.monitoring.gateway.settings import Settings

UNKNOWN = "unknown"  # release: no server answered, or it does not say what it serves
# Reasons by which OpenAI, vLLM, TGI and transformers end an answer; others would be labels without a bound.
_FINISHES = frozenset(
    {"stop", "length", "tool_calls", "function_call", "content_filter", "abort", "error", "repetition", "eos_token"}
)
_CHARACTERS = (10, 30, 100, 300, 1000, 3000, 10000, 30000)
_LABELS = ("environment", "release")


class Metrics:
    """Counts requests. The library's own metrics may be used by several threads."""

    def __init__(self, settings: Settings) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._environment, self._known = settings.environment, settings.labels
        self.release = settings.release or UNKNOWN  # the latest: of rows, and of requests that reach no server
        ProcessCollector(registry=self.registry)

        def make(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
            return kind(f"lockstep_gateway_{name}", text, (*labels, *_LABELS), registry=self.registry, **more)

        seconds, token = settings.seconds, settings.token_seconds
        self._requests = make(Counter, "requests", "Requests that ended.", "code", "finish_reason")
        self._seconds = make(Histogram, "request_seconds", "From arrival to the end.", buckets=seconds)
        self._first = make(Histogram, "time_to_first_token_seconds", "Of streams: to the first text.", buckets=seconds)
        self._between = make(Histogram, "inter_token_seconds", "Of streams: between two texts.", buckets=token)
        self._tokens = make(Counter, "tokens", "Tokens of prompts (in) and answers (out).", "direction")
        self._in_flight = make(Gauge, "in_flight", "Requests that a server is answering.")
        self._rejected = make(Counter, "rejected", "Invalid requests, of which no server heard.", "code")
        self._retries = make(Counter, "retries", "Requests sent to another server: one took no connection.")
        self._dropped = make(Counter, "captures_dropped", "Sampled requests that were not stored.")
        self._stored = make(Counter, "captures", "Sampled requests that were stored.")
        self._large = make(Counter, "captures_too_large", "Sampled requests that are too large to be stored.")
        self._refusals = make(Counter, "refusals", "Answers that decline.")
        self._repetitive = make(Counter, "repetitive", "Answers that repeat themselves.")
        self._labelled = make(Counter, "known_labels", "Answers that are one of the known labels.")
        self._length = make(Histogram, "answer_characters", "Length of answers.", buckets=_CHARACTERS)
        self._dropped.labels(self._environment, self.release)  # an alert on its increase needs a first value

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        found: bytes = generate_latest(self.registry)
        return found

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
        self.release = exchange.release or self.release
        where = (self._environment, self.release)
        answer = exchange.answer
        finish = "error" if exchange.error else answer.finish or "none"
        self._requests.labels(str(exchange.status), finish if finish in _FINISHES else "other", *where).inc()
        self._seconds.labels(*where).observe(exchange.seconds)
        if exchange.first is not None:
            self._first.labels(*where).observe(exchange.first)
        out = answer.pieces if answer.output_tokens is None else answer.output_tokens
        for direction, tokens in (("in", answer.input_tokens), ("out", out)):
            if tokens:
                self._tokens.labels(direction, *where).inc(tokens)
        if exchange.error is None and answer.choices:
            self._signals(answer.text, where)

    def _signals(self, text: str, where: tuple[str, str]) -> None:
        self._length.labels(*where).observe(len(text))
        for counter, is_so in (
            (self._refusals, signals.is_refusal(text)),
            (self._repetitive, signals.is_repetitive(text)),
            (self._labelled, text.strip() in self._known),
        ):
            counter.labels(*where).inc(is_so)  # by 0 too: a share needs a counter that is there
