"""A stand-in of a model's server that answers by the number in a prompt, and breaks what the prompt tells it to break.

A prompt is "NUMBER FAULT"; the answer to a number is always the same bytes (``whole``, ``stream``).
"""

import contextlib
import json
import socket
import struct
import threading
from typing import Any, Literal, get_args

from tests.http_standin import Handler, StandIn

RELEASE = "0123456789ab"
Fault = Literal[
    "none",
    "error",  # 500
    "reset",  # before an answer
    "half",  # a reset in the middle of the answer
    "end",  # a clean end in the middle of the answer
    "slow",  # pauses
    "stall",  # no more comes: a stream stops in the middle
    "close",  # a whole answer, and then the connection is closed without a word
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
ERROR = b'{"error": {"message": "out of memory", "type": "server_error", "param": null, "code": null}}'


def whole(number: int) -> bytes:
    """The answer to a prompt as one."""
    message = {"role": "assistant", "content": text(number)}
    choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": "stop"}
    usage: dict[str, object] = {"prompt_tokens": number % 97 + 1, "completion_tokens": 3 + number % 5}
    return json.dumps(
        {"id": f"c{number}", "model": "standin", "choices": [choice], "usage": usage}, ensure_ascii=False
    ).encode()


def stream(number: int) -> bytes:
    """The answer to a prompt as a stream of events."""
    deltas: list[dict[str, str]] = [{"role": "assistant"}]
    deltas += [{"content": f"{word} "} for word in text(number).split()]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in deltas
    ]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    lines = [json.dumps({"id": f"c{number}", "model": "standin"} | chunk, ensure_ascii=False) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")).encode()


def text(number: int) -> str:
    return f"answer {number} é 世 {'x' * (number % 50)}".strip()


class ModelStandIn(StandIn):
    """``seen``: headers and paths of all requests."""

    def __init__(self, release: str = RELEASE) -> None:
        super().__init__(_Handler)
        self.release = release
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.waiting = 0
        self.beside_base = False  # it serves an adapter, and lists its base too
        self.adapters: dict[
            str, str
        ] = {}  # more of them, with their releases; then it refuses names that it does not have
        self.hangs = False  # it says what it serves, and generates nothing
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()

    def die(self) -> None:
        """End as a process does that is killed: its connections are closed too, as ``stop`` does not do."""
        self.stop()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(Handler):
    server: ModelStandIn
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self.server.seen.append(("GET", self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path == "/v1/models?stall":
            self.server.ending.wait(60)
        elif self.path == "/v1/models":
            root = f"/models/tiny-{self.server.release}"
            base = {"id": "standin-base", "root": "HuggingFace/base", "parent": None}  # vLLM lists it first
            adapter = {"id": "standin", "root": f"{root}/adapter", "parent": "standin-base"}
            more = [
                {"id": name, "root": f"/adapters/a/models/a-{release}/adapter", "parent": "standin-base"}
                for name, release in self.server.adapters.items()
            ]
            listed = [base, adapter, *more] if self.server.beside_base else [{"id": "standin", "root": root}]
            self.reply(200, {"data": listed})
        else:
            self.reply(200, "secret of the runtime")

    def do_POST(self) -> None:
        raw = self.body()
        if self.server.ending.is_set():  # a connection that outlives the server
            self._reset()
            return
        self.server.seen.append(("POST", self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.bodies.append(raw)
        while self.server.hangs and not self.server.ending.wait(0.05):
            pass
        if self.headers.get("Content-Type") != "application/json":  # as FastAPI
            self.reply(422, ERROR)
            return
        try:
            body = json.loads(raw)
            prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        except (ValueError, KeyError):
            self.reply(400, ERROR)
            return
        if self.server.adapters and body.get("model", "standin-base") not in (
            "standin",
            "standin-base",
            *self.server.adapters,
        ):
            self.reply(404, ERROR)
            return
        named = b'"model": %s' % json.dumps(body.get("model") if self.server.adapters else "standin").encode()
        number, _, fault = prompt.partition(" ")
        if not number.isdigit():
            number = "0"
        if fault == "error":
            self.reply(500, ERROR, {"Content-Type": "application/json"})
        elif fault == "reset":
            self._reset()
        elif body.get("stream"):
            self._stream(stream(int(number)).replace(b'"model": "standin"', named), fault)
        else:
            self._whole(whole(int(number)).replace(b'"model": "standin"', named), fault)

    def _whole(self, data: bytes, fault: str) -> None:
        if fault in ("slow", "stall"):
            with self.server.lock:
                self.server.waiting += 1
            self.server.ending.wait(0.2 if fault == "slow" else 60)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault in ("half", "end") else data)
        self._after(fault)

    def _stream(self, data: bytes, fault: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(data) // 2
        if fault == "mute":  # it begins a stream, and sends nothing
            self.wfile.write(b"8\r\n: ping\n\n\r\n")
            self.server.ending.wait(60)
        for start in range(0, len(data), 61):  # pieces that end anywhere, inside a letter too
            if start > half and fault in ("half", "end"):
                break
            if start > half and fault == "stall":
                self.server.ending.wait(60)
                break
            piece = data[start : start + 61]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if fault == "slow":
                self.server.ending.wait(0.02)
        else:
            self.wfile.write(b"0\r\n\r\n")
        self._after(fault)

    def _after(self, fault: str) -> None:
        if fault == "half":
            self._reset()
        elif fault in ("end", "close", "stall"):
            self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
