"""Merge against PEFT's merge_and_unload + save_pretrained: seconds and peak anonymous memory.

    python -m benchmarks.merge

In:  nothing; a random Llama of 1.1 billion parameters (bf16, 500 MB shards) and a LoRA on all its linear layers are
     made in a temporary directory (about 7 GB of disk) and removed again.
Out: a Markdown table: all runs of both sides, which take turns, each in a process of its own, with the base in the page
     cache. "Work" leaves out start and imports.
"""

import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import processes, tables
from benchmarks.processes import Took

RUNS = 3
SHARD = 500 * 10**6
RANK = 16
MODEL: dict[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 22, "intermediate_size": 5632, "vocab_size": 32000,
    "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
OURS = """
import sys, time
from pathlib import Path
from stages import merge
start = time.perf_counter()
base, adapter, out = map(Path, sys.argv[1:4])
merge.merge_weights(base, adapter, out, int(sys.argv[4]))
merge.copy_companions(base, out)
print(time.perf_counter() - start)
"""
PEFT = """
import sys, time
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
start = time.perf_counter()
base, adapter, out = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
model.save_pretrained(out, max_shard_size=int(sys.argv[4]))
print(time.perf_counter() - start)
"""


def main() -> None:
    """Make the model, measure both sides, print the table."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # An exit removes the temporary directory, too.
    with tempfile.TemporaryDirectory(prefix="lockstep-merge-") as name:
        home = Path(name)
        _make(home / "base", home / "adapter")
        results: dict[str, list[Took]] = {"ours": [], "PEFT": []}
        for _ in tqdm(range(RUNS), desc="runs"):
            for side, script in (("ours", OURS), ("PEFT", PEFT)):
                with tempfile.TemporaryDirectory(dir=home) as out:
                    arguments = [str(home / "base"), str(home / "adapter"), out, str(SHARD)]
                    results[side].append(
                        processes.run([sys.executable, "-c", script, *arguments], "RssAnon")
                    )
    tables.show("Merge", ("", *results, "ours / PEFT"), _rows(results))


def _make(base: Path, adapter: Path) -> None:
    """Write the random base, and a random LoRA, float32 as training leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(17)
    model = LlamaForCausalLM(LlamaConfig(**MODEL)).bfloat16()
    model.save_pretrained(base, max_shard_size=SHARD)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, lora).save_pretrained(adapter)


def _rows(results: dict[str, list[Took]]) -> Iterator[tuple[object, ...]]:
    """Return medians of both sides with all runs in brackets, and their ratio."""
    figures = {
        "wall, s": [[took.seconds for took in side] for side in results.values()],
        "work, s": [[float(took.output.split()[-1]) for took in side] for side in results.values()],
        "peak, MB": [[took.peak / 1e6 for took in side] for side in results.values()],
    }
    for name, sides in figures.items():
        medians = [statistics.median(values) for values in sides]
        cells = [
            f"{median:.1f} ({', '.join(f'{value:.1f}' for value in values)})"
            for median, values in zip(medians, sides, strict=True)
        ]
        yield name, *cells, f"{medians[0] / medians[1]:.2f}"


if __name__ == "__main__":
    main()
