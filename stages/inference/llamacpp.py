"""Answers by llama.cpp from the GGUF file of ``merge.export``, greedily or drawn by seeds.

In:  a model directory that has the file, conversations, params ``evaluate`` with ``engine``.
Out: an answer per row and draw, and answers per second; ``.lockstep/llamacpp.log``, what llama.cpp printed.

Everything that makes an answer is in the file: the chat template, the tokenizer, the weights, and the tokens that end
an answer. transformers only counts the tokens of each prompt. llama.cpp answers one row at a time, in a stated number
of threads and on the processor, without a cache of prompts, so an answer depends on no other row.
"""

import functools
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import draws
from checks.formats.engines import LLAMACPP, LLAMACPP_PYTHON, LlamaCpp
from checks.process.errors import EvaluationRefused, MachineRefused
from checks.process.text import redact
from checks.records.rows import Message, Record, Row
from checks.storage import layout
from stages import workers
from stages.inference import llamacpp_worker, prompts, vllm, vllm_process

LOG = layout.STATE / "llamacpp.log"
_WORKER = ("-I", llamacpp_worker.__file__)
# The types of keys and values, as the runtime llamacpp has them: llama.cpp computes with no bf16 of these.
_CACHE = {"bf16": "GGML_TYPE_F16", "fp16": "GGML_TYPE_F16", "fp32": "GGML_TYPE_F32"}
_MARGIN = 64  # Tokens by which the file's own template may make a prompt longer.


class About(Record):
    """llama.cpp's environment."""

    version: str


class _Answer(Record):
    text: str


class _Failed(Record):
    error: str


_Line = TypeAdapter[_Answer | _Failed](_Answer | _Failed)


def hold_installed(root: Path, engine: LlamaCpp) -> str:
    """Return the Python that has llama.cpp. Its environment is made now if it lacks it and no variable names another.

    Raises MachineRefused unless it has the version of params.yaml, or if pip cannot install that.
    """
    python = workers.python(root.resolve(), LLAMACPP_PYTHON, LLAMACPP)
    version = _version(python)
    if version == engine.version:
        return python
    if not os.environ.get(LLAMACPP_PYTHON):
        workers.install("llamacpp", engine.version, root)
        _version.cache_clear()
        return python
    has = f"has xllamacpp {version}" if version else "has no xllamacpp"
    raise MachineRefused(
        f"{python}: {has}, and evaluate.engine.version is {engine.version}",
        f"install it there, or unset {LLAMACPP_PYTHON}: then {LLAMACPP} gets it",
    )


@functools.cache
def _version(python: str) -> str:
    with suppress(MachineRefused, ValidationError):
        done = workers.about(
            [python, *_WORKER, "about"], os.environ, "evaluate.engine needs it", ""
        )
        return About.model_validate_json(done.stdout).version
    return ""


def answer(
    root: Path,
    engine: LlamaCpp,
    settings: Evaluate,
    folder: Path,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
    label: str,
    rows_name: Path,
    log: bool = True,
) -> tuple[list[str], float]:
    """Return the file's answers to ``conversations``, the first draws of all ``rows`` first, and answers per second.

    ``log``: whether what llama.cpp prints is kept. Raises MachineRefused when llama.cpp is not there or is another
    version, EvaluationRefused when it cannot run the file, or a row cannot be asked.
    """
    python = hold_installed(root, engine)
    tokenizer, positions, _ = vllm.read(folder)
    new, times = settings.max_new_tokens, draws(settings.decoding)
    room = None if positions is None else positions - new
    longest = max(map(len, prompts.tokens(tokenizer, conversations, rows, room, rows_name)))
    request: dict[str, Any] = {
        "file": str((folder / layout.GGUF).resolve()), "context": longest + new + _MARGIN, "limit": new,
        "threads": engine.threads, "cache": _CACHE[settings.precision],
        "rows": [
            {
                "messages": plain(messages), **({"tools": list(row.tools)} if row.tools else {}),
                **sampling(settings, row, draw),
            }
            for draw in range(times)
            for row, messages in zip(rows, conversations, strict=True)
        ],
    }  # fmt: skip
    texts: list[str] = []
    command = [python, *_WORKER]
    environment = {"PATH": os.environ.get("PATH", "")}
    with (
        vllm_process.printed(root / LOG if log else None) as printed,
        vllm_process.started(command, environment, printed) as worker,
        tqdm(total=len(request["rows"]), desc=label, unit="row", disable=None) as bar,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        began = time.perf_counter()
        with suppress(BrokenPipeError):  # It ended: the next lines say so.
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
        for row in [*rows] * times:
            texts.append(_read(worker.stdout.readline(), f"{folder / layout.GGUF}: row {row.id}"))
            bar.update()
        seconds = time.perf_counter() - began
    return [text.strip() for text in texts], len(texts) / seconds


def sampling(settings: Evaluate, row: Row, draw: int) -> dict[str, Any]:
    """Return the field of a request for one draw of ``row``; none where answers are greedy."""
    if (decoding := settings.decoding) is None:
        return {}
    numbers = decoding.model_dump(include={"temperature", "top_p"})
    seed = decoding.seed_of(row.id, draw)
    return {"sampling": numbers | {"samplers": ["temperature", "top_p"], "seed": seed}}


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the turns as OpenAI's API has them: arguments of calls are text."""
    turns = [message.model_dump() for message in messages]
    for call in (call for turn in turns for call in turn.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return turns


def _read(line: bytes, about: str) -> str:
    """Return the answer in a line of the worker. Raises EvaluationRefused if there is none. ``about``: file and row."""
    try:
        reply = _Line.validate_json(line)
    except ValidationError:
        shown = redact(line[:400].decode(errors="replace"), 100)
        reply = _Failed(error=f"it ended, or said: {shown}" if line else "it ended")
    if isinstance(reply, _Answer):
        return reply.text
    raise EvaluationRefused(
        f"{about}: llama.cpp did not answer: {redact(reply.error, 300)}",
        f"read {LOG}, then run `./lockstep run merge`, or set evaluate.engine to null: transformers",
    )
