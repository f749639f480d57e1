"""What each forward pass computes, so that many prompts are answered with few tokens: continuous batching over a tree.

In:  a model whose attention is taken over (flat_attention), prompts as token ids, sorted.
Out: per prompt the new tokens and the seconds they took.

A pass takes one token of every row that is being answered, and reads further prompts beside them (Orca,
https://www.usenix.org/conference/osdi22/presentation/yu). A prompt that begins as the one before it is read from where
they part (a radix tree, as in SGLang, https://arxiv.org/abs/2312.07104): in sorted order that is all there is to share.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache

from stages.inference.flat_attention import Flat, Foreign, Query, Slots

# Slots for each token of batch_tokens.
_HELD = 16

# How far logits may be apart, as a share of their spread. Measured on SmolLM2-135M in bf16: by rounding 0.02; where the
# last of 36 tokens does not see the first six, 0.18.
_ALIKE = 0.1

Prompt = tuple[int, ...]


class Answer(NamedTuple):
    """New tokens, without the one that ended them; seconds from when the prompt's turn came to its last token."""

    tokens: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Settings:
    """``ends``: token ids that end an answer. ``batch_tokens``: prompt tokens of one pass, or one prompt's."""

    ends: frozenset[int]
    max_new_tokens: int
    batch_tokens: int

    @property
    def capacity(self) -> int:
        """Slots that a lane takes at a time beside its copy of the prefix, unless one row alone needs more."""
        return self.batch_tokens * _HELD


class Witness(NamedTuple):
    """A prompt, and logits of its first new tokens as the model's own attention gives them, each (vocabulary,)."""

    prompt: Prompt
    logits: tuple[torch.Tensor, ...]

    def hold(self, new: Sequence[int], found: torch.Tensor) -> None:
        """Raise Foreign when logits after the prompt and its tokens ``new`` differ by more than rounding explains.

        Nothing is compared behind a token that the two chose otherwise, as in a near-tie.
        """
        if len(new) < len(self.logits) and [int(own.argmax()) for own in self.logits[: len(new)]] == new:
            # What is added to all logits alike changes nothing.
            own, found = (logits.float() - logits.float().mean() for logits in (self.logits[len(new)], found))
            apart = float((own - found).norm() / own.norm())
            if not apart <= _ALIKE:
                raise Foreign(f"its attention is another: its logits are {apart:.0%} apart from those of its own")


@dataclass
class _Row:
    """One prompt under way: the slots of its first ``known`` tokens, then those of its answer."""

    prompt: Prompt
    slots: torch.Tensor
    known: int
    started: float
    new: list[int] = field(default_factory=list)

    def place(self, first: int, count: int) -> torch.Tensor:
        """Let the next tokens have the slots from ``first`` on; returns the slots of all so far."""
        self.slots[self.known : self.known + count] = torch.arange(first, first + count)
        self.known += count
        return self.slots[: self.known]


class _Pass:
    """The tokens of one forward pass, row after row; their keys and values go to the slots from ``first`` on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.queries: list[Query] = []
        self.rows: list[_Row] = []
        self.last: list[int] = []  # of each row, its last token in the pass

    def add(self, row: _Row, tokens: Sequence[int]) -> None:
        """The row's next tokens."""
        begin, size = len(self.ids), len(tokens)
        self.positions += range(row.known, row.known + size)
        self.queries.append(Query(begin, size, row.place(self.first + begin, size)))
        self.ids += tokens
        self.rows.append(row)
        self.last.append(len(self.ids) - 1)


class Engine:
    """One model, and the tokens with which all of ``prompts`` begin, read once. Lanes may ``run`` it at a time.

    Raises Foreign as soon as the model turns out to attend otherwise than flat_attention does.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Prompt], settings: Settings, witness: Witness | None = None
    ) -> None:
        self.model, self.settings, self.witness = model, settings, witness
        self.prefix = shared_prefix(prompts)
        self._prefix_slots = Slots(self.prefix)
        self._layers = len(DynamicCache(config=model.config).layers)
        if self.prefix:
            step, row = _Pass(0), self._row(prompts[0][: self.prefix], 0)
            step.add(row, row.prompt)
            self._logits(step, self._prefix_slots)

    @torch.inference_mode()  # of each thread for itself
    def run(self, prompts: Sequence[Prompt], done: Callable[[int], object]) -> list[tuple[Prompt, Answer]]:
        """Prompts, sorted and distinct, with their answers; ``done`` is told how many rows each pass has ended."""
        alike = [self.prefix, *(_alike(*pair) for pair in pairwise(prompts))][: len(prompts)]
        needs = [len(p) - a + self.settings.max_new_tokens - 1 for p, a in zip(prompts, alike, strict=True)]
        found = list[tuple[Prompt, Answer]]()
        for begin, end in self._spans(needs, alike):
            found += self._answered(prompts[begin:end], [self.prefix, *alike[begin + 1 : end]], done)
        return found

    def _spans(self, needs: Sequence[int], alike: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Rows [begin, end) whose slots fit; the first of them shares nothing but the prefix."""
        begin, held = 0, 0
        for place, need in enumerate(needs):
            if place > begin and held + need > self.settings.capacity:
                yield begin, place
                begin, held = place, 0
            held += need + (alike[place] - self.prefix if place == begin else 0)
        if needs:
            yield begin, len(needs)

    def _answered(
        self, prompts: Sequence[Prompt], alike: Sequence[int], done: Callable[[int], object]
    ) -> Iterator[tuple[Prompt, Answer]]:
        """Answers of one span, as they end."""
        new = self.settings.max_new_tokens
        used = self.prefix
        slots = Slots(used + sum(len(p) - a + new - 1 for p, a in zip(prompts, alike, strict=True)), self._prefix_slots)
        waiting, before, answering = deque(zip(prompts, alike, strict=True)), None, list[_Row]()
        while waiting or answering:
            step, read = _Pass(used), 0
            for row in answering:
                step.add(row, row.new[-1:])
            while waiting and (not read or read + len(waiting[0][0]) - waiting[0][1] <= self.settings.batch_tokens):
                prompt, shared = waiting.popleft()
                before = self._row(prompt, shared, before)
                step.add(before, prompt[shared:])
                read += len(prompt) - shared
            used += len(step.ids)
            answering = []
            logits = self._logits(step, slots)
            best, chosen = logits.max(dim=-1)
            if not bool(torch.isfinite(best).all()):
                raise Foreign("logits are not finite")
            for row, token, found in zip(step.rows, chosen.tolist(), logits, strict=True):
                if self.witness and row.prompt == self.witness.prompt:
                    self.witness.hold(row.new, found)
                ended = token in self.settings.ends
                if not ended:
                    row.new.append(token)
                if ended or len(row.new) == new:
                    yield row.prompt, Answer(tuple(row.new), time.perf_counter() - row.started)
                else:
                    answering.append(row)
            done(len(step.rows) - len(answering))

    def _row(self, prompt: Prompt, shared: int, before: _Row | None = None) -> _Row:
        """A row that begins with ``shared`` tokens of the row before it, or with the prefix."""
        slots = torch.zeros(len(prompt) + self.settings.max_new_tokens - 1, dtype=torch.long)
        slots[:shared] = before.slots[:shared] if before else torch.arange(shared)
        return _Row(prompt, slots, shared, time.perf_counter())

    def _logits(self, step: _Pass, slots: Slots) -> torch.Tensor:
        """Logits of each row's next token, shape (rows, vocabulary)."""
        device = self.model.device
        flat = Flat(slots, step.first, len(step.ids), step.queries, device)
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([step.ids], device=device),
            position_ids=torch.tensor([step.positions], device=device),
            logits_to_keep=torch.tensor(step.last, device=device),
            use_cache=False,
            flat=flat,
        ).logits[0]
        if len(flat.seen) != self._layers:
            raise Foreign(f"{len(flat.seen)} of its {self._layers} layers attend")
        return logits


def shared_prefix(prompts: Sequence[Prompt]) -> int:
    """Tokens with which all begin; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    return min(_alike(min(prompts), max(prompts)), min(map(len, prompts)) - 1)


def shares(prompts: Sequence[Prompt], count: int, prefix: int, new: int) -> list[Sequence[Prompt]]:
    """Sorted prompts in ``count`` runs that have about as many tokens to compute each; none is empty.

    ``prefix``: tokens that are read already. ``new``: of an answer.
    """
    alike = [prefix, *(_alike(*pair) for pair in pairwise(prompts))]
    own = [len(prompt) - shared + new for prompt, shared in zip(prompts, alike, strict=False)]
    total, so_far, cuts = sum(own), 0, [0]
    for place, tokens in enumerate(own):
        left, rest = count - len(cuts), len(prompts) - place
        if place > cuts[-1] and left and (so_far >= total * len(cuts) / count or rest == left):
            cuts.append(place)
        so_far += tokens
    return [prompts[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(prompts)], strict=True)]


def _alike(one: Prompt, other: Prompt) -> int:
    """Tokens with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
