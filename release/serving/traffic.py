"""Sends requests to running servers: to two gateways, as a load balancer would, or to one that must be a release."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

from checks.formats.captures import ID_HEADER, RELEASE_HEADER, SHADOW_ID, release_of
from checks.process.errors import ServingRefused
from checks.records.rows import Message
from release.serving import dialects, server
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
        self._stop = threading.Event()
        self._answered: list[Answered] = []
        self._pool = ThreadPool(at_once)

    def __enter__(self) -> "Replay":
        self._began = time.monotonic()
        self._all = self._pool.map_async(self._ask, enumerate(self._requests), chunksize=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.terminate()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until every request was answered; return whether all were."""
        self._all.wait(seconds)
        return self._all.ready()

    @property
    def answered(self) -> list[Answered]:
        """Return what has ended by now."""
        return list(self._answered)

    def _ask(self, numbered: tuple[int, Request]) -> None:
        number, request = numbered
        due = self._began + number / self._rate
        if self._stop.wait(max(0.0, due - time.monotonic())):
            return
        side, sent = self._sides[request.candidate], time.monotonic()
        with closing(Client(side.url, headers={ID_HEADER: request.id})) as client:
            try:
                speech = dialects.SPEECHES["openai"]
                reply = dialects.chat(client, speech, side.model, request.messages, self._limit)
                answer: str | None = reply.text
            except NoAnswer:
                answer = None
        self._answered.append(Answered(request, answer, sent, time.monotonic()))


_MODELS = "/v1/models"


class Said(NamedTuple):
    """The answer of a server; or None, and why not. ``lost``: the connection was, or no answer came in time."""

    answer: str | None
    error: str | None
    seconds: float
    lost: bool


class Endpoint:
    """A server at ``url`` that must be ``release`` (12 hex digits). ``role``: what it is called in a refusal."""

    def __init__(self, url: str, release: str, role: str) -> None:
        self._client = Client(
            server.attach(url, "").url, direct=False, headers={ID_HEADER: SHADOW_ID}
        )
        self._release, self._role = release, role
        self._model = ""

    def identify(self) -> None:
        """Ask what it serves. Raises ServingRefused if it does not answer, does not say, or is another release."""
        try:
            reply = self._client.get(_MODELS).good()
            listed = reply.json().get("data") or [{}]
            # vLLM lists its base first. The longest name of an adapter has a digest: no gateway draws another for it.
            adapters = [entry for entry in listed if entry.get("parent")]
            own = [entry for entry in adapters if release_of(entry.get("root")) == self._release]
            served = max(own, key=lambda entry: len(entry["id"]), default=(adapters or listed)[0])
            self._model = str(served.get("id", ""))
            release = (
                (self._release if own else reply.headers.get(RELEASE_HEADER))
                or release_of(served.get("root"))
                or release_of(self._model)
            )
            release = release or release_of(self._info().get("model_id"))
        except (NoAnswer, AttributeError, KeyError, TypeError) as error:
            answer = (
                str(error) if isinstance(error, NoAnswer) else f"{_MODELS} has no list of models"
            )
            raise ServingRefused(
                f"{self._shown}: {answer}", "start it, or give its address"
            ) from error
        if release is None:
            raise ServingRefused(
                f"{self._shown}: does not say which release it serves",
                "run `lockstep gateway --release` before it",
            )
        self._hold(release)

    def ask(self, messages: Sequence[Message], limit: int) -> Said:
        """Its greedy answer of at most ``limit`` tokens. Raises ServingRefused if another release answered."""
        began = time.monotonic()
        try:
            answer = dialects.chat(
                self._client, dialects.SPEECHES["openai"], self._model, messages, limit
            )
        except NoAnswer as error:
            return Said(None, str(error), time.monotonic() - began, error.lost)
        if answer.release is not None:
            self._hold(answer.release)
        return Said(answer.text, None, time.monotonic() - began, False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @property
    def _shown(self) -> str:
        return f"{self._role} at {self._client.url}"

    def _hold(self, found: str) -> None:
        if found != self._release:
            raise ServingRefused(
                f"{self._shown}: is release {found[:80]!r}, and not {self._release}",
                f"give the address of a server that runs {self._release}",
            )

    def _info(self) -> dict[str, Any]:
        """TGI says at /info what it serves; the others have no such path."""
        reply = self._client.get("/info")
        value = reply.json() if reply.status == 200 else None
        return value if isinstance(value, dict) else {}
