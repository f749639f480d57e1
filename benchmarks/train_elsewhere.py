"""One training by Unsloth or Axolotl, for `python -m benchmarks.train --unsloth PYTHON --axolotl PYTHON`.

It runs in the environment of that interpreter, so it imports nothing of this repository. Both get the base, the rows
in their order, the seed, LoRA, batch size, optimiser, learning rate, schedule and checkpointing of the stage.

In:  unsloth or axolotl, and a file of JSON: base, rows (prompt and completion, as lists of turns), section train of
     params.yaml, where the adapter goes.
Out: a line of JSON: steps, seconds without loading, peak bytes. The adapter, as PEFT writes it.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train as the file says."""
    name, path = sys.argv[1:]
    if importlib.util.find_spec(name) is None:
        sys.exit(f"{sys.executable}: its environment has no {name}; pip install it there")
    job = json.loads(Path(path).read_text())
    trainer = {"unsloth": unsloth, "axolotl": axolotl}[name](job)
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
    """Unsloth's model and TRL's trainer, which Unsloth changes."""
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
        "lr_scheduler_type": train["schedule"], "warmup_steps": train["warmup_ratio"], "optim": train["optimizer"],
        "weight_decay": train["weight_decay"], "max_grad_norm": train["max_grad_norm"],
        "train_sampling_strategy": "sequential", "max_length": train["max_length"], "dataset_num_proc": 1,
    }  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(job["scratch"], **settings),
        train_dataset=Dataset.from_list(_rows(job)),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def axolotl(job: dict[str, Any]) -> Any:
    """Axolotl's own loaders, trainer and collator, from a configuration of its own."""
    import torch

    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    train, lora, scratch = job["train"], job["lora"], Path(job["scratch"])
    chats = [json.dumps({"messages": [*row["prompt"], *row["completion"]]}) + "\n" for row in _rows(job)]
    (scratch / "chats.jsonl").write_text("".join(chats))
    settings = {
        "base_model": job["base"], "output_dir": str(scratch / "out"), "attn_implementation": "sdpa",
        "datasets": [{"path": str(scratch / "chats.jsonl"), "ds_type": "json", "type": "chat_template"}],
        "dataset_prepared_path": str(scratch / "prepared"), "dataset_num_proc": 1, "sequence_len": train["max_length"],
        "curriculum_sampling": True, "shuffle_merged_datasets": False, "sample_packing": False,
        "adapter": "lora", "lora_r": lora["r"], "lora_alpha": lora["alpha"], "lora_dropout": lora["dropout"],
        "lora_target_modules": lora["targets"], "peft_layers_to_transform": lora["indices"],
        "num_epochs": 1, "seed": train["seed"], "micro_batch_size": train["batch_size"],
        "gradient_accumulation_steps": train["gradient_accumulation"], "learning_rate": train["learning_rate"],
        "lr_scheduler": train["schedule"], "warmup_ratio": train["warmup_ratio"], "optimizer": train["optimizer"],
        "weight_decay": train["weight_decay"], "max_grad_norm": train["max_grad_norm"],
        "gradient_checkpointing": train["gradient_checkpointing"], "bfloat16": True, "fp16": False,
        "save_strategy": "no", "plugins": [f"{Path(__file__).stem}.on_cpu"],
    }  # fmt: skip
    if not torch.cuda.is_available():  # they are Triton's
        settings |= dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False)
    (scratch / "axolotl.json").write_text(json.dumps(settings))  # which is YAML
    cfg = importlib.import_module("axolotl.cli.config").load_cfg(str(scratch / "axolotl.json"))
    data = importlib.import_module("axolotl.common.datasets").load_datasets(cfg=cfg)
    return importlib.import_module("axolotl.train").train(cfg=cfg, dataset_meta=data)[2]


def on_cpu() -> Any:
    """A plugin of Axolotl: lets transformers train in 16 bits without a GPU, for which Axolotl has no setting."""
    import torch

    base = importlib.import_module("axolotl.integrations.base").BasePlugin
    values = {"use_cpu": not torch.cuda.is_available()}
    return type("OnCpu", (base,), {"get_training_args": lambda _self, _cfg: values})()


def _rows(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]


if __name__ == "__main__":
    main()
