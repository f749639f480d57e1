"""vLLM's process: which Python, with which variables, what goes in and out, and what its end means.

In:  a request of ``stages.inference.vllm``, a line of JSON to ``vllm_worker`` in vLLM's own environment.
Out: token ids; ``.lockstep/vllm.log``, what vLLM printed.

The worker has a process group of its own, which is killed when the request ends. If this process was killed itself, the
worker sees that its standard input is closed, and kills the group.
"""

import functools
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from tqdm import tqdm

from checks.formats.engines import ENVIRONMENT, PYTHON, Vllm
from checks.formats.report import Count
from checks.process.errors import EvaluationRefused, MachineRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import layout
from stages import workers
from stages.inference import vllm_worker

LOG = layout.STATE / "vllm.log"
# Run with -I: the folder of this file has another module that is called vllm.
_WORKER = ["-I", vllm_worker.__file__]
_SECONDS_TO_END = 60  # after the last answer
# Of this process's VLLM_ variables, those that say where compiled kernels are kept and which cores are used.
_KEPT = ("VLLM_CACHE_ROOT", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_TARGET_DEVICE")
_ALWAYS = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else the first requests are answered while others come in
}  # fmt: skip
# Messages of vLLM and torch that ask for more or less memory have these words.
_MEMORY = ("memory", "cache blocks")
_LESS = "lower evaluate.engine.kv_cache_gb or evaluate.batch_tokens, or free memory"


Version = Annotated[str, Field(pattern=r"^[\w.+-]*$")]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]


class About(Record):
    """vLLM's environment and its device. ``vllm`` and ``torch`` are versions, with the names of their builds."""

    vllm: Version
    torch: Version
    device: str
    gpus: Count


class Reply(Record):
    """The new tokens of each prompt, the sums of their log-probabilities (None: not finite), the seconds of all."""

    answers: list[list[Token]]
    logprobs: list[float | None]
    seconds: Annotated[float, Field(gt=0)]


class _Done(Record):
    done: Annotated[float, Field(ge=0)]


class _Failed(Record):
    error: Annotated[list[str], Field(min_length=1)]
    message: str


_REPLY = TypeAdapter[Reply | _Failed | _Done](Reply | _Failed | _Done)


def about(root: Path, engine: Vllm) -> About:
    """vLLM's environment. Raises MachineRefused unless it has the version, GPUs and kernels of params.yaml."""
    environment = environment_of(workers.python(root, PYTHON, ENVIRONMENT), engine.version)
    if engine.gpus > max(environment.gpus, 1):
        raise MachineRefused(
            f"evaluate.engine.gpus is {engine.gpus}, but vLLM sees {environment.gpus} here",
            "lower it, or take another machine",
        )
    if engine.batch_invariant and not environment.gpus:
        raise MachineRefused(
            "vLLM has no batch-invariant kernels for a CPU",
            "set evaluate.engine.batch_invariant to false",
        )
    return environment


@functools.cache
def environment_of(python: str, version: str) -> About:
    """As ``about``, of one Python."""
    todo = f"run `python -m stages.tools.vllm {version}`, or set {PYTHON} to a Python that has it"
    done = workers.about(
        [python, *_WORKER, "about"], _environment(), "evaluate.engine needs vLLM", todo
    )
    try:
        environment = About.model_validate_json(done.stdout)
    except ValidationError as error:
        raise MachineRefused(
            f"{python}: has no vLLM: {workers.last_line(done.stderr)}", todo
        ) from error
    if environment.vllm.partition("+")[0] != version:
        has = f"vLLM {environment.vllm}" if environment.vllm else "no vLLM"
        raise MachineRefused(f"{python}: has {has}, and evaluate.engine.version is {version}", todo)
    return environment


def ask(
    root: Path, engine: Vllm, request: dict[str, Any], folder: Path, label: str, log: bool
) -> Reply:
    """Return answers to ``request``, with a progress bar called ``label``. ``folder``: the model, for a refusal.

    Raises MachineRefused or EvaluationRefused with what the worker says went wrong, or how it ended.
    """
    environment = _environment() | ({"VLLM_BATCH_INVARIANT": "1"} if engine.batch_invariant else {})
    log_hint = f"; {LOG} has what it printed" if log else ""
    reply: Reply | _Failed | None = None
    command = [workers.python(root, PYTHON, ENVIRONMENT), *_WORKER]
    with (
        printed(root / LOG if log else None) as output,
        started(command, environment, output) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        with suppress(BrokenPipeError):  # it ended: its last words say why
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
        with tqdm(total=len(request["prompts"]), desc=label, unit="row", disable=None) as bar:
            for line in worker.stdout:
                if not isinstance(news := _read_line(line, label), _Done):
                    reply = news
                    break
                bar.update(news.done)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(_SECONDS_TO_END)
    if isinstance(reply, Reply):
        _is_whole(reply, request, label)
        return reply
    if isinstance(reply, _Failed):
        raise _refused(engine, folder, reply, log_hint)
    if worker.returncode == -signal.SIGKILL:
        raise MachineRefused(
            f"vLLM was killed while it answered for {label}: out of memory, as a rule{log_hint}",
            _LESS,
        )
    raise EvaluationRefused(
        f"vLLM ended with {worker.returncode} while it answered for {label}{log_hint}", "run again"
    )


def _read_line(line: bytes, label: str) -> Reply | _Failed | _Done:
    try:
        return _REPLY.validate_json(line)
    except ValidationError as error:
        shown = redact(line[:400].decode(errors="replace"), 100)
        raise EvaluationRefused(
            f"vLLM's process did not answer for {label}, it said: {shown}",
            f"is {PYTHON} a Python that has vLLM?",
        ) from error


def _is_whole(reply: Reply, request: dict[str, Any], label: str) -> None:
    """Raises EvaluationRefused unless each prompt has an answer that is no longer than was asked."""
    wanted, longest = len(request["prompts"]), request["sampling"]["max_tokens"]
    if (len(reply.answers), len(reply.logprobs)) != (wanted, wanted):
        what = f"{len(reply.answers)} answers with {len(reply.logprobs)} log-probabilities to {wanted} prompts"
    elif odd := [len(ids) for ids in reply.answers if not 1 <= len(ids) <= longest]:
        what = f"an answer of {odd[0]} tokens, where 1 to {longest} were asked for"
    else:
        return
    raise EvaluationRefused(
        f"vLLM's process gave {what}, for {label}", "set evaluate.engine to null: transformers"
    )


def _refused(
    engine: Vllm, folder: Path, failure: _Failed, log_hint: str
) -> MachineRefused | EvaluationRefused:
    """Return what a failure in the worker means. Of a message of several lines, the first that says something."""
    lines = [line.strip() for line in failure.message.splitlines() if line.strip()] or [
        failure.error[0]
    ]
    if "ValidationError" in failure.error and len(lines) > 1:
        lines = lines[1:]  # the first says how many there are
    what = redact(lines[0]).replace(str(folder.resolve()), str(folder))
    kinds = set(failure.error)
    if kinds & {"OutOfMemoryError", "MemoryError"} or any(
        word in failure.message.lower() for word in _MEMORY
    ):
        return MachineRefused(f"vLLM has too little memory for {folder}: {what}{log_hint}", _LESS)
    return EvaluationRefused(
        f"{folder}: vLLM {engine.version} cannot run it: {what}{log_hint}",
        "set evaluate.engine to null: transformers",
    )


@contextmanager
def started(
    command: Sequence[str], environment: dict[str, str], output: IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield an engine's worker, in a process group of its own, of which nothing is left afterwards."""
    try:
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:  # it was there a moment ago
        raise MachineRefused(
            f"{command[0]}: {error.strerror}: evaluate.engine needs it", "run again"
        ) from error
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]


@contextmanager
def printed(log: Path | None) -> Iterator[IO[bytes] | int]:
    """Where to print: the file ``log``, written anew, or nowhere."""
    if log is None:
        yield subprocess.DEVNULL
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        yield stream


def _environment() -> dict[str, str]:
    """Return variables without those that change answers, make vLLM import the pipeline's modules, or hold a key."""
    return workers.environment(("PYTHON", "HF_", "VLLM_"), _ALWAYS, _KEPT)
