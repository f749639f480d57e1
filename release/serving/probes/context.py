"""The context of a check: the server, how requests are sent, and what is expected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import TimeoutError as PoolTimeoutError
from multiprocessing.pool import ThreadPool
from typing import Protocol, TypeVar

from pydantic import JsonValue

from checks.config.release_params import Serve
from checks.formats.serving import CheckName, Load, Probe, ProbeReport, ServingCheck, Throughput
from checks.formats.thinking import Thinking
from checks.kinds.scorer import Scorer
from checks.process.text import escape
from checks.records.rows import Message, Prediction, Row
from release import runtimes
from release.runtimes import Runtime
from release.runtimes.settings import Identity
from release.serving import dialects
from release.serving.beside import BesideServer
from release.serving.client import Client, NoAnswer
from release.serving.dialects import Answer, Speech, Streamed
from release.serving.probes import agreement
from release.serving.progress import Progress
from release.serving.server import Server
from release.serving.suite_questions import Served

Item = TypeVar("Item")
Result = TypeVar("Result")


class Chat(Protocol):
    """A probe, or another question."""

    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def tools(self) -> Sequence[dict[str, JsonValue]]: ...


_LONGEST = 1000  # characters of a reason
_TICK = 1.0  # seconds between two looks at the clock while answers are awaited


@dataclass
class ProbeContext:
    """One server and its expectations. ``offline``: the merged model's predictions of ``rows``, in their order.

    ``model``: the model's name in requests; ``limit``: most new tokens of an answer to a row; ``suites``: what is asked
    beside the rows. ``gpus``: those that serve, as ``checks.machine.meters`` takes them; None: it is not known which
    machine serves. ``sampled``: whether ``offline`` was sampled; a server is asked greedily. ``thinking``: how the
    model thinks, so only answers are scored. ``json_schema``: what the answers to rows were made to fit, offline.
    ``sustained``: whether to measure the throughput for ``LONG_ENOUGH`` even without energy counters. ``beside``: the
    other adapters that the server has; None: it was started without.

    The latency check sets ``load``, ``throughput`` and ``streamed`` (streamed answers by probe id); the parity check
    sets ``unended`` (answers without an end, by probe id); the score check sets ``served`` (the answers to all rows).
    """

    client: Client
    server: Server
    runtime: Runtime
    model: str
    serve: Serve
    probes: ProbeReport
    rows: Sequence[Row]
    offline: Sequence[Prediction]
    scorer: Scorer
    limit: int
    suites: Sequence[Served] = ()
    gpus: tuple[str, ...] | None = None
    sustained: bool = False
    beside: BesideServer | None = None
    sampled: bool = False
    thinking: Thinking | None = None
    json_schema: str | None = None
    load: tuple[Load, ...] = ()
    throughput: Throughput | None = None
    streamed: dict[str, str] = field(default_factory=dict)
    unended: dict[str, str] = field(default_factory=dict)
    served: Sequence[str] = ()

    @property
    def long_probes(self) -> tuple[Probe, ...]:
        """Probes for answers that no token may end, if this server supports that."""
        return tuple(
            probe.without_end()
            for probe in self.probes.probes
            if probe.unended and self.speech.unending
        )

    @property
    def identity(self) -> Identity | None:
        """Return where the server names its model; None: it does not."""
        return runtimes.fill(self.runtime, self.serve, self.server.model).identity

    @property
    def speech(self) -> Speech:
        """Return what the runtime's dialect adds."""
        return dialects.SPEECHES[self.runtime.dialect]

    @cached_property
    def silent(self) -> frozenset[int]:
        """Ids of tokens without text."""
        return agreement.silent(self.probes)

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The server's answers to the probes, requested one at a time. Raises NoAnswer."""
        return answered(together(1, self.probes.probes, self.probe, "probes", "prompt"))

    def probe(self, probe: Probe) -> Answer:
        """The server's answer to one probe. Raises NoAnswer."""
        return self.chat(probe, self.probes.max_new_tokens)

    def long(self, probe: Probe) -> Answer:
        """The server's answer to one of ``long_probes``. Raises NoAnswer."""
        return self.chat(probe, len(probe.tokens), self.probes.ends)

    def chat(
        self,
        asked: Chat,
        limit: int,
        ends: Sequence[int] = (),
        schema: Mapping[str, JsonValue] | None = None,
    ) -> Answer:
        """One complete answer. Raises NoAnswer."""
        return dialects.chat(
            self.client, self.speech, self.model, asked.messages, limit, ends, asked.tools,
            self.serve.reasoning, schema,
        )  # fmt: skip

    def tidy(self, text: str) -> str:
        """Return an answer without the parts that no comparison counts."""
        return agreement.tidy(text, self.serve.reasoning)

    def unlike(self, probe: Probe, text: str, *known: str) -> str | None:
        """Return what is wrong with a streamed text, or None: it must be among ``known`` or the offline answer."""
        if self.tidy(text) in map(self.tidy, known):
            return None
        return agreement.by_text(
            probe, text, self.serve.verify, self.silent, self.serve.reasoning
        ).complaint

    def stream(
        self, probe: Probe, limit: int | None = None, ends: Sequence[int] = (),
        spoke: Callable[[], object] = lambda: None,
    ) -> Streamed:  # fmt: skip
        """One streamed answer, as long as a probe's unless ``limit`` is given. Raises NoAnswer."""
        limit = limit or self.probes.max_new_tokens
        return dialects.stream(
            self.client, self.model, probe.messages, limit, spoke,
            self.speech.for_text(probe.tools, self.serve.reasoning) | self.speech.without(ends, limit),
            self.serve.reasoning,
        )  # fmt: skip


def together(
    concurrency: int,
    items: Sequence[Item],
    ask: Callable[[Item], Result],
    label: str,
    unit: str = "request",
) -> list[Result | NoAnswer]:
    """Call ``ask`` for every item, ``concurrency`` at a time; results in the order of the items.

    Raises NoAnswer if the server is lost. Any exception, an interrupt too, is raised at once without waiting for
    requests in flight. Their threads are daemons, and end when the server is stopped or with this process.
    """

    def answer(place: int) -> tuple[int, Result | NoAnswer]:
        try:
            return place, ask(items[place])
        except NoAnswer as reason:
            if reason.lost:
                raise
            return place, reason

    results: dict[int, Result | NoAnswer] = {}
    pool = ThreadPool(max(1, min(concurrency, len(items))))
    try:
        answers = pool.imap_unordered(answer, range(len(items)))
        with Progress(label, len(items), unit) as bar:
            while len(results) < len(items):
                try:
                    place, result = answers.next(timeout=_TICK)
                except PoolTimeoutError:
                    bar.tick()
                    continue
                results[place] = result
                bar.update()
    finally:
        pool.terminate()
    return [results[place] for place in range(len(items))]


def answered(results: Sequence[Result | NoAnswer]) -> tuple[Result, ...]:
    """The results if none is a NoAnswer. Raises the first NoAnswer."""
    if reasons := [result for result in results if isinstance(result, NoAnswer)]:
        raise reasons[0]
    return tuple(result for result in results if not isinstance(result, NoAnswer))


def passed(
    name: CheckName, reason: str, value: float | None = None, bound: float | None = None
) -> ServingCheck:
    """A check that passed."""
    return ServingCheck(name=name, status="pass", reason=_plain(reason), value=value, bound=bound)


def failed(
    name: CheckName, reason: str, value: float | None = None, bound: float | None = None
) -> ServingCheck:
    """A check that failed."""
    return ServingCheck(name=name, status="fail", reason=_plain(reason), value=value, bound=bound)


def unavailable(name: CheckName, reason: str) -> ServingCheck:
    """A check that this server, or this way to run it, does not support."""
    return ServingCheck(name=name, status="unavailable", reason=reason)


def some(complaints: Sequence[str]) -> str:
    """The first complaint, and how many more there are."""
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{complaints[0]}{more}"


def _plain(reason: str) -> str:
    """A reason, which may quote a server or its log, on one printable line of limited length."""
    return escape(reason[:_LONGEST]) + ("…" if len(reason) > _LONGEST else "")
