"""What `lockstep estimate` says of a training, beside how long it takes: small random Llamas, on this machine.

In:  nothing; two Llamas (8 layers, 256 and 512 wide) and rows of text are made in a temporary directory.
Out: a Markdown table: each training is one change to the first one, from whose record it is estimated.
Run: python -m benchmarks.estimate
"""

import argparse
import copy
import io
import logging
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from tqdm import tqdm

from checks import digest, files, layout
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.rows import Message, Row
from checks.training import cost, steps
from release.cost import training_ahead
from release.cost.training_ahead import Ahead
from release.cost.types import RecordedTraining
from stages.train import train
from tests.conftest import CHAT_TEMPLATE, as_params, scaled_down

WORDS = ("queue", "table", "disk", "vault", "image", "key", "list", "show", "create", "delete", "name", "region")
ROWS, LONG = 96, 24  # rows, and words of a prompt
WIDTH, LAYERS, BATCH = 256, 8, 8
START = {"epochs": 1, "max_steps": None, "batch_size": BATCH, "precision": "fp32", "max_length": 512}
# One change each: of params.yaml's section train, of its lora, of the rows and their words, of the base's width.
CHANGES: dict[str, dict[str, Any]] = {
    "3 epochs": {"train": {"epochs": 3}},
    f"2 of {LAYERS} layers": {"lora": {"layers": 2}},
    "rank 64, not 4": {"lora": {"r": 64}},
    "batches of 32, not 8": {"train": {"batch_size": 32}},
    "batches of 2, not 8": {"train": {"batch_size": 2}},
    "gradient checkpointing": {"train": {"gradient_checkpointing": True}},
    "checkpointing and 2 layers": {"train": {"gradient_checkpointing": True}, "lora": {"layers": 2}},
    "bf16, not fp32": {"train": {"precision": "bf16"}},
    "3 times the rows": {"rows": 3 * ROWS},
    "prompts 3 times as long": {"words": 3 * LONG},
    "a base twice as wide": {"width": 2 * WIDTH},
}


def main() -> None:
    """Train each, and print what was foretold beside what it took."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="lockstep-estimate-") as name:
        home = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{home / 'mlflow.db'}"
        for width in (WIDTH, 2 * WIDTH):
            _base(home / f"base-{width}", width)
        _run(home, {})  # the first run loads libraries, and is not measured
        _, recorded = _run(home, {})
        lines = []
        for what, change in tqdm(CHANGES.items(), file=sys.stderr, disable=None):
            folder, after = _run(home, change)
            found = training_ahead.seconds(folder, [_ahead(after)], recorded)
            low, middle, high = found.train
            took = after.measured.seconds
            lines.append(
                f"| {what} | {middle:.1f} ({low:.1f} to {high:.1f}) | {took:.1f} | {took / middle:.2f} | "
                f"{'yes' if low <= took <= high else 'no'} |"
            )
        again = _run(home, {})[1].measured.seconds
    print(f"The first training took {recorded.measured.seconds:.1f} s, once more {again:.1f} s.\n")
    print("| change | estimated s | took s | ratio | within |\n| --- | --- | ---: | ---: | --- |")
    print("\n".join(lines))


def _run(home: Path, change: dict[str, Any]) -> tuple[Path, RecordedTraining]:
    """Train with ``change``; where it lies, and its record."""
    root = Path(tempfile.mkdtemp(dir=home))
    shutil.copytree(home / f"base-{change.get('width', WIDTH)}", root / layout.BASE)
    seals = {}
    for name, count in (("train", change.get("rows", ROWS)), ("valid", 4), ("test", 4)):
        path = root / layout.SPLITS / f"{name}.jsonl"
        files.write_jsonl(path, (_row(name, i, change.get("words", LONG)) for i in range(count)))
        seals[name] = digest.of_file(path).sha256
    files.write_json(root / layout.SEAL, Seal(splits=seals))
    value = copy.deepcopy(scaled_down())
    value["train"] |= START | change.get("train", {})
    value["train"]["lora"] |= change.get("lora", {})
    params = as_params(value)
    with redirect_stderr(io.StringIO()):
        train(params, root)
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    splits = [(root / layout.SPLITS / f"{name}.jsonl").read_bytes() for name in layout.SPLIT_NAMES]
    row_bytes = sum(map(len, splits)) / sum(text.count(b"\n") for text in splits)
    return root, RecordedTraining("main", "0" * 40, report, measured, tuple(steps.of(params.train)), None, row_bytes)


def _ahead(after: RecordedTraining) -> Ahead:
    """As it would have been planned: nothing of what the training measured."""
    rows = after.report.rows
    epochs = cost.epochs(after.train, rows)
    return Ahead(after.train, rows, epochs, after.report.splits["train"], after.report.base, 0)


def _row(split: str, number: int, words: int) -> Row:
    text = " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words))
    return Row(
        id=f"{split}{number:08d}", messages=(Message(role="user", content=f"{number} {text}"),),
        reference=WORDS[number % 4], group=str(number), slice="a", source="x:1",
    )  # fmt: skip


def _base(folder: Path, width: int) -> None:
    """A random Llama whose tokens are bytes and words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


if __name__ == "__main__":
    main()
