"""Runs in LLM Compressor's environment: rounds a model to 4 bits by GPTQ or AWQ. It imports nothing of the pipeline.

Run: python compressor_worker.py about          prints the version of LLM Compressor
     python compressor_worker.py round JOB      JOB: JSON with kind (gptq or awq), model, out, prompts (token
                                                     ids), group, ignore, limit
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def rounded(job: dict[str, Any]) -> None:
    """Write the safetensors files and the config.json of ``job["model"]`` in 4 bits into ``job["out"]``."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    prompts = job["prompts"]
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto", local_files_only=True)
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(job["model"], local_files_only=True),
        dataset=Dataset.from_list(
            [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts]
        ),
        recipe=_recipe(job),
        max_seq_length=max(map(len, prompts)),
        num_calibration_samples=len(prompts),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(job["out"], save_compressed=True, max_shard_size=job["limit"])


def _recipe(job: dict[str, Any]) -> list[Any]:
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=job["group"]
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    if job["kind"] == "gptq":
        return [GPTQModifier(config_groups=groups, ignore=job["ignore"])]
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    # The library pins memory for a device even where there is none, which torch refuses.
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=job["ignore"])]


if __name__ == "__main__":
    if sys.argv[1] == "about":
        sys.stdout.write(metadata.version("llmcompressor"))
    else:
        rounded(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
