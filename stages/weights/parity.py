"""Parity: compares the merged model with base + adapter, token by token, on real prompts.

The base is the one that was merged into: dequantised if training quantised it, unless ``merge.base`` is original. After
full fine-tuning the base with its trained weights stands for base + adapter, and computes as in training.
The distance of the merged model to base + adapter in 4 bits is measured too.

All models get the same prompts with their reference answers (teacher forcing), one model after the other, in the
base's dtype. The log-probabilities of every reference token, end of turn included, are compared.
"""

import gc
import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from checks.formats import thinking
from checks.formats.training_reports import QuantisedBase
from checks.process.errors import MergeRefused
from checks.records.rows import Row
from stages import cpu_arithmetic
from stages.inference import shipped_adapter
from stages.inference.unpacking import unpacked
from stages.weights import nf4, whole

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


class Scores(NamedTuple):
    """At each position: the reference token's log-probability, and the most likely token."""

    logprobs: torch.Tensor
    top: torch.Tensor


def compare(
    base: Path,
    adapter: Path,
    merged: Path,
    rows: Sequence[Row],
    trained: QuantisedBase | None,
    dequantise: bool,
) -> tuple[Agreement, Agreement | None]:
    """Compare base + adapter, unmerged as PEFT runs it, with the model in ``merged`` on ``rows``.

    ``trained`` is the quantised base that the adapter was trained on, ``dequantise`` whether that is what it was merged
    into. The second value compares the model in 4 bits with ``merged``; None without ``trained``. Raises MergeRefused
    if a model lacks a weight or computes a value that is not finite.
    """
    if trained:
        nf4.library()
    importlib.import_module("peft")

    def unmerged() -> torch.nn.Module:
        return _with_adapter(
            _dequantised(base, trained) if trained and dequantise else _loaded(base), adapter
        )

    loads: list[Callable[[], torch.nn.Module]] = [unmerged, partial(_loaded, merged)]
    if trained:
        loads.append(lambda: _with_adapter(_quantised(base, trained), adapter))
    before, after, *in_4_bits = _each_scored(base, rows, loads, "parity")
    return _agreement(before, after), _agreement(in_4_bits[0], after) if trained else None


def _agreement(one: Scores, other: Scores) -> Agreement:
    difference = (one.logprobs - other.logprobs).abs()
    _hold_finite(difference)
    return Agreement(
        positions=len(difference),
        max_logprob_diff=float(difference.max()),
        mean_logprob_diff=float(difference.mean()),
        top1=float((one.top == other.top).double().mean()),
    )


def distance(full: Path, quantised: Path, rows: Sequence[Row]) -> Agreement:
    """How far the export in ``quantised`` is from the 16-bit model in ``full``, on ``rows``.

    Raises MergeRefused as ``compare``.
    """
    loads = [partial(_loaded, full), partial(_loaded, quantised)]
    return _agreement(*_each_scored(full, rows, loads, "parity of the export"))


def from_merged(shipped: Path, rows: Sequence[Row]) -> Agreement:
    """Return how far the base and adapter in ``shipped`` are from the adapter merged into the weights, on ``rows``.

    Raises MergeRefused as ``compare``.
    """
    loads = [
        lambda: _loaded(shipped),
        lambda: shipped_adapter.merge_in_memory(_loaded(shipped)),
    ]
    return _agreement(*_each_scored(shipped, rows, loads, "parity with merged weights"))


def noise(merged: Path, rows: Sequence[Row]) -> float:
    """The largest difference of a reference token's log-probability, in nats, between two batchings of one model.

    The same measurement as ``compare``, with only the assignment of prompts to batches changed, and so the padding and
    the order in which numbers are added. Raises MergeRefused as ``compare``.
    """
    model = _loaded(merged)
    sizes = (_BATCH, *_OTHER_BATCHES)
    loads = [lambda: model] * len(sizes)
    scores = _each_scored(merged, rows, loads, "log-probabilities", sizes)
    together = torch.stack([score.logprobs for score in scores])
    _hold_finite(together)
    return float((together.max(0).values - together.min(0).values).max())


def _each_scored(
    folder: Path,
    rows: Sequence[Row],
    loads: Sequence[Callable[[], torch.nn.Module]],
    what: str,
    batches: Sequence[int] = (),
) -> list[Scores]:
    """Score the answers of ``rows``, rendered by the tokenizer in ``folder``, with one model after the other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = [encode(tokenizer, row) for row in rows]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    with tqdm(total=len(loads) * len(examples), unit="prompt", desc=what) as bar:
        return [
            _scored(load, examples, pad, bar, batch)
            for load, batch in zip(loads, batches or [_BATCH] * len(loads), strict=True)
        ]


def encode(tokenizer: Any, row: Row) -> Example:
    """Render a row through the chat template; the answer ends with the first end-of-turn token.

    A model that is asked not to think has an answer without a thought.
    """
    marked = thinking.of_model(Path(tokenizer.name_or_path))
    if marked and marked.mode == "never":
        row = row.model_copy(update={"reference": thinking.answer_in(row.reference, marked)})
    messages = [message.model_dump() for message in row.messages]
    answer = [row.answer.model_dump()]
    prompt = tokenizer.apply_chat_template(
        messages, tools=row.schemas, add_generation_prompt=True, return_dict=False
    )
    ids = tokenizer.apply_chat_template(messages + answer, tools=row.schemas, return_dict=False)
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
    load: Callable[[], torch.nn.Module],
    examples: Sequence[Example],
    pad: int,
    bar: "tqdm[Any]",
    batch: int,
) -> Scores:
    """Log-probabilities (float64) and most likely tokens at the answers' positions, in the order of the examples."""
    model = load()
    logprobs, tops = [], []
    with torch.inference_mode():
        for logits, targets in _batches(model, examples, pad, bar, batch):
            logprobs.append(logits.double().log_softmax(-1).gather(-1, targets[:, None])[:, 0])
            tops.append(logits.argmax(-1))
    del model
    gc.collect()  # the second model loads into the first one's memory
    return Scores(torch.cat(logprobs).cpu(), torch.cat(tops).cpu())


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
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_to_keep=keep,
            use_cache=False,
        ).logits
        for row, example in enumerate(batch):
            targets = torch.tensor(example.ids[example.start :], device=model.device)
            offset = example.start - start
            yield logits[row, offset : offset + len(targets)], targets
        bar.update(len(batch))


def _hold_finite(values: torch.Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise MergeRefused(
            "a log-probability is not finite", "train with a lower train.learning_rate"
        )


def _loaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    cpu_arithmetic.use()
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    # transformers would fill missing weights with random numbers.
    if lacking := sorted(loading["missing_keys"]):
        raise MergeRefused(
            f"{folder.name}: {len(lacking)} weights are missing: {lacking[0]}",
            "run `./lockstep run fetch`",
        )
    placed = shipped_adapter.added(unpacked(model), folder).to(
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    loaded: torch.nn.Module = placed.eval()
    return loaded


def _dequantised(base: Path, trained: QuantisedBase) -> torch.nn.Module:
    model = _loaded(base)
    for name in trained.tensors:
        weight = model.get_parameter(name).data
        weight.copy_(nf4.dequantised(name, weight, trained))
    return model


def _quantised(base: Path, trained: QuantisedBase) -> torch.nn.Module:
    model: torch.nn.Module = nf4.load(base, trained.quantised, trained.quantised.precision)[0]
    return model.eval()


def _with_adapter(base: torch.nn.Module, adapter: Path) -> torch.nn.Module:
    if (adapter / whole.WEIGHTS).exists():
        whole.put(base, load_file(adapter / whole.WEIGHTS))
        return base
    from peft import PeftModel

    model: torch.nn.Module = PeftModel.from_pretrained(base, str(adapter), local_files_only=True)
    return model.eval()
