"""A small server of the tests' own, which Lockstep does not ship: OpenAI's chat completions, in the dialect of vLLM.

    acme-serve MODEL --name NAME --host HOST --port PORT --longest TOKENS

It computes greedy answers with transformers, a token of one request at a time. ``install`` puts it where a team's
runtime finds it.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def install(environment: Path) -> None:
    """Write the program into the ``bin`` folder of an environment."""
    program = environment / "bin" / "acme-serve"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    program.chmod(0o755)


class WrongRequest(Exception):  # noqa: N818
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Model:
    def __init__(self, folder: str, longest: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.longest = longest
        self.turn = threading.Lock()
        self.generated = 0

    def prompt(self, body: dict[str, Any]) -> list[int]:
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def tokens(self, prompt: list[int], limit: int, fewest: int, ends: set[int]) -> Iterator[tuple[int, float]]:
        """Yield the tokens of the greedy answer with their log-probabilities; the end of it is not one of them."""
        import torch

        ids, cache = torch.tensor([prompt]), None
        for number in range(limit):
            with self.turn, torch.inference_mode():
                made = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
                logprobs = torch.log_softmax(made.logits[0, -1].float(), -1)
                allowed = logprobs.clone()
                if number < fewest:
                    allowed[list(ends)] = -torch.inf
                token = int(allowed.argmax())
                self.generated += 1
            if token in ends:
                return
            yield token, float(logprobs[token])
            ids, cache = torch.tensor([[token]]), made.past_key_values


class Handler(BaseHTTPRequestHandler):
    model: Model
    folder: str
    name: str

    def log_message(self, *_: object) -> None:
        """Write no line for a request."""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.reply(200, f"acme:generated_tokens_total {self.model.generated}\n".encode(), "text/plain")
        elif self.path == "/v1/models":
            self.json(200, {"data": [{"id": self.name, "root": self.folder}]})
        else:
            self.json(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["model"] != self.name:
                raise WrongRequest(404, "there is no such model")
            prompt = self.model.prompt(body)
            if self.path == "/tokenize":
                self.json(200, {"tokens": prompt})
                return
            if len(prompt) + body["max_tokens"] > self.model.longest:
                raise WrongRequest(400, f"prompt and answer have more than {self.model.longest} tokens")
            self.answer(body, prompt)
        except WrongRequest as error:
            self.json(error.status, {"error": {"message": str(error)}})
        except (KeyError, ValueError) as error:
            self.json(400, {"error": {"message": f"malformed: {type(error).__name__}"}})

    def answer(self, body: dict[str, Any], prompt: list[int]) -> None:
        ends = {self.model.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        limit = body["max_tokens"]
        answered = list[tuple[int, float]]()
        tokens = self.model.tokens(prompt, limit, body.get("min_tokens", 0), ends)
        if body.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
        said = ""
        for each in tokens:
            answered.append(each)
            text = self.text(answered)
            if body.get("stream") and not text.endswith("\ufffd"):
                self.event({"choices": [{"delta": {"content": text.removeprefix(said)}}]})
                said = text
        finish = "length" if len(answered) == limit else "stop"
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(answered)}
        if body.get("stream"):
            rest = self.text(answered).removeprefix(said)
            self.event({"choices": [{"delta": {"content": rest}, "finish_reason": finish}], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
            return
        content = [{"token": f"token_id:{token}", "logprob": logprob} for token, logprob in answered]
        message = {"role": "assistant", "content": self.text(answered)}
        choice = {"message": message, "finish_reason": finish, "logprobs": {"content": content}}
        self.json(200, {"model": self.name, "choices": [choice], "usage": usage})

    def text(self, answered: list[tuple[int, float]]) -> str:
        return str(self.model.tokenizer.decode([token for token, _ in answered], skip_special_tokens=True))

    def event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def json(self, status: int, value: object) -> None:
        self.reply(status, json.dumps(value).encode(), "application/json")

    def reply(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the answers in flight
    request_queue_size = 128


def main() -> None:
    """Serve until SIGTERM, and finish the answers in flight."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--longest", type=int)
    for name in ("name", "host", "port"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args()
    Handler.model, Handler.folder, Handler.name = Model(given.model, given.longest), given.model, given.name
    server = Server((given.host, int(given.port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
