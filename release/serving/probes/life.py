"""start, egress, read-only, drain: how a server begins, what is around it, and how it ends."""

import itertools
import threading
import time
from typing import NamedTuple

from tqdm import tqdm

from checks.serving import Probe, ServingCheck
from release.serving import dialects
from release.serving.client import Client, NoAnswer
from release.serving.probes.asked import Asked, failed, passed, some, unavailable

IN_FLIGHT = 8  # streams that are kept going while the server is told to end
LOG_LINES = 5
_PAUSE = 0.5
_PASSING = (408, 425, 429)  # refusals of now, not of the request


def start(asked: Asked, began: float) -> ServingCheck:
    """A first answer within serve.verify.start_seconds of ``began`` (time.monotonic); a dead server fails at once.

    A generation, since some servers call themselves healthy before they can answer.
    """
    limit = asked.serve.verify.start_seconds
    reason = "it was not asked in time"
    messages = asked.probes.probes[0].messages
    with tqdm(desc="start", bar_format="{desc} {elapsed}", disable=None) as bar:
        while (left := began + limit - time.monotonic()) > 0:
            if gone := asked.server.gone():
                return failed("start", f"ended before it answered: {gone}", None, limit)
            client = Client(asked.server.url, min(left, asked.client.deadline), asked.client.direct)
            try:
                dialects.chat(client, asked.speech, asked.model, messages, 1)
                seconds = round(time.monotonic() - began, 3)
                if gone := asked.server.gone():
                    return failed("start", f"another server answers at {asked.server.url}, and it ended: {gone}")
                return passed("start", f"first answer after {seconds:.1f} s", seconds, limit)
            except NoAnswer as error:
                reason = str(error)
                if error.status is not None and 400 <= error.status < 500 and error.status not in _PASSING:
                    return failed("start", f"refuses a right request: {reason}", None, limit)
            finally:
                client.close()
            bar.update()
            time.sleep(min(_PAUSE, max(0.0, began + limit - time.monotonic())))
    last = " / ".join(asked.server.log(LOG_LINES).splitlines())
    tail = f"; the log ends: {last}" if last else ""
    return failed("start", f"no answer within {limit:g} s: {reason}{tail}", None, limit)


def egress(asked: Asked) -> ServingCheck:
    """It answered without a way out."""
    if asked.server.isolated is None:
        return unavailable("egress", f"not known of a server that runs as a {asked.server.how}")
    if not asked.server.isolated:
        return failed("egress", "it was started with a way out")
    return passed("egress", "it was started without a way out, and answered")


def read_only(asked: Asked) -> ServingCheck:
    """It answered on a root file system that cannot be written."""
    if asked.server.sealed is None:
        return unavailable("read-only", f"not known of a server that runs as a {asked.server.how}")
    if not asked.server.sealed and "read-only" in asked.runtime.cannot:
        return unavailable("read-only", asked.runtime.cannot["read-only"])
    if not asked.server.sealed:
        return failed("read-only", "its root file system can be written")
    return passed("read-only", "its root file system cannot be written, and it answered")


class Flight(NamedTuple):
    """A stream that the server accepted. Times by time.monotonic; ``wrong``: None when its answer came whole."""

    accepted: float
    ended: float
    wrong: str | None


def drain(asked: Asked) -> ServingCheck:
    """SIGTERM while streams are in flight: whatever was accepted is answered whole, and the process ends in time.

    Streams are kept going up to the signal, so that there is always one in flight; what the server does not accept
    after it is not held against it. By then each has a connection: uvicorn, which most servers here are built on, takes
    one that is being made while it closes its door, and never answers nor ends until the client leaves.
    """
    if asked.server.how == "url":
        return unavailable("drain", "a server that was not started here cannot be ended from here")
    limit, codes = asked.serve.verify.drain_seconds, asked.runtime.drain.exit_codes
    burst = _Burst(asked)
    if not burst.all_accepted.wait(asked.client.deadline) and not burst.accepted:
        burst.over.set()
        return failed("drain", "no stream was accepted before SIGTERM", None, limit)
    burst.told.set()
    began = time.monotonic()
    ended = asked.server.terminate(limit)
    signalled = max(began, time.monotonic() - ended.seconds) if ended else began
    hung, flights = burst.end(), list(burst.flights)
    if ended is None:
        return failed("drain", f"still ran {limit:g} s after SIGTERM", None, limit)
    if hung:
        return failed("drain", f"{hung} streams never ended", None, limit)
    if wrong := [flight.wrong for flight in flights if flight.wrong]:
        return failed("drain", f"{len(wrong)} of {len(flights)} accepted streams were cut: {some(wrong)}", None, limit)
    across = sum(flight.accepted < signalled < flight.ended for flight in flights)
    if not across:
        return failed("drain", "no stream was in flight at SIGTERM: it cannot be told", None, limit)
    if _answers(asked):
        return failed(
            "drain", f"something still answers at {asked.server.url} after it ended: another server", None, limit
        )
    seconds = round(ended.seconds, 3)
    if ended.code not in codes:
        return failed("drain", f"exit code {ended.code} where {' or '.join(map(str, codes))} is right", seconds, limit)
    if seconds > limit:
        return failed("drain", f"ended {seconds:.1f} s after SIGTERM, over {limit:g} s", seconds, limit)
    said = f"{across} streams in flight at SIGTERM came whole; ended after {seconds:.1f} s with exit code {ended.code}"
    return passed("drain", said, seconds, limit)


def _answers(asked: Asked) -> bool:
    try:
        asked.client.get(asked.runtime.health)
    except NoAnswer:
        return False
    return True


class _Burst:
    """Streams that are kept going, by threads with a connection each. Set ``told`` before the signal, and ``over`` when
    no more may be asked. ``accepted``: the threads that have had a stream accepted.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.flights: list[Flight] = []
        self.accepted: set[int] = set()
        self.all_accepted, self.told, self.over = threading.Event(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_asking, args=(number,), daemon=True) for number in range(IN_FLIGHT)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """Ask no more, and wait for what is in flight; returns how many streams never ended."""
        self.over.set()
        until = time.monotonic() + self.asked.client.deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _keep_asking(self, number: int) -> None:
        probes = self.asked.probes.probes
        for turn in itertools.count(number, IN_FLIGHT):
            if self.over.is_set():
                return
            flight = self._fly(number, probes[turn % len(probes)])
            if flight:
                self.flights.append(flight)
            elif self.told.wait(_PAUSE / 10):
                return

    def _fly(self, number: int, probe: Probe) -> Flight | None:
        """One stream; None when the server did not accept it."""
        took: list[float] = []

        def take() -> None:
            took.append(time.monotonic())
            self.accepted.add(number)
            if len(self.accepted) == IN_FLIGHT:
                self.all_accepted.set()

        try:
            text = self.asked.stream(probe.messages, take).text
            wrong = self.asked.unlike(probe, text, *filter(None, [self.asked.streamed.get(probe.id)]))
        except NoAnswer as error:
            wrong = f"probe {probe.id}: {error}"
        return Flight(took[0], time.monotonic(), wrong) if took else None
