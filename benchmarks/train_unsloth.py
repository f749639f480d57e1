"""One training by Unsloth, for `python -m benchmarks.train --unsloth PYTHON`.

It runs in the environment of that interpreter, so it imports nothing of this repository.

In:  a file of JSON: base, rows (prompt and completion, as lists of turns), section train of params.yaml, where the
     adapter goes.
Out: a line of JSON: steps, seconds without loading, peak bytes. The adapter, as PEFT writes it.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train as the file says."""
    if importlib.util.find_spec("unsloth") is None:
        sys.exit(f"{sys.executable}: its environment has no unsloth; pip install it there")
    job = json.loads(Path(sys.argv[1]).read_text())
    trainer = unsloth(job)
    seconds = next(log["train_runtime"] for log in trainer.state.log_history if "train_runtime" in log)
    trainer.model.save_pretrained(job["adapter"])
    print(json.dumps({"steps": trainer.state.global_step, "seconds": seconds, "peak": peak()}))


def peak() -> int:
    """Most bytes on the GPU; without one, of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss starts at that of the parent
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def unsloth(job: dict[str, Any]) -> Any:
    """Train with our batch size, learning rate, schedule and checkpointing."""
    model_class = importlib.import_module("unsloth").FastLanguageModel  # before the libraries that it changes
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    train, lora = job["train"], job["lora"]
    model, tokenizer = model_class.from_pretrained(
        job["base"], max_seq_length=train["max_length"], load_in_4bit=False, local_files_only=True
    )
    model = model_class.get_peft_model(
        model, r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=lora["targets"],
        layers_to_transform=lora["indices"], random_state=train["seed"],
        use_gradient_checkpointing="unsloth" if train["gradient_checkpointing"] else False,
    )  # fmt: skip
    settings = {
        "num_train_epochs": 1, "seed": train["seed"], "report_to": [], "save_strategy": "no", "bf16": True,
        "per_device_train_batch_size": train["batch_size"], "learning_rate": train["learning_rate"],
        "lr_scheduler_type": train["schedule"], "warmup_steps": train["warmup_ratio"],
        "max_length": train["max_length"], "dataset_num_proc": 1,
    }  # fmt: skip
    rows = Dataset.from_list([json.loads(line) for line in Path(job["rows"]).read_text().splitlines()])
    trainer = SFTTrainer(
        model=model, args=SFTConfig(job["scratch"], **settings), train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
