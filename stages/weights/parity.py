"""Parity: compares the merged model with base + adapter, token by token, on real prompts.

Both models get the same prompts with their reference answers (teacher forcing), one model after the other, in the
base's dtype. The log-probabilities of every reference token, end of turn included, are compared.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from checks.errors import MergeRefused
from checks.rows import Row

_BATCH = 8
_OTHER_BATCHES = (1, 3, 32)


class Agreement(NamedTuple):
    """Over ``positions`` reference tokens: differences of log-probabilities in nats, share of equal best tokens."""

    positions: int
    max_logprob_diff: float
    mean_logprob_diff: float
    top1: float


class Example(NamedTuple):
    """Token ids of prompt and answer together, and the start of the answer."""

    ids: list[int]
    start: int


def compare(base: Path, adapter: Path, merged: Path, rows: Sequence[Row]) -> Agreement:
    """Compare base + adapter, unmerged as PEFT runs it, with the model in ``merged`` on ``rows``.

    Raises MergeRefused if a model lacks a weight or computes a value that is not finite.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    examples = [encode(tokenizer, row) for row in rows]
    pad = _pad(tokenizer)
    with tqdm(total=2 * len(examples), unit="prompt", desc="parity") as bar:
        before, before_top = _scored(lambda: _with_adapter(base, adapter), examples, pad, bar)
        after, after_top = _scored(lambda: _loaded(merged), examples, pad, bar)
    difference = (before - after).abs()
    _hold_finite(difference)
    return Agreement(
        positions=len(difference),
        max_logprob_diff=float(difference.max()),
        mean_logprob_diff=float(difference.mean()),
        top1=float((before_top == after_top).double().mean()),
    )


def noise(merged: Path, rows: Sequence[Row]) -> float:
    """The largest difference of a reference token's log-probability, in nats, between two batchings of one model.

    The same measurement as ``compare``, with only the assignment of prompts to batches changed, and so the padding and
    the order in which numbers are added. Raises MergeRefused as ``compare``.
    """
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(merged), _loaded(merged)
    examples = [encode(tokenizer, row) for row in rows]
    sizes = (_BATCH, *_OTHER_BATCHES)
    with tqdm(total=len(sizes) * len(examples), unit="prompt", desc="log-probabilities") as bar:
        found = [_scored(lambda: model, examples, _pad(tokenizer), bar, size)[0] for size in sizes]
    together = torch.stack(found)
    _hold_finite(together)
    return float((together.max(0).values - together.min(0).values).max())


def encode(tokenizer: Any, row: Row) -> Example:
    """Render a row through the chat template; the answer ends with the first end-of-turn token."""
    messages = [message.model_dump() for message in row.messages]
    answer = [{"role": "assistant", "content": row.reference}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(messages + answer, return_dict=False)
    if ids[: len(prompt)] != prompt or len(ids) == len(prompt):
        raise MergeRefused(
            f"row {row.id}: the chat template does not continue the prompt with the answer",
            "use a template that renders the prompt alike with and without its answer",
        )
    start = len(prompt)
    if tokenizer.eos_token_id in ids[start:]:
        ids = ids[: ids.index(tokenizer.eos_token_id, start) + 1]
    return Example(ids, start)


def _scored(
    load: Callable[[], torch.nn.Module], examples: Sequence[Example], pad: int, bar: "tqdm[Any]", batch: int = _BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (float64) and most likely tokens at the answers' positions, in the order of the examples."""
    model = load()
    logprobs, tops = [], []
    with torch.inference_mode():
        for logits, targets in _batches(model, examples, pad, bar, batch):
            logprobs.append(logits.double().log_softmax(-1).gather(-1, targets[:, None])[:, 0])
            tops.append(logits.argmax(-1))
    del model
    gc.collect()  # the second model loads into the first one's memory
    return torch.cat(logprobs).cpu(), torch.cat(tops).cpu()


def _batches(
    model: Any, examples: Sequence[Example], pad: int, bar: "tqdm[Any]", size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield logits ``[tokens, vocabulary]`` and target ids ``[tokens]`` of the answers, example by example."""
    for first in range(0, len(examples), size):
        batch = examples[first : first + size]
        width = max(len(example.ids) for example in batch)
        start = min(example.start for example in batch)
        ids = torch.tensor([example.ids + [pad] * (width - len(example.ids)) for example in batch])
        mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in batch])
        keep = torch.arange(start - 1, width - 1, device=model.device)
        logits = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), logits_to_keep=keep, use_cache=False
        ).logits
        for row, example in enumerate(batch):
            targets = torch.tensor(example.ids[example.start :], device=model.device)
            offset = example.start - start
            yield logits[row, offset : offset + len(targets)], targets
        bar.update(len(batch))


def _pad(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def _hold_finite(values: torch.Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise MergeRefused("a log-probability is not finite", "train with a lower train.learning_rate")


def _loaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    if lacking := sorted(loading["missing_keys"]):  # transformers would fill them with random numbers
        raise MergeRefused(
            f"{folder.name}: {len(lacking)} weights are missing: {lacking[0]}", "run `./lockstep run fetch`"
        )
    loaded: torch.nn.Module = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return loaded


def _with_adapter(base: Path, adapter: Path) -> torch.nn.Module:
    from peft import PeftModel

    model: torch.nn.Module = PeftModel.from_pretrained(_loaded(base), str(adapter), local_files_only=True)
    return model.eval()
