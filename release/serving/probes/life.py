"""start, egress, read-only, drain: how a server starts, how it is isolated, and how it stops."""

import itertools
import threading
import time
from dataclasses import dataclass

from checks.formats.serving import CheckName, Probe, ServingCheck
from release.serving import dialects, logs
from release.serving.client import PASSING, Client, NoAnswer
from release.serving.probes.context import (
    ProbeContext,
    failed,
    passed,
    some,
    unavailable,
)
from release.serving.progress import Progress

IN_FLIGHT = 8  # streams that run while the server is told to end
ROUNDS = 20  # Rounds of streams, until one of them still runs when all have text.
_PAUSE = 0.5
_TICK = 1.0


def start(context: ProbeContext, began: float) -> ServingCheck:
    """The first answer comes within serve.verify.start_seconds of ``began`` (time.monotonic).

    It must be a generation, because some servers report themselves healthy before they can answer. A server that ends,
    or that refuses a correct request, fails at once.
    """
    limit = context.serve.verify.start_seconds
    reason = "no request was sent in time"
    probe = context.probes.probes[0]
    with Progress("start") as bar:
        while (left := began + limit - time.monotonic()) > 0:
            if gone := context.server.gone():
                return failed("start", f"ended before it answered: {gone}", None, limit)
            client = Client(
                context.server.url, min(left, context.client.deadline), context.client.direct
            )
            try:
                dialects.chat(
                    client, context.speech, context.model, probe.messages, 1, tools=probe.tools
                )
                seconds = round(time.monotonic() - began, 3)
                if gone := context.server.gone():
                    return failed(
                        "start",
                        f"another server answers at {context.server.url}, and it ended: {gone}",
                    )
                return passed("start", f"first answer after {seconds:.1f} s", seconds, limit)
            except NoAnswer as error:
                reason = str(error)
                if (
                    error.status is not None
                    and 400 <= error.status < 500
                    and error.status not in PASSING
                ):
                    return failed("start", f"refuses a correct request: {reason}", None, limit)
            finally:
                client.close()
            bar.tick()
            time.sleep(min(_PAUSE, max(0.0, began + limit - time.monotonic())))
    return failed(
        "start",
        f"no answer within {limit:g} s: {reason}{logs.why(log) if (log := context.server.log()) else ''}",
        None,
        limit,
    )


def egress(context: ProbeContext) -> ServingCheck:
    """The server answered on a network without a way out."""
    return _confined(
        context, "egress", context.server.isolated, "it was started with a way out",
        "it was started without a way out, and answered",
    )  # fmt: skip


def read_only(context: ProbeContext) -> ServingCheck:
    """The server answered on a read-only root file system."""
    if context.server.sealed is False and "read-only" in context.runtime.cannot:
        return unavailable("read-only", context.runtime.cannot["read-only"])
    return _confined(
        context, "read-only", context.server.sealed, "its root file system can be written",
        "its root file system cannot be written, and it answered",
    )  # fmt: skip


def _confined(
    context: ProbeContext, name: CheckName, confined: bool | None, wrong: str, right: str
) -> ServingCheck:
    if confined is None:
        return unavailable(name, f"not known of a server that runs as a {context.server.how}")
    return passed(name, right) if confined else failed(name, wrong)


def drain(context: ProbeContext) -> ServingCheck:
    """SIGTERM during streams: each that has produced text is completed, and the process ends in time.

    In a cluster a server gets no requests for ten seconds before SIGTERM (``preStop`` of the Deployment). So no stream
    is started here any more, and the signal is sent once each stream has produced text or ended. A request accepted
    milliseconds before is not tested: a correct vLLM drops it, because its engine has not seen it yet.
    """
    if context.server.how == "url":
        return unavailable("drain", "a server that was not started here cannot be ended from here")
    limit, codes = context.serve.verify.drain_seconds, context.runtime.drain.exit_codes
    for _ in range(ROUNDS):
        burst = _Burst(context)
        burst.wait_for_text()
        if burst.running or burst.wrong:
            break
    if wrong := burst.wrong:
        return failed(
            "drain",
            f"{len(wrong)} of {len(burst.streams)} streams failed before SIGTERM: {some(wrong)}",
        )
    began = time.monotonic()
    with Progress("drain"):
        ended = context.server.terminate(limit)
    signalled = max(began, time.monotonic() - ended.seconds) if ended else began
    unended = burst.running
    hung = burst.end()
    if ended is None:
        return failed(
            "drain",
            f"still ran {limit:g} s after SIGTERM, and {unended} of {len(burst.streams)} streams had not ended",
            None,
            limit,
        )
    seconds, wrong = round(ended.seconds, 3), burst.wrong
    for is_wrong, what, value in (
        (hung, f"{hung} streams never ended", None),
        (
            wrong,
            f"{len(wrong)} of {len(burst.streams)} streams were cut: {some(wrong or [''])}",
            None,
        ),
        (
            _answers(context),
            f"something still answers at {context.server.url} after it ended: another server",
            None,
        ),
        (
            ended.code not in codes,
            f"exit code {ended.code} where {' or '.join(map(str, codes))} is right",
            seconds,
        ),
        (seconds > limit, f"ended {seconds:.1f} s after SIGTERM, over {limit:g} s", seconds),
    ):
        if is_wrong:
            return failed("drain", what, value, limit)
    across = sum(stream.ended is not None and stream.ended > signalled for stream in burst.streams)
    end = f"ended after {seconds:.1f} s with exit code {ended.code}"
    if (
        not across
    ):  # Answers of a few tokens may end before the signal arrives, on a busy machine more often.
        return unavailable("drain", f"no answer lasted until SIGTERM, so none could be cut; {end}")
    return passed(
        "drain", f"{across} streams in flight at SIGTERM were completed; {end}", seconds, limit
    )


def _answers(context: ProbeContext) -> bool:
    try:
        context.client.get(context.runtime.health)
    except NoAnswer:
        return False
    return True


@dataclass
class _Stream:
    """One stream. ``spoke``: it has produced text. ``ended``: when (time.monotonic). ``wrong``: the fault, or None."""

    probe: Probe
    spoke: bool = False
    ended: float | None = None
    wrong: str | None = None


class _Burst:
    """Streams of the longest answers, all at once, each with a thread and connection of its own."""

    def __init__(self, context: ProbeContext) -> None:
        self.context = context
        number = min(IN_FLIGHT, context.serve.max_concurrent_requests)
        # Answers that nothing ends run longest; else the longest of the others.
        self._long = bool(context.long_probes)
        probes = (
            context.long_probes
            or sorted(context.probes.probes, key=lambda probe: -len(probe.tokens))[:number]
        )
        self.streams = [
            _Stream(probe) for probe in itertools.islice(itertools.cycle(probes), number)
        ]
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(stream,), daemon=True)
            for stream in self.streams
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """The number of streams that have produced text and have not ended."""
        return sum(stream.spoke and stream.ended is None for stream in self.streams)

    @property
    def wrong(self) -> list[str]:
        """Return what is wrong with each stream that ended incomplete."""
        return [stream.wrong for stream in self.streams if stream.wrong]

    def wait_for_text(self) -> None:
        """Wait until each stream has produced text or ended; all end by the client's deadline."""
        with Progress("streams") as bar, self._changed:
            while not all(stream.spoke or stream.ended is not None for stream in self.streams):
                self._changed.wait(_TICK)
                bar.tick()

    def end(self) -> int:
        """Wait for the streams in flight; return how many never ended."""
        until = time.monotonic() + self.context.client.deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _run(self, stream: _Stream) -> None:
        probe, context = stream.probe, self.context

        def spoke() -> None:
            with self._changed:
                stream.spoke = True
                self._changed.notify_all()

        wrong: str | None = "it was not asked"
        try:
            limit = len(probe.tokens) if self._long else context.probes.max_new_tokens
            ends = context.probes.ends if self._long else ()
            known = context.unended if self._long else context.streamed
            text = context.stream(probe, limit, ends, spoke).text
            answered_before = [known[probe.id]] if probe.id in known else []
            wrong = context.unlike(probe, text, *answered_before)
        except NoAnswer as error:
            wrong = f"probe {probe.id}: {error}"
        finally:
            with self._changed:
                stream.ended, stream.wrong = time.monotonic(), wrong
                self._changed.notify_all()
