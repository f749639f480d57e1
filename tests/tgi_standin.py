"""A STAND-IN for Text Generation Inference, whose image cannot be run here: it answers by TGI's OpenAPI document.

It knows the answers to some prompts by heart and tells them token by token as TGI 3.3 does; it holds each request to
the parts of the document that Lockstep uses, and its faults are those that `lockstep verify` must find. It shows that
the client speaks TGI's language, not that TGI behaves.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from checks.formats.serving import Probe
from release.serving.server import Ended, Server
from tests import http_standin

# What TGI's document says of a chat request, as far as it is used. Its server ignores keys that it does not know, so
# the stand-in is stricter: a key that is not here is an error of the client.
CHAT_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string"},
        "messages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            },
        },
        "max_tokens": {"type": "integer", "minimum": 0},
        "temperature": {"type": "number"},
        "logprobs": {"type": "boolean"},
        "top_logprobs": {"type": "integer", "minimum": 0},
        "stream": {"type": "boolean"},
        "stream_options": {
            "type": "object",
            "required": ["include_usage"],
            "properties": {"include_usage": {"type": "boolean"}},
        },
    },
}


class Told(NamedTuple):
    """One token that the stand-in answers with."""

    id: int
    text: str  # special tokens have a text too, which is not in the answer
    logprob: float
    special: bool = False


@dataclass
class Faults:
    """What is wrong with it; as made, nothing."""

    base: bool = False  # the adapter is left out
    tokens: dict[tuple[str, int], Told] = field(default_factory=dict)  # probe id and place: from there, this one
    extra_prompt_token: bool = False
    cut_text: bool = False
    cut_tokens: bool = False
    stream_otherwise: bool = False
    end_stream_early: bool = False
    no_logprobs: bool = False
    seconds: float = 0.0  # before each answer
    most_at_once: int = 1000  # 500 beyond
    refused: str | None = None  # 429 for the prompt that holds this
    frozen: bool = False  # metrics
    cache: str | None = "auto"  # the type of keys and values, as vLLM's metrics have it; None: they do not have it
    without_metrics: bool = False
    renamed: str | None = None  # a metric that has another name
    model: str | None = None  # what /info says
    takes_anything: bool = False  # and answers wrong requests
    traceback: bool = False  # in the body of an error
    html: bool = False
    dies_after: int | None = None  # requests
    hangs_after: int | None = None
    garbage_after: int | None = None
    cuts_on_term: bool = False
    penalty: bool = False  # on repetition: an answer that nothing ends changes where it would repeat itself
    cached_otherwise: str | None = None  # the prompt that gets another answer when it is asked again
    idle: bool = False  # its cache and its guesses are never used
    lingers: bool = False  # never ends after SIGTERM
    exit_code: int = 0
    ignores_schema: bool = False
    arguments: str | None = None  # of every call that a parser reads
    never_starts: bool = False  # 503 for ever


class StandIn(http_standin.StandIn, Server):
    """A server in threads of this process."""

    how: Literal["container", "process", "url"] = "container"
    isolated: bool | None = True
    sealed: bool | None = True

    def __init__(self, probes: tuple[Probe, ...], rows: dict[str, str], model: str, longest: int) -> None:
        import jsonschema  # type: ignore[import-untyped] # takes two seconds

        super().__init__(_Handler)
        self.validator = jsonschema.Draft202012Validator  # `jsonschema.validate` holds the schema to its own, too: 6 ms
        self.model, self.longest, self.faults = model, longest, Faults()
        self.probes = {probe.messages[-1].content: probe for probe in probes}
        self.rows = rows  # last message to answer
        self.counted, self.asked, self.flying, self.most_flying = 0, 0, 0, 0
        self.seen: set[str] = set()  # prompts
        self.hits, self.skipped = 0, 0  # prompts that were seen before; guessed tokens that were kept
        self.bodies: list[dict[str, Any]] = []
        self.streaming: set[Any] = set()  # the connections that a stream was sent on
        self.streaming_at_end = 0
        self.dead, self.draining, self.cutting = False, False, False
        self.lock = threading.Lock()
        self.start()

    def gone(self) -> str | None:
        return "exit code 137: Killed \x1b[31mfor memory\x1b[0m" if self.dead else None

    def log(self) -> bytes:
        return b"loading weights\nlistening\n"

    def terminate(self, deadline: float) -> Ended | None:
        began = time.monotonic()
        self.streaming_at_end = len(self.streaming)
        self.draining, self.cutting = True, self.faults.cuts_on_term
        while self.flying or self.faults.lingers:
            if time.monotonic() > began + deadline:
                return None
            time.sleep(0.005)
        self.close()
        return Ended(self.faults.exit_code, time.monotonic() - began)

    def close(self) -> None:
        self.dead = True
        if not self.ending.is_set():
            self.stop()

    prefill = 0.0  # seconds between the headers of a stream and its first token

    # What TGI says.

    schema = CHAT_REQUEST
    unending = "logit_bias"  # the field of a request that keeps an answer from ending

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/info":
            return 200, {"model_id": self.faults.model or self.model, "max_total_tokens": self.longest}
        if path == "/metrics" and not self.faults.without_metrics:
            count = 1 if self.faults.frozen else self.counted
            metrics = (
                "# TYPE tgi_request_count counter\n"
                f'tgi_request_count{{le="a}} 9"}} {count}\n'
                f"tgi_request_success {count}\ntgi_queue_size NaN\nnonsense\ntgi_batch_current_size 0\n"
                f"tgi_request_skipped_tokens_sum {self.skipped}\ntgi_request_skipped_tokens_count {count}\n"
            )
            return 200, self.renamed(metrics)
        return 404, ""

    def renamed(self, metrics: str) -> str:
        """The metrics, one of them under another name."""
        return metrics.replace(f"{self.faults.renamed}", "another_name")

    def tokenized(self, probe: Probe) -> Any:
        ids = [*([1] if self.faults.extra_prompt_token else []), *probe.prompt_tokens]
        tokens = [{"id": number, "text": "x", "start": n, "stop": n + 1} for n, number in enumerate(ids)]
        return {"tokenize_response": tokens, "templated_text": "x" * len(ids)}

    tokenize_path = "/chat_tokenize"

    def unknown(self, body: dict[str, Any]) -> bool:
        """TGI does not look at the model's name."""
        return False

    def refuses(self, body: dict[str, Any]) -> str | None:
        """Why a request is refused for how the server was started."""
        return None

    def too_long(self) -> tuple[int, Any]:
        return 422, {"error": f"`inputs` must have less than {self.longest} tokens", "error_type": "validation"}

    def malformed(self) -> tuple[int, Any]:
        return 400, "Failed to parse the request body as JSON: EOF while parsing a list"

    def logprob(self, told: Told, body: dict[str, Any]) -> dict[str, Any]:
        return {"token": told.text, "logprob": told.logprob, "top_logprobs": []}

    def error(self, message: str) -> Any:
        return {"error": message, "error_type": "generation"}

    # What it answers.

    def told(self, messages: list[dict[str, str]], limit: int, unended: bool = False) -> list[Told]:
        last = messages[-1]["content"]
        again = last in self.seen
        if not self.faults.idle:
            self.hits, self.skipped = self.hits + again, self.skipped + 1
        self.seen.add(last)
        if again and last == self.faults.cached_otherwise:
            return [Told(903, "stale", -0.1), Told(2, "<|im_end|>", -0.1, special=True)]
        probe = self.probes.get(last)
        if probe is None:
            return [Told(900, self.rows.get(last, "?"), -0.1), Told(2, "<|im_end|>", -0.1, special=True)]
        if self.faults.base:
            return [Told(901, probe.base_text, -0.1), Told(2, "<|im_end|>", -0.1, special=True)]
        if unended:
            tokens = [Told(token.id, token.text, token.logprob) for token in probe.unended][:limit]
            return [*tokens[:3], Told(99, "otherwise", -0.1)] if self.faults.penalty else tokens
        found = []
        for place, token in enumerate(probe.tokens):
            if changed := self.faults.tokens.get((probe.id, place)):
                found.append(changed)
                if changed.id != token.id:
                    break
                continue
            special = not token.text and probe.ended and place + 1 == len(probe.tokens)
            found.append(Told(token.id, "<|im_end|>" if special else token.text, token.logprob, special))
        if self.faults.cut_tokens:
            found = found[:1]
        return found[:limit]

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        told = self.told(body["messages"], body.get("max_tokens", 1024), self.unending in body)
        text = "".join(token.text for token in told if not token.special)
        logprobs = None
        if body.get("logprobs") and not self.faults.no_logprobs:
            logprobs = {"content": [self.logprob(token, body) for token in told]}
        return {
            "id": "",
            "created": 1,
            "model": self.model,
            "system_fingerprint": "3.3.7-native",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text[:-1] if self.faults.cut_text else text},
                    "logprobs": logprobs,
                    "finish_reason": "stop" if told[-1].special else "length",
                }
            ],
            "usage": self._usage(body, told),
        }

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        told = self.told(body["messages"], body.get("max_tokens", 1024), self.unending in body)
        known = {"id": "", "created": 1, "model": self.model, "system_fingerprint": "3.3.7-native"}
        for place, token in enumerate(told):
            last = place + 1 == len(told)
            if last and self.faults.end_stream_early:
                return
            text = "" if token.special else token.text
            if place == 0 and self.faults.stream_otherwise:
                text = "otherwise"
            finish = ("stop" if token.special else "length") if last else None
            delta = {"role": "assistant", "content": text}
            yield known | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}
        yield known | {"choices": [], "usage": self._usage(body, told)}

    def role(self) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"id": "", "created": 1, "model": self.model, "choices": [{"index": 0, "delta": delta}]}

    def _usage(self, body: dict[str, Any], told: list[Told]) -> dict[str, int]:
        probe = self.probes.get(body["messages"][-1]["content"])
        prompt = len(probe.prompt_tokens) + self.faults.extra_prompt_token if probe else 5
        return {"prompt_tokens": prompt, "completion_tokens": len(told), "total_tokens": prompt + len(told)}


class _Handler(http_standin.Handler):
    server: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.server.dead:
            self.close_connection = True
        else:
            self.reply(*self.server.get(self.path))

    def do_POST(self) -> None:
        raw = self.body()
        server, faults = self.server, self.server.faults
        if server.draining or server.dead:
            self.close_connection = True
            return
        with server.lock:
            server.asked += 1
            server.flying += 1
            number, flying = server.asked, server.flying
            server.most_flying = max(server.most_flying, flying)
        try:
            if faults.dies_after is not None and number > faults.dies_after:
                server.dead = True
                self.close_connection = True
            elif faults.hangs_after is not None and number > faults.hangs_after:
                while not server.dead:
                    time.sleep(0.05)
            elif faults.garbage_after is not None and number > faults.garbage_after:
                self.reply(200, "\x00\x1b[2J{]" * 100)
            elif flying > faults.most_at_once:
                self.reply(500, server.error("CUDA out of memory"))
            else:
                self._answer(raw)
        finally:
            with server.lock:
                server.flying -= 1

    def _answer(self, raw: bytes) -> None:
        server, faults = self.server, self.server.faults
        try:
            body = json.loads(raw)
        except ValueError:
            if faults.takes_anything:
                body = {"messages": [{"role": "user", "content": "?"}]}
            else:
                self.reply(*server.malformed())
                return
        schema = server.schema if self.path != server.tokenize_path else {"type": "object"}
        server.validator(schema).validate(body)
        server.bodies.append(body)
        last = body["messages"][-1]["content"]
        if faults.never_starts:
            self.reply(503, server.error("loading"))
        elif faults.refused is not None and faults.refused in last:
            self.reply(429, server.error("Model is overloaded"))
        elif self.path == server.tokenize_path:
            self.reply(200, server.tokenized(server.probes[last]))
        elif server.unknown(body) and not faults.takes_anything:
            self.reply(404, server.error("no such model"))
        elif refusal := server.refuses(body):
            self.reply(400, server.error(refusal))
        elif len(last.split()) >= server.longest and not faults.takes_anything:
            status, error = server.too_long()
            if faults.traceback:
                error = {"error": "Traceback (most recent call last): secrets"}
            self.reply(status, "<html>\nno" if faults.html else error)
        else:
            time.sleep(faults.seconds)
            server.counted += 1
            if body.get("stream"):
                self._stream(body)
            else:
                self.reply(200, server.chat(body))

    def _stream(self, body: dict[str, Any]) -> None:
        server = self.server
        server.streaming.add(self.client_address)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(server.prefill)
        # A vLLM whose engine has not seen a request when SIGTERM comes ends it without a token.
        chunks = [server.role()] if server.prefill and server.draining else server.chunks(body)
        for chunk in (*chunks, None):
            if server.cutting:
                self.close_connection = True
                return
            line = b"data: [DONE]\n\n" if chunk is None else f"data: {json.dumps(chunk)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            time.sleep(0.002)
        self.wfile.write(b"0\r\n\r\n")
