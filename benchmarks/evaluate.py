"""Evaluate's generation against another engine's: examples per second, and whether answers agree.

The other is the ``hf`` backend of lm-evaluation-harness; or transformers' own ``generate_batch`` (continuous batching):
once that is as fast, Lockstep needs no loop of its own.

In:  a model directory, the splits that prepare wrote; for the harness lm-eval (`pip install -e '.[bench]'`, or an
     interpreter of another environment by --lm-eval-python).
Out: a Markdown table. Each side is a process of its own that loads the model once; both are given the same rows,
     precision, threads and number of new tokens, and both end at the tokenizer's end of turn. First the harness
     tries its batch sizes, then its best and ours take turns. A run is timed from messages (ours) or rendered
     prompts (the others) to texts: tokenisation and decoding are inside, loading is outside.
Run: python -m benchmarks.evaluate --model models/merged [--other generate-batch] [--prompts plain,shots,labels]
     [--rows 200]

Prompts: ``plain`` as the candidate is asked, ``shots`` with three examples, as the base is asked, ``labels`` with the
list of labels in the system message (docs/configurations/service-router.yaml). They differ in how long a prefix all
rows share.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from checks import files
from checks.config.params import BasePrompt
from checks.rows import Message, Row
from stages.inference import generate, prompts

BATCH_SIZES = ("1", "8", "16", "32", "64", "auto")
TRIAL_ROWS = 128  # on which the harness' batch sizes are tried
PROMPTS = {
    "plain": BasePrompt(labels=False, shots=0),
    "shots": BasePrompt(labels=False, shots=3),
    "labels": BasePrompt(labels=True, shots=0),
}
OURS = """
import json, sys, time
from pathlib import Path
from checks.rows import Message, Row
from stages.inference import generate, prompts
job = json.loads(Path(sys.argv[1]).read_text())
rows = [Row.model_validate_json(row) for row in job["rows"]]
asked = [[Message(**turn) for turn in turns] for turns in job["messages"]]
model, tokenizer = generate.load(Path(job["model"]), job["precision"])
ends = generate.end_tokens(model, tokenizer)
def run(count):
    ids = prompts.tokens(tokenizer, asked[:count], rows[:count], None, Path("test"))
    found = generate.generate(model, ids, ends, job["new"], job["batch_tokens"])
    return [tokenizer.decode(answer.tokens, skip_special_tokens=True).strip() for answer in found]
run(8)
for line in sys.stdin:
    _, count = line.split()
    started = time.perf_counter()
    texts = run(int(count))
    print(json.dumps({"seconds": time.perf_counter() - started, "texts": texts}), flush=True)
"""
HARNESS = """
import contextlib, json, logging, sys, time
from pathlib import Path
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer
logging.disable(logging.WARNING)
job = json.loads(Path(sys.argv[1]).read_text())
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(job["model"])
dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job["precision"]]
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).to(device).eval()
known = {"until": [tokenizer.eos_token], "max_gen_toks": job["new"], "do_sample": False}
def run(size, count):
    with contextlib.redirect_stdout(sys.stderr):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=job["longest"] + job["new"],
                  batch_size=size if size == "auto" else int(size))
        asked = [Instance(request_type="generate_until", doc={}, arguments=(text, dict(known)), idx=i)
                 for i, text in enumerate(job["rendered"][:count])]
        started = time.perf_counter()
        texts = lm.generate_until(asked, disable_tqdm=True)
        return time.perf_counter() - started, texts
run("8", 8)
for line in sys.stdin:
    size, count = line.split()
    seconds, texts = run(size, int(count))
    print(json.dumps({"seconds": seconds, "texts": [text.strip() for text in texts]}), flush=True)
"""

BATCHED = """
import json, sys, time
from pathlib import Path
from transformers import ContinuousBatchingConfig, GenerationConfig
from stages.inference import generate
job = json.loads(Path(sys.argv[1]).read_text())
model, tokenizer = generate.load(Path(job["model"]), job["precision"])
greedy = GenerationConfig(
    do_sample=False, max_new_tokens=job["new"], eos_token_id=sorted(generate.end_tokens(model, tokenizer)),
    pad_token_id=tokenizer.eos_token_id,
)
settings = ContinuousBatchingConfig(max_batch_tokens=job["batch_tokens"])
def run(count):
    asked = [tokenizer.encode(text, add_special_tokens=False) for text in job["rendered"][:count]]
    found = model.generate_batch(asked, greedy, settings)
    return [tokenizer.decode(each.generated_tokens, skip_special_tokens=True).strip() for each in found.values()]
run(8)
for line in sys.stdin:
    _, count = line.split()
    started = time.perf_counter()
    texts = run(int(count))
    print(json.dumps({"seconds": time.perf_counter() - started, "texts": texts}), flush=True)
"""
OTHERS = {"lm-eval": HARNESS, "generate-batch": BATCHED}


class Timed(NamedTuple):
    """Seconds and texts of one run over all rows."""

    seconds: float
    texts: list[str]


class Worker:
    """A process that answers all rows each time it is told to."""

    def __init__(self, python: str, script: str, job: Path) -> None:
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self.process = subprocess.Popen(
            [python, "-c", script, str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def run(self, rows: int, batch_size: str = "-") -> Timed:
        """One timed run over the first ``rows``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{batch_size} {rows}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self.process.wait()}: is lm-eval installed? See --lm-eval-python")
        found = Timed(**json.loads(line))
        if len(found.texts) != rows:
            raise SystemExit(f"a worker answered {len(found.texts)} of {rows} rows")
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Measure both sides for every kind of prompt and print the tables."""
    options = _options()
    test, train = (files.read_jsonl(options.splits / f"{name}.jsonl", Row) for name in ("test", "train"))
    rows, took = test[: options.rows], {}
    for kind in options.prompts:
        took[kind] = _compare(options, kind, rows, prompts.for_base(rows, train, PROMPTS[kind]))
    if {"plain", "shots"} <= took.keys():
        ours, other = (took["plain"][side] + took["shots"][side] for side in (0, 1))
        print(
            f"\nAll that the stage asks, a candidate plainly and its base with three shots: {ours:.1f} s, "
            f"{options.other} {other:.1f} s, {other / ours:.2f} times as long."
        )


def _compare(
    options: argparse.Namespace, kind: str, test: Sequence[Row], asked: Sequence[Sequence[Message]]
) -> tuple[float, float]:
    """Print the table of one kind of prompts; median seconds over all rows, ours and the other engine's."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    turns = [[message.model_dump() for message in messages] for messages in asked]
    rendered = [tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in turns]
    ids = prompts.tokens(tokenizer, asked, test, None, options.splits / "test.jsonl")
    if [tokenizer.encode(text, add_special_tokens=False) for text in rendered] != ids:
        raise SystemExit("rendered prompts and their tokens differ: the two sides would not be asked the same")
    with tempfile.TemporaryDirectory(prefix="lockstep-evaluate-") as folder:
        job = Path(folder) / "job.json"
        files.write_json(
            job,
            {
                "model": str(options.model.resolve()), "messages": turns, "rendered": rendered,
                "longest": max(map(len, ids)), "precision": options.precision, "new": options.new,
                "batch_tokens": options.batch_tokens, "rows": [row.model_dump_json() for row in test],
            },
        )  # fmt: skip
        python = options.lm_eval_python if options.other == "lm-eval" else sys.executable
        ours, other = Worker(sys.executable, OURS, job), Worker(python, OTHERS[options.other], job)
        trial = min(TRIAL_ROWS, len(ids))
        sizes = options.batch_sizes if options.other == "lm-eval" else ["-"]
        tried = {size: trial / other.run(trial, size).seconds for size in sizes}
        best = max(tried, key=lambda size: tried[size])
        ours.run(trial)  # as warm as the other is by now
        runs = [(ours.run(len(ids)), other.run(len(ids), best)) for _ in range(options.runs)]
        ours.close()
        other.close()
    mean, prefix = statistics.mean(map(len, ids)), generate.shared_prefix([tuple(i) for i in ids])
    print(
        f"\n## {kind}: {len(ids)} rows, {mean:.1f} prompt tokens on average of which {prefix} shared, "
        f"up to {options.new} new, {options.precision}\n"
    )
    _table(options.other, len(ids), tried, best, runs)
    one, two = runs[-1][0].texts, runs[-1][1].texts
    differing = [i for i, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]]
    print(
        f"\nThe same answer for {len(ids) - len(differing)} of {len(ids)} rows ({1 - len(differing) / len(ids):.1%})."
    )
    _near_ties(options.model, [(test[i].id, ids[i], one[i], two[i]) for i in differing])
    ours_took, other_took = (statistics.median(run.seconds for run in side) for side in zip(*runs, strict=True))
    return ours_took, other_took


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--other", choices=sorted(OTHERS), default="lm-eval")
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--prompts", type=lambda text: text.split(","), default=["plain", "shots"])
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--batch-sizes", type=lambda text: text.split(","), default=list(BATCH_SIZES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lm-eval-python", default=sys.executable)
    return parser.parse_args()


def _table(other: str, rows: int, tried: dict[str, float], best: str, runs: Sequence[tuple[Timed, Timed]]) -> None:
    print("| side | examples/s | min | max | to the other at its best |\n| --- | ---: | ---: | ---: | ---: |")
    called = {size: other if size == "-" else f"{other}, batch size {size}" for size in tried}
    for size, speed in tried.items():
        print(f"| {called[size]}, tried once | {speed:.1f} | | | |")
    speeds = [[rows / run.seconds for run in side] for side in zip(*runs, strict=True)]
    reference = statistics.median(speeds[1])
    for name, found in (("lockstep evaluate", speeds[0]), (called[best], speeds[1])):
        middle = statistics.median(found)
        print(f"| {name} | {middle:.1f} | {min(found):.1f} | {max(found):.1f} | {middle / reference:.2f} |")


def _near_ties(folder: Path, differing: Sequence[tuple[str, list[int], str, str]]) -> None:
    """Where answers part: how far apart the two tokens are in fp32, in nats."""
    if not differing:
        return
    model, tokenizer = generate.load(folder, "fp32")
    print("\nWhere they part, and how far apart the two tokens are when computed in fp32:\n")
    print("| row | ours | the other | nats |\n| --- | --- | --- | ---: |")
    gaps = []
    for row, prompt, one, two in differing:
        a, b = ([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in (one, two))
        place = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), 0)
        with torch.inference_mode():
            logits = _logits(model, [*prompt, *a[:place]])
        gap = float((logits[a[place]] - logits[b[place]]).abs())
        gaps.append((gap, f"| {row} | `{one!r}` | `{two!r}` | {gap:.3f} |"))
    for _, line in sorted(gaps, reverse=True)[:20]:
        print(line)


def _logits(model: Any, ids: list[int]) -> Any:
    return model(torch.tensor([ids], device=model.device), logits_to_keep=1).logits[0, -1].log_softmax(-1)


if __name__ == "__main__":
    main()
