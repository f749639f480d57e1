"""Asks a running server, wherever it runs, and holds it to the release that it must be."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from checks.formats.captures import ID_HEADER, RELEASE_HEADER, SHADOW_ID, release_of
from checks.process.errors import ServingRefused
from checks.records.rows import Message
from release.serving import dialects, remote_server
from release.serving.client import Client, NoAnswer

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
            remote_server.attach(url, "").url, direct=False, headers={ID_HEADER: SHADOW_ID}
        )
        self._release, self._role = release, role
        self._model = ""

    def identify(self) -> None:
        """Ask what it serves. Raises ServingRefused if it does not answer, does not say, or is another release."""
        try:
            reply = self._client.get(_MODELS).good()
            listed = reply.json()
            first = listed["data"][0] if isinstance(listed, dict) and listed.get("data") else {}
            self._model = str(first.get("id", ""))
            release = (
                reply.headers.get(RELEASE_HEADER)
                or release_of(first.get("root"))
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
