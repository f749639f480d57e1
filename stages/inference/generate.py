"""Greedy generation for many short prompts: the tokens of one-row-at-a-time ``model.generate``, sooner.

In: a transformers causal language model with a key-value cache, prompts as token ids.
Out: per prompt the new tokens and the seconds they took.

Where the time goes, and what is done about it:

* The tokens with which every prompt begins (system message, template) are computed once.
* Prompts are read in batches bounded by tokens and cut where padding would cost more than one batch more.
* They are answered in far larger batches, which a row leaves when it has ended.
* Identical prompts are computed once.
* On a CPU the rows are shared out to lanes, each a thread that computes by itself: threads that compute one tensor
  together wait for one another at every operation, and many operations are too small to be shared.
* Keys and values are written into room taken beforehand; nothing grows by copying.
* Logits are made for the last position alone.
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from checks.errors import EvaluationRefused
from stages.inference.kv_room import Room

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Keys and values that may be held at a time, prefix and answers included, for each token of batch_tokens.
_CACHED = 16

# What one batch more costs: when prompts are read, in prompt tokens; when they are answered, in held columns.
# Measured on a CPU with a model of 135 million parameters; a wrong value costs time, never an answer.
_READ_COST, _HOLD_COST = 64, 8192

# Lanes at most: each reads all weights at every step, and answers fewer rows with them.
_LANES = 4


@dataclass(frozen=True)
class Answer:
    """New tokens, without the one that ended them; seconds from the start of the row's batch to its last token."""

    tokens: tuple[int, ...]
    seconds: float


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
        raise EvaluationRefused(f"{folder}: does not load: {reason}", "run `dvc repro` to make it again") from error
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
    at a time, by all lanes together, padding included; the shared prefix, which is read once, does not count. Returns
    one answer per prompt, in order.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    distinct = sorted({tuple(prompt) for prompt in prompts}, key=lambda prompt: (-len(prompt), prompt))
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    lanes = max(1, min(threads, _LANES, len(distinct)))
    with tqdm(total=len(distinct), desc=label, unit="row", disable=None) as bar:
        engine = _Engine(model, distinct, ends, max_new_tokens, max(1, batch_tokens // lanes))
        # Dealt out in turn: every lane gets prompts of all lengths, and has as much to do.
        shares = [distinct[lane::lanes] for lane in range(lanes)]
        with _threads(threads // lanes):
            answers = dict(engine.run(distinct, bar.update) if lanes == 1 else _in_lanes(engine, shares, bar))
    return [answers[tuple(prompt)] for prompt in prompts]


class _Stopped(Exception):  # noqa: N818 - no error: another lane failed
    """Ends a lane from within."""


def _in_lanes(
    engine: "_Engine", shares: Sequence[Sequence[tuple[int, ...]]], bar: Any
) -> Iterator[tuple[tuple[int, ...], Answer]]:
    """Answer each share in a thread of its own; the first failure, or interrupt, ends the others at a step."""
    stop, lock = threading.Event(), threading.Lock()

    def done(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            bar.update(count)

    with ThreadPoolExecutor(len(shares)) as pool:
        lanes = [pool.submit(engine.run, share, done) for share in shares]
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


class _Engine:
    """One model, and the prefix that all prompts of a run share. ``prompts`` are sorted, the longest first."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        ends: frozenset[int],
        max_new_tokens: int,
        batch_tokens: int,
    ) -> None:
        self.model, self.ends = model, ends
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens
        self.layers: int = model.config.get_text_config().num_hidden_layers
        # The argument's name changed within transformers 5.
        self.cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self.prefix = shared_prefix(prompts)
        if prompts and _window(model) < len(prompts[0]) + max_new_tokens:
            # A window counts columns. Padding between prefix and prompt would push the prefix out of it too soon.
            self.prefix = 0
        self.prefix_layers = [Room(1, self.prefix) for _ in range(self.layers)]
        if self.prefix:
            ids = torch.tensor([prompts[0][: self.prefix]], device=model.device)
            positions = torch.arange(self.prefix, device=model.device)[None]
            self._forward(ids, None, positions, Cache(layers=list(self.prefix_layers)))

    @torch.inference_mode()  # of each thread for itself
    def run(
        self, prompts: Sequence[tuple[int, ...]], done: Callable[[int], object]
    ) -> list[tuple[tuple[int, ...], Answer]]:
        """Prompts, sorted as those of the engine, with their answers; ``done`` as of ``answer``.

        The longest come first: memory runs out at once or never.
        """
        columns = [len(prompt) + self.max_new_tokens for prompt in prompts]
        found: list[tuple[tuple[int, ...], Answer]] = []
        for begin, end in _parts(columns, self.batch_tokens * _CACHED, _HOLD_COST):
            found += zip(prompts[begin:end], self.answer(prompts[begin:end], done), strict=True)
        return found

    def answer(self, batch: Sequence[tuple[int, ...]], done: Callable[[int], object]) -> list[Answer]:
        """Answers of one batch; ``done`` is told how many rows have ended, each time some have."""
        started, device, longest = time.perf_counter(), self.model.device, len(batch[0])
        layers = self._room(len(batch), longest + self.max_new_tokens - 1)
        firsts, seconds = [], []
        for begin, end in _parts([len(prompt) - self.prefix for prompt in batch], self.batch_tokens, _READ_COST):
            firsts.append(self._read(batch[begin:end], layers, begin, longest))
            seconds += [time.perf_counter() - started] * (end - begin)
        for layer in layers:
            layer.show(longest)
        cache, chosen = Cache(layers=list(layers)), torch.cat(firsts)

        lengths = torch.tensor([[len(prompt)] for prompt in batch], device=device)
        seen = self._seen(lengths, longest, longest + self.max_new_tokens)
        padded = len(batch[-1]) < longest
        tokens: list[list[int]] = [[] for _ in batch]
        alive = list(range(len(batch)))
        for step in range(1, self.max_new_tokens + 1):
            going = []
            for place, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
                if token not in self.ends:
                    tokens[row].append(token)
                    going.append(place)
            if step == self.max_new_tokens:
                going = []
            done(len(alive) - len(going))
            if not going:
                break
            if len(going) < len(alive):
                index = torch.tensor(going, device=device)
                chosen, seen, lengths = chosen[index], seen[index], lengths[index]
                cache.batch_select_indices(index)
                alive = [alive[place] for place in going]
            mask = seen[:, : longest + step] if padded else None
            chosen = self._forward(chosen[:, None], mask, lengths + step - 1, cache)
            now = time.perf_counter() - started
            for row in alive:
                seconds[row] = now
        return [Answer(tuple(t), s) for t, s in zip(tokens, seconds, strict=True)]

    def _read(self, part: Sequence[tuple[int, ...]], layers: list[Room], row: int, end: int) -> torch.Tensor:
        """Read prompts into ``layers``: rows from ``row``, columns up to ``end``. Returns their first new tokens."""
        device, longest = self.model.device, len(part[0])
        width = longest - self.prefix
        lengths = torch.tensor([[len(prompt)] for prompt in part], device=device)
        # Padding stands between the prefix and the rest of the prompt; positions count past it.
        ids = torch.tensor([[0] * (longest - len(p)) + list(p[self.prefix :]) for p in part], device=device)
        columns = torch.arange(self.prefix, longest, device=device)
        positions = (columns - (longest - lengths)).clamp(min=0)
        mask = self._seen(lengths, longest, longest) if len(part[-1]) < longest else None
        own = self._room(len(part), longest)
        chosen = self._forward(ids, mask, positions, Cache(layers=list(own)))
        for layer, new in zip(layers, own, strict=True):
            layer.write(new.keys[:, :, self.prefix :], new.values[:, :, self.prefix :], row, end - width)
        return chosen

    def _seen(self, lengths: torch.Tensor, longest: int, columns: int) -> torch.Tensor:
        """Which columns hold tokens, shape (rows, columns): all but the padding after the prefix."""
        index = torch.arange(columns, device=lengths.device)
        return (index < self.prefix) | (index >= self.prefix + longest - lengths)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Most likely next token of each row, shape (rows,)."""
        known = {self.cache_name: cache, "attention_mask": mask, "position_ids": positions}
        logits = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **known).logits
        return logits[:, -1].argmax(dim=-1)

    def _room(self, rows: int, capacity: int) -> list[Room]:
        """Room for so many rows, which begin with the prefix."""
        layers = [Room(rows, capacity) for _ in range(self.layers)]
        if self.prefix:
            for layer, prefix in zip(layers, self.prefix_layers, strict=True):
                layer.write(prefix.keys.expand(rows, -1, -1, -1), prefix.values.expand(rows, -1, -1, -1), 0, 0)
                layer.show(self.prefix)
        return layers


def _parts(widths: Sequence[int], limit: int, cost: int) -> list[tuple[int, int]]:
    """Cut descending widths into [begin, end) of at most ``limit`` tokens, padding included.

    Of all ways the cheapest, by dynamic programming, where a part costs its tokens and ``cost``.
    """
    best, cut = [0], [0]
    for end in range(1, len(widths) + 1):
        costs = {}
        for begin in range(end - 1, -1, -1):
            padded = widths[begin] * (end - begin)
            if padded > limit and end - begin > 1:
                break
            costs[begin] = best[begin] + padded + cost
        cut.append(min(costs, key=lambda begin: costs[begin]))
        best.append(costs[cut[-1]])
    parts, end = [], len(widths)
    while end:
        parts.append((cut[end], end))
        end = cut[end]
    return parts[::-1]


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens with which all begin; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _window(model: Any) -> float:
    """Columns that the narrowest layer attends to."""
    layers = DynamicCache(config=model.config).layers
    return min((float(layer.sliding_window) for layer in layers if layer.is_sliding), default=float("inf"))
