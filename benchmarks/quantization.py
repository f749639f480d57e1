"""An export of 8 bits against the 16-bit model in vLLM: new tokens a second, memory, and bytes.

In:  two model directories, `models/unquantised` and `models/merged` of a merge with ``merge.quantization``; prompts of
     data/splits/valid.jsonl; an interpreter that has vLLM (--python), which is no dependency of Lockstep.
Out: a Markdown table. Each model is a process of its own. They are loaded at the same time and take turns, so both see
     the same load of the machine. Before the rounds each answers once, which is not counted. ``memory`` is what the
     process has more after loading and a few answers than before: weights, and what vLLM needs to compute with them.
Run: python -m benchmarks.quantization --python ../vllm/bin/python [--rows 64] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from checks import layout

# vLLM's engine in this very process, which thus has all of its memory.
_SERVER = """
import json, os, sys, time
import psutil
from vllm import LLM, SamplingParams
job, held = json.loads(sys.argv[1]), psutil.Process().memory_info
before = held().rss
model = LLM(job["model"], max_model_len=256, max_num_seqs=16, enforce_eager=True, dtype="bfloat16", seed=0)
how = SamplingParams(temperature=0, max_tokens=job["new"], ignore_eos=True)
model.chat(job["messages"][:4], how, use_tqdm=False)
print(json.dumps({"memory": held().rss - before}), flush=True)
for line in sys.stdin:
    started, worked = time.perf_counter(), time.process_time()
    found = model.chat(job["messages"], how, use_tqdm=False)
    tokens = sum(len(each.outputs[0].token_ids) for each in found)
    rate, work = tokens / (time.perf_counter() - started), (time.process_time() - worked) / tokens
    print(json.dumps({"rate": rate, "work": work}), flush=True)
"""


def main() -> None:
    """Let both models take turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--full", type=Path, default=layout.UNQUANTISED)
    parser.add_argument("--export", type=Path, default=layout.MERGED)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=32, help="tokens of each answer")
    given = parser.parse_args()
    lines = (layout.SPLITS / "valid.jsonl").read_text(encoding="utf-8").splitlines()[: given.rows]
    job = {"messages": [json.loads(line)["messages"] for line in lines], "new": given.new}
    models = {"16 bits": given.full, "8 bits": given.export}
    servers = {name: _started(given.python, job | {"model": str(path.resolve())}) for name, path in models.items()}
    memory = {name: _answer(server)["memory"] for name, server in servers.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for number in range(given.rounds):
        order = list(models) if number % 2 == 0 else list(models)[::-1]
        for name in order:
            stdin = servers[name].stdin
            assert stdin is not None
            stdin.write("go\n")
            stdin.flush()
            rounds[name].append(_answer(servers[name]))
    for server in servers.values():
        server.communicate()
    print("| | files, MB | memory, MB | tokens a second | CPU ms a token | ratio of CPU in a round |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, path in models.items():
        size = sum(each.stat().st_size for each in path.iterdir()) / 1e6
        works = [each["work"] for each in rounds[name]]
        ratios = sorted(one / other["work"] for one, other in zip(works, rounds["16 bits"], strict=True))
        rate = statistics.median(each["rate"] for each in rounds[name])
        print(
            f"| {name} | {size:.0f} | {memory[name] / 1e6:.0f} | {rate:.1f} | {1e3 * statistics.median(works):.2f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )


def _started(python: str, job: dict[str, Any]) -> "subprocess.Popen[str]":
    settings = {
        "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }  # fmt: skip
    return subprocess.Popen(
        [python, "-c", _SERVER, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | settings,
    )  # fmt: skip


def _answer(server: "subprocess.Popen[str]") -> dict[str, float]:
    """The next line of JSON; vLLM prints lines of its own."""
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith('{"'):
            found: dict[str, float] = json.loads(line)
            return found
    sys.exit("vLLM ended: see above")


if __name__ == "__main__":
    main()
