"""Sends requests to two gateways at a stated rate, as a load balancer would, until it is told to stop."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from checks.formats.captures import ID_HEADER
from checks.records.rows import Message
from release.serving import dialects
from release.serving.client import Client, NoAnswer


class Request(NamedTuple):
    """``candidate``: whether the candidate gets it. ``labelled``: whether its label will be known."""

    id: str
    messages: tuple[Message, ...]
    reference: str
    candidate: bool
    labelled: bool


class Answered(NamedTuple):
    """A request that ended ``at`` seconds of ``time.monotonic``. ``answer``: None: there was none."""

    request: Request
    answer: str | None
    sent: float
    at: float


class Side(NamedTuple):
    """Where a release is asked: the address, and what requests call the model."""

    url: str
    model: str


class Replay:
    """Sends ``requests`` in their order, ``rate`` a second or as fast as they are answered, each once.

    ``at_once``: the most requests in flight. Without this limit, a slow server would time out, and its model would seem
    worse. The replay stops at the end of the block, and abandons the requests in flight.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        production: Side,
        candidate: Side,
        limit: int,
        rate: float,
        at_once: int,
    ) -> None:
        self._requests = requests
        self._sides = (production, candidate)
        self._limit = limit
        self._rate = rate
        self._lock = threading.Lock()
        self._stop, self._done = threading.Event(), threading.Event()
        self._next = 0
        self._began = 0.0
        self._answered: list[Answered] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(at_once)]

    def __enter__(self) -> "Replay":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until every request was answered; return whether all were."""
        return self._done.wait(seconds)

    @property
    def answered(self) -> list[Answered]:
        """Return what has ended by now."""
        with self._lock:
            return list(self._answered)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number = self._next
                self._next += 1
            if number >= len(self._requests):
                return
            due = self._began + number / self._rate
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            reply = self._ask(self._requests[number])
            with self._lock:
                self._answered.append(reply)
                if len(self._answered) == len(self._requests):
                    self._done.set()

    def _ask(self, request: Request) -> Answered:
        side, sent = self._sides[request.candidate], time.monotonic()
        with closing(Client(side.url, headers={ID_HEADER: request.id})) as client:
            try:
                speech = dialects.SPEECHES["openai"]
                answer = dialects.chat(
                    client, speech, side.model, request.messages, self._limit
                ).text
            except NoAnswer:
                answer = None
        return Answered(request, answer, sent, time.monotonic())
