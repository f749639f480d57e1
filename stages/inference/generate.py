"""Greedy generation for many short prompts: the tokens of one-row-at-a-time ``model.generate``, sooner.

In: a transformers causal language model with a key-value cache, prompts as token ids.
Out: per prompt the new tokens and the seconds they took.

Where the time goes, and what is done about it:

* What prompts begin with alike is computed once; identical prompts are.
* Nothing is padded but inside attention: tokens of many prompts are computed as one flat row.
* Rows that are answered share their passes with prompts that are read; a row that has ended takes no part.
* Logits are made for the last position of a row alone.
* On a CPU the rows are shared out to lanes, each a thread that computes by itself: threads that compute one tensor
  together wait for one another at every operation, and many operations are too small to be shared.

A model whose attention cannot be taken over for that is asked one prompt at a time.
"""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from checks.errors import EvaluationRefused
from stages.inference import flat_attention, token_by_token
from stages.inference.batching import Answer, Engine, Prompt, Settings, Witness, shared_prefix, shares

__all__ = ["Answer", "end_tokens", "generate", "load", "shared_prefix"]

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Lanes at most: each reads all weights at every step, and answers fewer rows with them.
_LANES = 4


def load(folder: Path, precision: str) -> tuple[Any, Any]:
    """Model and tokenizer of ``folder``, in ``precision``, on the GPU if there is one.

    Raises EvaluationRefused when the directory holds no causal language model that generates from a key-value cache.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=_TYPES[precision], local_files_only=True)
        layers = DynamicCache(config=model.config).layers
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EvaluationRefused(
            f"{folder}: does not load: {reason}", "run `./lockstep run` to make it again"
        ) from error
    unknown = {type(layer).__name__ for layer in layers} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    if unknown:
        kinds = ", ".join(sorted(unknown))
        raise EvaluationRefused(
            f"{folder}: {model.config.model_type} keeps a state other than keys and values ({kinds})",
            "use a model whose layers are all attention",
        )
    return model.to(device).eval(), tokenizer


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end an answer: the generation config's and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    max_new_tokens: int,
    batch_tokens: int,
    label: str = "generate",
) -> list[Answer]:
    """Answer every prompt greedily, with a progress bar called ``label``.

    ``prompts``: token ids, none empty. ``ends``: ids that end an answer. ``batch_tokens``: prompt tokens that are read
    at a time, by all lanes together; what prompts share is read once and counts once. Returns one answer per prompt,
    in order.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    distinct = sorted({tuple(prompt) for prompt in prompts})
    if not distinct:
        return []
    with tqdm(total=len(distinct), desc=label, unit="row", disable=None) as bar:
        try:
            answers = _together(model, distinct, Settings(ends, max_new_tokens, batch_tokens), bar)
        except flat_attention.Foreign as reason:
            tqdm.write(f"{label}: one prompt at a time: {reason}", file=sys.stderr)
            bar.reset()
            answers = _apart(model, distinct, ends, max_new_tokens, bar)
    return [answers[tuple(prompt)] for prompt in prompts]


def _together(model: Any, prompts: Sequence[Prompt], settings: Settings, bar: Any) -> dict[Prompt, Answer]:
    """Answers to sorted, distinct prompts, in lanes. Raises Foreign when the model has an attention of another kind."""
    longest = max(prompts, key=len)
    # Shows what nothing of a model's configuration gives away.
    witness = Witness(longest, token_by_token.logits(model, longest, min(2, settings.max_new_tokens)))
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    lanes = max(1, min(threads, _LANES, len(prompts)))
    share = replace(settings, batch_tokens=max(1, settings.batch_tokens // lanes))
    with flat_attention.taken_over(model, len(longest) + settings.max_new_tokens):
        engine = Engine(model, prompts, share, witness)
        with _threads(threads // lanes):
            if lanes == 1:
                return dict(engine.run(prompts, bar.update))
            dealt = shares(prompts, lanes, engine.prefix, settings.max_new_tokens)
            return dict(_in_lanes(engine, dealt, bar))


def _apart(
    model: Any, prompts: Sequence[Prompt], ends: frozenset[int], max_new_tokens: int, bar: Any
) -> dict[Prompt, Answer]:
    """Answers to prompts, one after the other, by the model's own attention."""
    answers = {}
    for prompt in prompts:
        started = time.perf_counter()
        tokens = [step.id for step in token_by_token.answer(model, prompt, ends, max_new_tokens)]
        whole = tuple(tokens[:-1] if tokens[-1] in ends else tokens)
        answers[prompt] = Answer(whole, time.perf_counter() - started)
        bar.update(1)
    return answers


class _Stopped(Exception):  # noqa: N818 - no error: another lane failed
    """Ends a lane from within."""


def _in_lanes(engine: Engine, dealt: Sequence[Sequence[Prompt]], bar: Any) -> Iterator[tuple[Prompt, Answer]]:
    """Answer each share in a thread of its own; the first failure, or interrupt, ends the others at a step."""
    stop, lock = threading.Event(), threading.Lock()

    def done(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            bar.update(count)

    with ThreadPoolExecutor(len(dealt)) as pool:
        lanes = [pool.submit(engine.run, share, done) for share in dealt]
        try:
            for ended in wait(lanes, return_when=FIRST_EXCEPTION).done:
                ended.result()
        except BaseException:
            stop.set()
            raise
    for lane in lanes:
        yield from lane.result()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let each operation use so many threads: of this thread, and of those that begin meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
