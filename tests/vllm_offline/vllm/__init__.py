"""What of vLLM 0.32 the worker uses, without a model: it refuses what vLLM refuses, with its words.

An answer repeats the prompt up to a token that ends an answer. STANDIN_DOES names one thing that
it does besides; STANDIN_SEEN names a file that gets a line for each request.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

envs = SimpleNamespace(environment_variables={"VLLM_BATCH_INVARIANT": None})
_DOES = os.environ.get("STANDIN_DOES", "")
_GIB = 1 << 30


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class SamplingParams:
    """Greedy, or with a seed, by which the stand-in turns the prompt that it repeats."""

    def __init__(
        self, *, temperature: float, seed: int, max_tokens: int, logprobs: int, detokenize: bool, ignore_eos: bool,
        stop_token_ids: list[int], top_p: float = 1.0,
    ) -> None:  # fmt: skip
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        if detokenize or logprobs < 0 or not 0 < top_p <= 1:
            raise ValueError("the stand-in gives ids and log-probabilities")
        self.turned = seed if temperature else 0
        self.max_tokens, self.ends, self.ignore_eos = max_tokens, stop_token_ids, ignore_eos


class LLM:
    """A model that is read no further than its config."""

    def __init__(
        self, *, model: str, dtype: str, seed: int, generation_config: str, skip_tokenizer_init: bool, load_format: str,
        max_model_len: int, max_num_seqs: int, max_num_batched_tokens: int, kv_cache_memory_bytes: int,
        tensor_parallel_size: int, enforce_eager: bool, enable_prefix_caching: bool, enable_chunked_prefill: bool,
        async_scheduling: bool,
    ) -> None:  # fmt: skip
        print("a line of vLLM on standard output", flush=True)
        self.arguments = {name: value for name, value in locals().items() if name != "self"}
        config = json.loads((Path(model) / "config.json").read_text())
        (architecture,) = config["architectures"]
        if architecture != "LlamaForCausalLM":
            raise type("ValidationError", (ValueError,), {})(
                f"1 validation error for ModelConfig\n  Value error, Model architectures ['{architecture}'] are not "
                "supported for now. Supported architectures: dict_keys([…])"
            )
        if max_model_len > config["max_position_embeddings"]:
            raise ValueError(
                f"User-specified max_model_len ({max_model_len}) is greater than the derived max_model_len"
            )
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(f"max_num_batched_tokens ({max_num_batched_tokens}) must be greater than or equal to")
        if kv_cache_memory_bytes > 64 * _GIB:
            raise ValueError("Available memory on node 0 (18.0/23.0 GiB) on kv cache allocation is less than requested")
        self.longest, self.vocabulary = max_model_len, config["vocab_size"]
        assert dtype in ("bfloat16", "float16", "float32")

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        params: SamplingParams | Sequence[SamplingParams],
        use_tqdm: Callable,
        lora_request: None = None,
    ) -> list[Any]:
        """All answers, with the bars that vLLM makes: one of the prompts as they are taken in, one of the answers."""
        if lora_request is not None:
            raise ValueError("it was started without --enable-lora")
        every = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        if outside := [end for end in every[0].ends if end >= self.vocabulary]:
            raise ValueError(f"token_id(s) {outside} in stop_token_ids contain out-of-vocab token ids")
        for prompt in use_tqdm(prompts, desc="Rendering prompts"):
            if len(prompt["prompt_token_ids"]) >= self.longest:
                raise ValueError("The decoder prompt is longer than the maximum model length")
        if seen := os.environ.get("STANDIN_SEEN"):
            known = {name: value for name, value in os.environ.items() if name.startswith(("VLLM_", "HF_", "PYTHON"))}
            said = {"arguments": self.arguments, "environment": known, "pid": os.getpid(), "prompts": len(prompts)}
            with Path(seen).open("a") as stream:
                stream.write(json.dumps(said) + "\n")
        does(_DOES)
        bar = use_tqdm(total=len(prompts), desc="Processed prompts", dynamic_ncols=True, postfix="0 toks/s")
        found = []
        for prompt, own in zip(prompts, every, strict=True):
            found.append(self._answer(prompt["prompt_token_ids"], own))
            assert bar.format_dict["elapsed"] >= 0
            bar.update(1)
        bar.close()
        return found[::-1] if _DOES == "shuffles" else found

    def _answer(self, ids: list[int], params: SamplingParams) -> Any:
        given: list[int] = []
        place = params.turned % len(ids)
        for token in (ids[place:] + ids[:place])[: params.max_tokens]:
            given.append(token)
            if token in params.ends:
                break
        logprob = float("nan") if _DOES == "nan" else -0.5 * len(given)
        output = SimpleNamespace(token_ids=given, cumulative_logprob=logprob)
        return SimpleNamespace(prompt_token_ids=ids, outputs=[output])


def does(what: str) -> None:
    """What else happens."""
    if what == "memory":
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "ends":
        os._exit(3)
    if what == "other":
        raise RuntimeError("Unsupported CPU attention configuration: head_dim=8 isa=1")
    if what == "hangs":
        print("hangs", flush=True)
        time.sleep(600)
