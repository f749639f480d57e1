"""Runs in LLM Compressor's environment: rounds a model to 4 bits by GPTQ. It imports nothing of the pipeline.

Run: python compressor_worker.py about          prints the version of LLM Compressor
     python compressor_worker.py round JOB      JOB: JSON with model, out, prompts (token ids), group, ignore, limit
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def rounded(job: dict[str, Any]) -> None:
    """Write the safetensors files and the config.json of ``job["model"]`` in 4 bits into ``job["out"]``."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    prompts = job["prompts"]
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=job["group"])
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto", local_files_only=True)
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(job["model"], local_files_only=True),
        dataset=Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]),
        recipe=[GPTQModifier(config_groups={"group_0": scheme}, ignore=job["ignore"])],
        max_seq_length=max(map(len, prompts)),
        num_calibration_samples=len(prompts),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(job["out"], save_compressed=True, max_shard_size=job["limit"])


if __name__ == "__main__":
    if sys.argv[1] == "about":
        sys.stdout.write(metadata.version("llmcompressor"))
    else:
        rounded(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
