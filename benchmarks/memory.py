"""The least memory of a training beside the measured peak: the base of params.yaml, one process a case.

In:  models/base (`lockstep run fetch`); rows of a fixed number of tokens are made in a temporary directory.
Out: a Markdown table. Each case trains two steps with the stage itself: the second one has AdamW's moments too.
Run: python -m benchmarks.memory
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from checks import digest, files, layout
from checks.config import params_file
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured
from checks.rows import Message, Row
from checks.training import memory, tensors

REPOSITORY = Path(__file__).resolve().parent.parent
ANSWER = "storage account"


class Case(NamedTuple):
    """One training: ``rows`` of ``tokens`` in a batch, with these parameters."""

    rows: int
    tokens: int
    layers: int | None
    train: dict[str, Any]


CHECKPOINTING = {"gradient_checkpointing": True}
CASES = (
    Case(4, 82, None, {}),
    Case(16, 83, None, {}),
    Case(16, 83, None, CHECKPOINTING),
    Case(16, 83, 10, {}),
    Case(4, 256, None, {}),
    Case(8, 128, 20, CHECKPOINTING),
    Case(4, 128, 10, {"precision": "fp32"}),
    Case(8, 64, None, {"quantization": {"kind": "nf4", "double": True}}),
)


def main() -> None:
    """Train each case, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases, from 0")
    chosen = parser.parse_args().only
    print("| rows x tokens | layers | with | least, MB | measured, MB |")
    print("| --- | --- | --- | ---: | ---: |")
    cases = CASES if chosen is None else [CASES[number] for number in chosen]
    for case in tqdm(cases, file=sys.stderr, disable=None):
        with tempfile.TemporaryDirectory(prefix="lockstep-memory-") as name:
            print(_line(case, Path(name)), flush=True)


def _line(case: Case, root: Path) -> str:
    shutil.copytree(REPOSITORY / layout.BASE, root / layout.BASE)
    _splits(case, root)
    document = yaml.safe_load((REPOSITORY / layout.PARAMS).read_text())
    document["train"] |= {"epochs": None, "max_steps": 2, "batch_size": case.rows, "max_length": 512} | case.train
    document["train"]["lora"]["layers"] = case.layers
    document["tracking"]["uri"] = f"sqlite:///{root / 'mlflow.db'}"
    (root / layout.PARAMS).write_text(yaml.safe_dump(document))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "LOCKSTEP_CHECKPOINT_MINUTES": "0"}
    command = [sys.executable, "-m", "stages.train"]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if ran.returncode:
        return f"| {case.rows} x {case.tokens} | {ran.stderr.strip().splitlines()[-1]} |"
    took = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    train = params_file.load(root / layout.PARAMS).train
    least, layers = memory.least(root / layout.BASE, train), tensors.read(root / layout.BASE).layers
    assert took.memory is not None
    assert took.memory.peak is not None
    assert least is not None
    what = ", ".join("nf4" if name == "quantization" else str(value) if name == "precision" else "checkpointing"
                     for name, value in case.train.items())  # fmt: skip
    return (
        f"| {case.rows} x {case.tokens} | {case.layers or layers} of {layers} | {what} | "
        f"{least / 1e6:,.0f} | {took.memory.peak / 1e6:,.0f} |"
    )


def _splits(case: Case, root: Path) -> None:
    """Rows of exactly so many tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / layout.BASE)
    answer = {"role": "assistant", "content": ANSWER}
    seals = {}
    for split, count in (("train", 2 * case.rows), ("valid", 4), ("test", 4)):
        turns = [each.model_dump() for each in _row(split, 0, 0).messages]
        fixed = len(tokenizer.apply_chat_template([*turns, answer], return_dict=False))
        path = root / layout.SPLITS / f"{split}.jsonl"
        files.write_jsonl(path, (_row(split, number, case.tokens - fixed) for number in range(count)))
        seals[split] = digest.of_file(path).sha256
    files.write_json(root / layout.SEAL, Seal(splits=seals))


def _row(split: str, number: int, words: int) -> Row:
    text = f"{number % 10}{' list' * words}"  # each word is one token
    return Row(
        id=f"{split}{number:08d}", messages=(Message(role="user", content=text),), reference=ANSWER,
        group=str(number), slice="a", source="x:1",
    )  # fmt: skip


if __name__ == "__main__":
    main()
