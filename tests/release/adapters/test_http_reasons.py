"""Why a request failed, in words: of real connections that go wrong, and without the login in their address."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from release.adapters import http

TIMES = (0.3, 0.2)  # seconds
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


def _silent(connection: socket.socket) -> None:
    while connection.recv(1 << 16):  # until the client goes
        pass


def _closing(connection: socket.socket) -> None:
    connection.recv(1 << 16)


def _cut_short(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(HEAD + b"x")


def _stalling(connection: socket.socket) -> None:
    _cut_short(connection)
    _silent(connection)


def _plain(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(HEAD + b"123456789")


@pytest.fixture
def port(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one connection, which does what ``answer`` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def _said(url: str) -> str:
    with pytest.raises((requests.RequestException, ValueError)) as failed:
        requests.get(url, timeout=TIMES, proxies={"http": "", "https": ""})
    words = http.reason(failed.value, TIMES)
    assert "hunter2" not in words
    assert words.isprintable()
    return words


@pytest.mark.parametrize(
    ("answer", "scheme", "words"),
    [
        (_silent, "http", "does not answer within 0.2 s"),
        (_closing, "http", "the connection broke off (RemoteDisconnected)"),
        (_cut_short, "http", "the connection broke off (IncompleteRead)"),
        (_stalling, "http", "stops answering"),
        (_plain, "https", "no TLS connection: "),
    ],
)
def test_the_reason_is_the_kind_of_failure(port: int, scheme: str, words: str) -> None:
    assert _said(f"{scheme}://ada:hunter2@127.0.0.1:{port}/x?sig=hunter2").startswith(words)


@pytest.mark.parametrize(
    ("host", "words"), [("127.0.0.1:1", "Connection refused"), ("[::1", "cannot be asked: InvalidURL")]
)
def test_the_reason_of_an_address_where_nobody_answers(host: str, words: str) -> None:
    assert _said(f"http://ada:hunter2@{host}/x") == words
