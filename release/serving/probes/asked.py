"""What every check is given: the server, how it is asked, and what is expected of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from tqdm import tqdm

from checks.params import Scorer, Serve
from checks.rows import Message, Prediction, Row
from checks.serving import CheckName, Load, Probe, ProbeReport, ServingCheck
from release.runtimes import Runtime
from release.serving import dialects
from release.serving.client import Client, NoAnswer
from release.serving.dialects import Answer, Speech, Streamed
from release.serving.probes import agreement
from release.serving.server import Server

Item = TypeVar("Item")
Result = TypeVar("Result")

_LONGEST = 1000  # characters of a reason


@dataclass
class Asked:
    """One server and its expectations. ``offline`` are the merged model's predictions of ``rows``, in their order.

    ``model`` is what a request calls the model; ``limit`` bounds the new tokens of an answer to a row. ``load`` and
    ``streamed`` (the streamed answer to each probe by its id) are filled in by the check of latency.
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
    load: tuple[Load, ...] = ()
    streamed: dict[str, str] = field(default_factory=dict)

    @property
    def speech(self) -> Speech:
        """What the runtime's dialect adds."""
        return dialects.SPEECHES[self.runtime.dialect]

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The server's answers to the probes, asked one after the other. Raises NoAnswer."""
        bar = tqdm(self.probes.probes, desc="probes", unit="prompt", disable=None)
        return tuple(self.chat(probe.messages, self.probes.max_new_tokens) for probe in bar)

    def chat(self, messages: Sequence[Message], limit: int) -> Answer:
        """One whole answer. Raises NoAnswer."""
        return dialects.chat(self.client, self.speech, self.model, messages, limit)

    def unlike(self, probe: Probe, text: str, *known: str) -> str | None:
        """What is wrong with a streamed text: it is none of ``known``, nor what the offline model would say."""
        if agreement.tidy(text) in map(agreement.tidy, known):
            return None
        return agreement.by_text(probe, text, self.serve.verify).complaint

    def stream(self, messages: Sequence[Message], accepted: Callable[[], object] = lambda: None) -> Streamed:
        """One streamed answer, as long as a probe's. Raises NoAnswer."""
        return dialects.stream(self.client, self.model, messages, self.probes.max_new_tokens, accepted)


def together(
    concurrency: int, items: Sequence[Item], ask: Callable[[Item], Result], label: str
) -> list[Result | NoAnswer]:
    """Ask about every item, ``concurrency`` at a time; results in order. Raises NoAnswer when the server is lost."""
    with (
        ThreadPoolExecutor(concurrency) as pool,
        tqdm(total=len(items), desc=label, unit="request", disable=None) as bar,
    ):
        futures = [pool.submit(ask, item) for item in items]
        results: list[Result | NoAnswer] = []
        try:
            for future in futures:
                try:
                    results.append(future.result())
                except NoAnswer as reason:
                    if reason.lost:
                        raise
                    results.append(reason)
                bar.update()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def passed(name: CheckName, reason: str, value: float | None = None, bound: float | None = None) -> ServingCheck:
    """The answer was right."""
    return ServingCheck(name=name, status="pass", reason=_plain(reason), value=value, bound=bound)


def failed(name: CheckName, reason: str, value: float | None = None, bound: float | None = None) -> ServingCheck:
    """The answer was wrong, or there was none."""
    return ServingCheck(name=name, status="fail", reason=_plain(reason), value=value, bound=bound)


def unavailable(name: CheckName, reason: str) -> ServingCheck:
    """This server, or this way to run it, cannot answer."""
    return ServingCheck(name=name, status="unavailable", reason=reason)


def some(complaints: Sequence[str]) -> str:
    """The first complaint, and how many more there are."""
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{complaints[0]}{more}"


def _plain(reason: str) -> str:
    """A reason may quote a server or its log: on one line, printable, and no longer than a person reads."""
    cut = reason[:_LONGEST]
    return "".join(c if c.isprintable() else "·" for c in cut) + ("…" if len(reason) > _LONGEST else "")
