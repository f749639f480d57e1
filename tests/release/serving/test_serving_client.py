"""The client of `lockstep verify` before servers that close connections, which they may."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from release.serving.client import Client, NoAnswer

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
BROKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"


class Server:
    """Each connection gets the next of ``scripts``: a reply to each request, and then it is closed without a word.

    Behind a reply that breaks off it is closed at once.
    """

    def __init__(self, *scripts: list[bytes]) -> None:
        self.scripts, self.asked = list(scripts), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for replies in self.scripts:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rb") as stream:
                for reply in [*replies, b""]:
                    if not _read(stream):
                        break
                    self.asked += 1
                    connection.sendall(reply)
                    if reply == BROKEN:
                        break
        self.listener.close()


def _read(stream: IO[bytes]) -> bool:
    """Read one request; False if the client closed the connection."""
    lines = list(iter(lambda: stream.readline().strip(), b""))
    for line in lines:
        if line.lower().startswith(b"content-length:"):
            stream.read(int(line.partition(b":")[2]))
    return bool(lines)


@contextmanager
def asked(*scripts: list[bytes]) -> Iterator[tuple[Client, Server]]:
    server = Server(*scripts)
    client = Client(server.url, 5)
    try:
        yield client, server
    finally:
        client.close()


@pytest.mark.parametrize("path", ["get", "post", "events"])
def test_a_kept_connection_that_the_server_closed_is_replaced_once(path: str) -> None:
    with asked([WHOLE], [WHOLE]) as (client, server):
        assert client.get("/").status == 200
        if path == "events":
            assert list(client.events("/", {})) == []
        else:
            assert (client.get("/") if path == "get" else client.post("/", {})).status == 200
        assert server.asked == 3


@pytest.mark.parametrize(
    ("scripts", "before", "sent"),
    [
        ([[]], 0, 1),  # a new connection: the server has closed it for a reason
        ([[WHOLE], []], 1, 3),  # so has it the second
        ([[WHOLE]], 1, 2),  # the second is refused
        ([[BROKEN]], 0, 1),  # an answer that broke off
        ([[WHOLE, BROKEN], [WHOLE]], 1, 2),  # on a kept connection, too
    ],
)
def test_a_server_that_is_gone_is_said_to_be_gone(scripts: list[list[bytes]], before: int, sent: int) -> None:
    with asked(*scripts) as (client, server):
        for _ in range(before):
            assert client.get("/").status == 200
        with pytest.raises(NoAnswer) as reason:
            client.post("/", {})
        assert reason.value.lost
        assert server.asked == sent


def test_after_closing_a_connection_is_new() -> None:
    with asked([WHOLE], [], [WHOLE]) as (client, server):
        assert client.get("/").status == 200
        client.close()
        with pytest.raises(NoAnswer):
            client.get("/")
        assert server.asked == 2
