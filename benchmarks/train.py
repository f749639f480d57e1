"""Training with the stage beside TRL's SFTTrainer: tokens a second, memory, and loss at the end.

In:  models/base and data/splits (`lockstep run validate`); the first rows of the train split, one pass.
Out: a Markdown table. Each training runs in a process of its own, and so does the measuring of its loss: the mean over
     the answers' tokens of valid rows, each alone, by the same code for all. All get the same base, LoRA, seed and
     rows, in the order that the stage drew in the first row of the table; only packing draws its own. "TRL" has its
     own defaults for all the rest; "our settings" are those of params.yaml.
     --liger adds the stage with Liger's kernels, on a GPU.
Run: python -m benchmarks.train [--rows 160] [--liger]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from tqdm import tqdm

from benchmarks import tables
from checks.config import params_file
from checks.config.params import Params
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.records.rows import Row
from checks.storage import digest, files, layout

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS, HELD_OUT, ORDER = 160, 60, "order.json"
STAGE, PACKED = "stages.train", "stages.train, packing"
TRL, TRL_AS_OURS = "TRL", "TRL, our settings"
OURS: dict[str, dict[str, Any]] = {
    STAGE: {},
    PACKED: {"packing": "bfd", "max_length": 768, "batch_size": 1},
}
LIGER: dict[str, dict[str, Any]] = {"stages.train, Liger": {"kernels": "liger"}}


def main() -> None:
    """Train with each, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows")
    parser.add_argument(
        "--liger", action="store_true", help="the stage with train.kernels: liger too; needs a GPU"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)  # The training, and its folder.
    options = parser.parse_args()
    if options.child:
        _as_child(options.child[0], Path(options.child[1]))
        return
    columns = ("training", "steps", "tokens a second", "CPU s", "peak, GB", "loss on valid")
    tables.show("Train", columns, _trainings(options.rows, OURS | (LIGER if options.liger else {})))


def _trainings(rows: int, ours: dict[str, dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Train with each of ours and with TRL, all on the rows in the order that the first training draws."""
    order: list[int] | None = None
    for name in tqdm((*ours, TRL, TRL_AS_OURS), file=sys.stderr, disable=None):
        with tempfile.TemporaryDirectory(prefix="lockstep-train-") as folder:
            root = Path(folder)
            _lay_out(root, rows, ours.get(name, {}), order)
            took = _stage(root, name) if name in ours else _child(name, root)
            loss = _child("loss", root)["loss"]
            order = order or json.loads((root / ORDER).read_text())
        speed = f"{took['tokens'] / took['seconds']:,.0f}"
        yield (
            name,
            took["steps"],
            speed,
            f"{took['cpu']:.0f}",
            f"{took['peak'] / 1e9:.2f}",
            f"{loss:.3f}",
        )


def _as_child(what: str, root: Path) -> None:
    if what in OURS | LIGER:
        from stages import entry

        entry.run("train", lambda params, here: _stage_here(params, here, what))
    else:
        print(json.dumps({"loss": _loss(root)} if what == "loss" else _trl(root, what)))


def _lay_out(root: Path, rows: int, train: dict[str, Any], order: Sequence[int] | None) -> None:
    """A repository's root with the base, sealed splits of the first rows, and params.yaml changed by ``train``.

    ``order``: that of the train split.
    """
    shutil.copytree(REPOSITORY / layout.BASE, root / layout.BASE)
    seals = {}
    for split, count in (("train", rows), ("valid", HELD_OUT), ("test", 1)):
        path = root / layout.SPLITS / f"{split}.jsonl"
        chosen = files.read_jsonl(REPOSITORY / layout.SPLITS / path.name, Row)[:count]
        if split == "train" and order is not None:
            chosen = [chosen[place] for place in order]
        files.write_jsonl(path, chosen)
        seals[split] = digest.of_file(path).sha256
    files.write_json(root / layout.SEAL, Seal(splits=seals))
    document = yaml.safe_load((REPOSITORY / layout.PARAMS).read_text())
    document["train"] |= {"epochs": 1, "max_steps": None} | train
    document["tracking"]["uri"] = f"sqlite:///{root / 'mlflow.db'}"
    (root / layout.PARAMS).write_text(yaml.safe_dump(document))


def _stage(root: Path, name: str) -> dict[str, Any]:
    cpu = _run(["-m", "benchmarks.train", "--child", name, "."], root)[1]
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    took = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    assert took.memory is not None
    peak = took.memory.peak
    return {
        "steps": report.steps,
        "tokens": report.tokens,
        "seconds": took.seconds,
        "cpu": cpu,
        "peak": peak,
    }


def _stage_here(params: Params, root: Path, name: str) -> str:
    """Run the stage, which leaves the order of its rows in ``ORDER``."""
    from stages import entry
    from stages import train as stage
    from stages.training import step

    entry.hide(step.unneeded(params.training))
    from stages.training.order import Order

    draw = Order.__iter__

    def drawn(self: Order) -> Iterator[int]:
        rows = list(draw(self) if name in {STAGE, PACKED} else range(len(self)))
        files.write_text(root / ORDER, json.dumps(rows))
        return iter(rows)

    with mock.patch.object(Order, "__iter__", drawn):
        return stage.train(params, root)


def _child(what: str, root: Path) -> dict[str, Any]:
    """A training with TRL, or the loss of a trained adapter."""
    said, cpu = _run(["-m", "benchmarks.train", "--child", what, str(root)], root)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found if what == "loss" else found | {"cpu": cpu}


def _run(command: list[str], root: Path) -> tuple[str, float]:
    """Return what the process printed, and its CPU seconds, start and imports included."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "LOCKSTEP_CHECKPOINT_MINUTES": "0"}
    environment |= {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }  # ``stages.entry`` sets them, too.
    before = os.times()
    ran = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True
    )
    if ran.returncode:
        sys.exit(ran.stderr)
    after = os.times()
    return ran.stdout, sum(after[2:4]) - sum(before[2:4])


def _trl(root: Path, what: str) -> dict[str, Any]:
    """One pass of TRL's trainer over the rows; the adapter is left where the stage leaves it."""
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from stages.training import memory
    from stages.training.methods import sft
    from stages.training.trainer import lora_config, settings

    train = params_file.load(root / layout.PARAMS).train
    assert train.lora is not None
    model = AutoModelForCausalLM.from_pretrained(root / layout.BASE, dtype=torch.bfloat16)
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    chosen: dict[str, Any] = {
        "num_train_epochs": 1, "seed": train.seed, "report_to": [], "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(), "include_num_input_tokens_seen": "non_padding",
    } if what == TRL else settings(train, len(rows), str(root))  # fmt: skip
    trainer = SFTTrainer(
        model,
        SFTConfig(**{"output_dir": str(root), **chosen, "train_sampling_strategy": "sequential"}),
        train_dataset=sft.dataset(rows),
        processing_class=AutoTokenizer.from_pretrained(root / layout.BASE),
        peft_config=lora_config(train.lora, model),
    )
    start = time.perf_counter()
    trainer.train()
    seconds, state = time.perf_counter() - start, trainer.state
    trainer.model.save_pretrained(root / layout.ADAPTER)
    return {
        "steps": state.global_step, "tokens": state.num_input_tokens_seen, "seconds": seconds, "peak": memory.peak(),
    }  # fmt: skip


def _loss(root: Path) -> float:
    """Nats of an answer's token, its end included, on average over the valid rows."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / layout.BASE)
    model = AutoModelForCausalLM.from_pretrained(root / layout.BASE, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, root / layout.ADAPTER)
    nats = tokens = 0.0
    for row in files.read_jsonl(root / layout.SPLITS / "valid.jsonl", Row):
        turns = [message.model_dump() for message in row.messages]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        answered = [*turns, {"role": "assistant", "content": row.reference}]
        ids = torch.tensor(tokenizer.apply_chat_template(answered, return_dict=False))
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        nats += float(
            torch.nn.functional.cross_entropy(logits, ids[len(prompt) :], reduction="sum")
        )
        tokens += len(ids) - len(prompt)
    return nats / tokens


if __name__ == "__main__":
    main()
