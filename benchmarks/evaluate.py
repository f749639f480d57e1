"""Evaluate's generation against the ``hf`` backend of lm-evaluation-harness: rows a second, and whether answers agree.

    python -m benchmarks.evaluate --model models/merged [--prompts plain,shots,labels] [--rows 200]

In:  a model directory, the splits that prepare wrote, lm-eval (`pip install -e '.[bench]'`).
Out: a Markdown table for each kind of prompts. Each side is a process of its own that loads the model once. Both get
     the same rows, precision, threads and number of new tokens, and both end at the tokenizer's end of turn. First the
     harness tries its batch sizes, then its best and ours take turns. A run is timed from messages (ours) or rendered
     prompts (the harness) to texts: tokenisation and decoding are inside, loading is outside.

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
from typing import NamedTuple

from transformers import AutoTokenizer

from benchmarks import tables
from checks.config.pipeline_params import BasePrompt
from checks.records.rows import Message, Row
from checks.storage import files
from stages.inference import prompts

NEW, PRECISION, BATCH_TOKENS, RUNS = 20, "bf16", 4096, 3
BATCH_SIZES = ("1", "8", "16", "32", "64", "auto")
TRIAL_ROWS = 128  # The harness' batch sizes are tried on so many rows.
PROMPTS = {
    "plain": BasePrompt(labels=False, shots=0),
    "shots": BasePrompt(labels=False, shots=3),
    "labels": BasePrompt(labels=True, shots=0),
}
OURS = """
import json, sys, time
from pathlib import Path
from checks.records.rows import Message, Row
from stages.inference import generate, prompts
job = json.loads(Path(sys.argv[1]).read_text())
rows = [Row.model_validate_json(row) for row in job["rows"]]
asked = [[Message(**turn) for turn in turns] for turns in job["messages"]]
model, tokenizer = generate.load(Path(job["model"]), job["precision"])
ends = generate.end_tokens(model, tokenizer)
def run(size, count):
    started = time.perf_counter()
    ids = prompts.tokens(tokenizer, asked[:count], rows[:count], None, Path("test"))
    answers = generate.generate(model, ids, ends, job["new"], job["batch_tokens"])
    texts = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in answers]
    return time.perf_counter() - started, texts
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
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16).to(device).eval()
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
"""
LOOP = """
run("8", 8)
for line in sys.stdin:
    size, count = line.split()
    seconds, texts = run(size, int(count))
    print(json.dumps({"seconds": seconds, "texts": [text.strip() for text in texts]}), flush=True)
"""


class Timed(NamedTuple):
    """Seconds and texts of one run over all rows."""

    seconds: float
    texts: list[str]


class Worker:
    """A process that waits, and answers the first rows whenever its parent asks."""

    def __init__(self, script: str, job: Path) -> None:
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self.process = subprocess.Popen(
            [sys.executable, "-c", script + LOOP, str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def run(self, rows: int, batch_size: str = "-") -> Timed:
        """Answer the first ``rows``, timed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{batch_size} {rows}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"a worker ended with {self.process.wait()}: .venv/bin/pip install -e '.[bench]'"
            )
        return Timed(**json.loads(line))


def main() -> None:
    """Measure both sides for every kind of prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--prompts", type=lambda text: text.split(","), default=["plain", "shots"])
    options = parser.parse_args()
    test, train = (
        files.read_jsonl(options.splits / f"{name}.jsonl", Row) for name in ("test", "train")
    )
    rows = test[: options.rows]
    for kind in options.prompts:
        _compare(options.model, kind, rows, prompts.for_base(rows, train, PROMPTS[kind]))


def _compare(
    model: Path, kind: str, rows: Sequence[Row], asked: Sequence[Sequence[Message]]
) -> None:
    """Print the table of one kind of prompts."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = [[message.model_dump() for message in messages] for messages in asked]
    rendered = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        for chat in turns
    ]
    ids = prompts.tokens(tokenizer, asked, rows, None, Path("test.jsonl"))
    if [tokenizer.encode(text, add_special_tokens=False) for text in rendered] != ids:
        raise SystemExit(
            "rendered prompts and their tokens differ: the two sides would not be asked the same"
        )
    with tempfile.TemporaryDirectory(prefix="lockstep-evaluate-") as folder:
        job = Path(folder) / "job.json"
        files.write_json(
            job,
            {
                "model": str(model.resolve()), "messages": turns, "rendered": rendered, "longest": max(map(len, ids)),
                "precision": PRECISION, "new": NEW, "batch_tokens": BATCH_TOKENS,
                "rows": [row.model_dump_json() for row in rows],
            },
        )  # fmt: skip
        ours, harness = Worker(OURS, job), Worker(HARNESS, job)
        trial = min(TRIAL_ROWS, len(ids))
        tried = {size: harness.run(trial, size).seconds for size in BATCH_SIZES}
        best = min(tried, key=lambda size: tried[size])
        ours.run(trial)  # Ours is as warm now as the harness.
        runs = [(ours.run(len(ids)), harness.run(len(ids), best)) for _ in range(RUNS)]
        for worker in (ours, harness):
            worker.process.communicate()
    speeds = [
        statistics.median(len(ids) / run.seconds for run in side)
        for side in zip(*runs, strict=True)
    ]
    same = sum(one == two for one, two in zip(runs[-1][0].texts, runs[-1][1].texts, strict=True))
    row = (
        len(ids),
        *(f"{speed:.1f}" for speed in speeds),
        best,
        f"{speeds[0] / speeds[1]:.2f}",
        f"{same}/{len(ids)}",
    )
    columns = ("rows", "ours, rows/s", "lm-eval, rows/s", "its batch size", "ratio", "same answers")
    tables.show(kind, columns, [row])


if __name__ == "__main__":
    main()
