"""Merge against PEFT's merge_and_unload + save_pretrained: wall time and peak anonymous memory.

In:  nothing; a random Llama of 1.1 billion parameters (bf16, 500 MB shards) and a LoRA on all its
     linear layers are made in a temporary directory (about 7 GB of disk) and removed again.
Out: a Markdown table. Both sides run alternately, each run in a process of its own, the base in the
     page cache. "Wall" is the whole process; "work" leaves out its start and imports. Memory is
     the largest sum of RssAnon over the process and its children, sampled every 20 ms: the page cache
     that a mapped file uses is not counted, since the kernel takes it back at will.
Run: python -m benchmarks.merge
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from stages.weights import shards

RUNS = 3
SHARD = 500 * 10**6
RANK = 16
HIDDEN, LAYERS, INNER, VOCABULARY, HEADS, KEY_HEADS = 2048, 22, 5632, 32000, 32, 4
KEYS = HIDDEN // HEADS * KEY_HEADS
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
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


class Measured(NamedTuple):
    """Seconds of the whole process, seconds of its work, peak anonymous memory in bytes."""

    wall: float
    work: float
    peak: int


def main() -> None:
    """Make the model, measure both sides, print the table."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit, so that the temporary directory goes too
    with tempfile.TemporaryDirectory(prefix="lockstep-merge-") as name:
        home = Path(name)
        parameters = make_base(home / "base")
        make_adapter(home / "adapter")
        results: dict[str, list[Measured]] = {"ours": [], "PEFT": []}
        for _ in tqdm(range(RUNS), desc="runs"):
            for side, script in (("ours", OURS), ("PEFT", PEFT)):
                with tempfile.TemporaryDirectory(dir=home) as out:
                    arguments = [str(home / "base"), str(home / "adapter"), out, str(SHARD)]
                    results[side].append(measured([sys.executable, "-c", script, *arguments]))
    print(table(parameters, results))


def make_base(folder: Path) -> int:
    """Write the random base, one tensor in memory at a time; return its number of parameters."""
    shapes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LINEAR.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        shapes |= {f"model.layers.{layer}.{name}": (HIDDEN,) for name in norms}
    count = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    tensors = [shards.Tensor(f"{name}.weight", "BF16", shape, 2 * count[name]) for name, shape in shapes.items()]
    folder.mkdir()
    plan = shards.plan(tensors, SHARD)
    random = torch.Generator().manual_seed(17)
    for shard in tqdm(plan, desc="base"):
        shards.write(folder / shard.file, shard.tensors, lambda t: [_random(t.shape, random).bfloat16()])
    (folder / shards.INDEX).write_text(json.dumps(shards.index(plan)))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return sum(count.values())


def make_adapter(folder: Path) -> None:
    """Write a random LoRA, float32 as training leaves it."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    names = sorted({name.rpartition(".")[2] for name in LINEAR})
    LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, task_type="CAUSAL_LM").save_pretrained(folder)
    random = torch.Generator().manual_seed(18)
    weights = {}
    for layer in range(LAYERS):
        for name, (rows, columns) in LINEAR.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{key}.lora_A.weight"] = _random((RANK, columns), random)
            weights[f"{key}.lora_B.weight"] = _random((rows, RANK), random)
    save_file(weights, folder / "adapter_model.safetensors")


def measured(command: Sequence[str]) -> Measured:
    """Run ``command``, which prints the seconds of its work last, and watch its memory."""
    os.sync()  # the last run's writes are not this run's burden
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, anonymous(process.pid))
                time.sleep(0.02)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - start
        out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}:\n{err}")
    return Measured(wall, float(out.split()[-1]), peak)


def anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process and its descendants; 0 for one that has ended."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total = int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(anonymous(int(child)) for child in (task / "children").read_text().split())
    except OSError:
        pass
    return total


def table(parameters: int, results: dict[str, list[Measured]]) -> str:
    """Medians of both sides, and their ratio."""
    rows: list[tuple[str, Callable[[Measured], float], str]] = [
        ("wall, s", lambda m: m.wall, ".1f"),
        ("work, s", lambda m: m.work, ".1f"),
        ("peak anonymous memory, MB", lambda m: m.peak / 1e6, ".0f"),
    ]
    what = f"{parameters / 1e9:.2f} billion parameters, LoRA r={RANK}, shards of {SHARD // 10**6} MB"
    lines = [
        f"Merge of {what}: median of {RUNS} runs (all runs in brackets)",
        "",
        "| | ours | PEFT | ours / PEFT |",
        "| --- | --- | --- | --- |",
    ]
    for name, of, form in rows:
        cells, medians = [], []
        for side in ("ours", "PEFT"):
            values = [of(measurement) for measurement in results[side]]
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:{form}} ({', '.join(f'{value:{form}}' for value in values)})")
        lines.append(f"| {name} | {' | '.join(cells)} | {medians[0] / medians[1]:.2f} |")
    return "\n".join(lines)


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * 0.02


if __name__ == "__main__":
    main()
