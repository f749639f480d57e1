"""prepare, validate and the contamination gate on synthetic requests.

In:  models/base (`lockstep run fetch`), for its tokenizer; rows of 8 to 25 made-up words are written to a temporary
 directory, one in a hundred with one word changed in another row.
Out: a Markdown table: processor seconds, seconds and the peak of memory, each step in a process of its own.
Run: python -m benchmarks.data [--rows 1000 10000 100000] [--rows 1000000]
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from checks.config.params import Params
from checks.data import contamination, near_duplicates
from checks.records.rows import Row, request
from checks.storage import files, layout
from tests.conftest import as_params, scaled_down

SIZES = (1_000, 10_000, 100_000)
SHINGLE, SIMILARITY, RUN = 5, 0.8, 8
RULES = (
    "strip-control-characters", "collapse-white-space", "drop-empty-prompt", "drop-empty-reference", "drop-long-prompt",
    "drop-conflicting-references", "drop-duplicates",
)  # fmt: skip
RAW = layout.RAW / "rows.jsonl"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Print the table, or, as a process of its own, one step's figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), help="numbers of rows")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        _measure(arguments.step)
        return
    tables.show("Data", ("rows", "step", "CPU s", "s", "GB", "result"), _steps(arguments.rows))


def _steps(sizes: Sequence[int]) -> Iterator[tuple[object, ...]]:
    """Run each step on so many rows."""
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="lockstep-data-") as name:
            root = Path(name)
            write_rows(root / RAW, rows)
            (root / layout.BASE).mkdir(parents=True)
            for name_of_file in filter(lambda name: (layout.BASE / name).is_file(), TOKENIZER):
                shutil.copy(layout.BASE / name_of_file, root / layout.BASE)
            for step in STEPS:
                took = json.loads(_child(step, root))
                figures = (f"{took['cpu']:.1f}", f"{took['seconds']:.1f}", f"{took['gb']:.2f}")
                yield f"{rows:,}", step, *figures, took["result"]


def write_rows(path: Path, rows: int) -> None:
    """Requests of 20,000 words whose frequencies follow Zipf's law."""
    random = np.random.default_rng(18)
    syllables = [
        f"{consonant}{vowel}"
        for consonant in "bcdfghklmnprstvw"
        for vowel in ("a", "e", "i", "o", "u", "on", "er")
    ]
    words = list(
        dict.fromkeys("".join(random.choice(syllables, 1 + i % 4)) for i in range(40_000))
    )[:20_000]
    chance = 1 / np.arange(1, len(words) + 1)
    lengths = random.integers(8, 26, rows)
    chosen = iter(random.choice(len(words), int(lengths.sum()), p=chance / chance.sum()).tolist())
    earlier: list[str] = []
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as stream:
        for number, length in enumerate(lengths.tolist()):
            request = [words[word] for word in itertools.islice(chosen, length)]
            if number % 100 == 99:  # a near-duplicate of another row
                request = earlier[number % 50].split()
                request[number % len(request)] = f"x{number}"
            if number % 100 < 50:
                earlier[number % 100 : number % 100 + 1] = [" ".join(request)]
            row = {
                "prompt": " ".join(request),
                "reference": f"label {number % 20}",
                "slice": f"part {number % 7}",
            }
            stream.write(f"{json.dumps(row)}\n")


def _params() -> Params:
    value = scaled_down()
    columns = {name: name for name in ("prompt", "reference", "slice")}
    loader = {
        "kind": "table",
        "files": "*.jsonl",
        "columns": columns,
        "instruction": "Route the request.",
    }
    near = {"shingle": SHINGLE, "similarity": SIMILARITY}
    value["prepare"] |= {
        "loader": loader,
        "rules": list(RULES),
        "near_duplicates": near,
        "max_prompt_words": 45,
    }
    value["validate"] |= {"max_prompt_tokens": 400, "labels": None}
    value["train"] |= {"max_length": 512}
    value["evaluate"]["base_prompt"]["labels"] = False
    return as_params(value)


def _prepare() -> str:
    from stages.prepare import prepare

    return prepare(_params(), Path())


def _validate() -> str:
    from stages.validate import validate

    return validate(_params(), Path())


def _gate() -> str:
    """What the gate computes, on rows read as for a verdict."""
    of = {name: layout.SPLITS / f"{name}.jsonl" for name in ("train", "test")}
    train, test = (
        [request(row.messages) for row in files.each_of_jsonl(path, Row)] for path in of.values()
    )
    runs = list(contamination.first_seen(test, train, RUN))
    near = list(near_duplicates.first_alike(test, train, SHINGLE, SIMILARITY))
    return f"{len(runs)} of {len(test):,} test rows share a run of {RUN} words with train, {len(near)} are alike to one"


STEPS: dict[str, Callable[[], str]] = {"prepare": _prepare, "validate": _validate, "gate": _gate}


def _child(step: str, root: Path) -> str:
    here = Path.cwd()
    known = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", "--step", step],
        cwd=root, env=os.environ | {"PYTHONPATH": known}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def _measure(step: str) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    result = STEPS[step]()
    seconds, children = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    figures: dict[str, Any] = {
        "cpu": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "seconds": seconds,
        "gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + children.ru_maxrss) / 1e6,
        "result": result.split(" (")[0],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
