"""Requests to a gateway before ``model_standin``, many at a time, and what each of them must get."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp

from tests.model_standin import ERROR, FAULTS, RELEASE, stream, whole

CHAT = "/v1/chat/completions"


def body(number: int, fault: str = "none", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number} {fault}"}], **more}


def mixed(number: int) -> list[tuple[int, str, bool]]:
    """Requests with every fault, half of them streams; those that wait for the deadline are few."""
    faults = [FAULTS[each % 11] if each % 11 < len(FAULTS) else "none" for each in range(number)]
    return [
        (each, "none" if fault == "stall" and each % 10 else fault, each % 2 == 0) for each, fault in enumerate(faults)
    ]


class Got(NamedTuple):
    """What a client got: ``whole`` is False where the answer broke off."""

    number: int
    fault: str
    streamed: bool
    status: int
    data: bytes
    whole: bool
    headers: dict[str, str]


async def ask(client: aiohttp.ClientSession, url: str, number: int, fault: str, streamed: bool) -> Got:
    data, status, ended, headers = b"", 0, False, {}
    sent = body(number, fault, stream=True) if streamed else body(number, fault)
    with contextlib.suppress(aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        async with client.post(url + CHAT, json=sent, headers={"X-Request-Id": f"r{number}"}) as reply:
            status, headers = reply.status, {name.lower(): value for name, value in reply.headers.items()}
            async for piece in reply.content.iter_any():
                data += piece
            ended = True
    return Got(number, fault, streamed, status, data, ended, headers)


def ask_all(url: str, asked: Sequence[tuple[int, str, bool]], at_once: int = 24) -> list[Got]:
    async def go() -> list[Got]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as client:
            return await asyncio.gather(*(ask(client, url, *each) for each in asked))

    return asyncio.run(go())


def wrong(got: Got) -> str | None:
    """What is wrong with an answer; None if it is the one that its request must get."""
    expected = stream(got.number) if got.streamed else whole(got.number)
    if got.headers.get("x-request-id") != f"r{got.number}" or got.headers.get("lockstep-release") != RELEASE:
        return "headers"
    if got.fault in ("none", "slow", "close"):
        return None if (got.status, got.data, got.whole) == (200, expected, True) else "answer"
    if got.fault == "error":
        return None if (got.status, got.data, got.whole) == (500, ERROR, True) else "error"
    if got.streamed and got.fault != "reset":
        return None if got.status == 200 and not got.whole and expected.startswith(got.data) else "stream"
    code = json.loads(got.data)["error"]["code"]
    return (
        None if (got.status, code) == ((504, "timeout") if got.fault == "stall" else (502, "upstream_error")) else code
    )
