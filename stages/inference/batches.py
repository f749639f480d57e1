"""Which prompts are computed together, and what they give.

The answers of a batch depend on its prompts and on how many first tokens are read before, and on no other batch.

* By length: as many prompts of like length as there is room for. One prompt more moves the border of every batch behind
  it, and so changes nearly all of them.
* Stable: prompts by length too, but what does not fit into one batch is parted before the prompt with the smallest
  digest, and so on. The borders follow from the prompts alone, as in a treap (Aragon and Seidel, "Randomized Search
  Trees", 1989), so that one prompt more changes one or two batches. They hold about half as many prompts.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

# Tokens whose keys and values a batch holds, for each prompt token that it may read at a time.
_HELD = 16

Prompt = tuple[int, ...]


class Asked(NamedTuple):
    """A prompt, and the name of the random numbers that its answer is drawn with; empty: the most likely tokens."""

    tokens: Prompt
    stream: str = ""


class Answer(NamedTuple):
    """New tokens, without the one that ended them; seconds from the start of the row's batch to its last token."""

    tokens: tuple[int, ...]
    seconds: float


class Kept(Protocol):
    """Answers of whole batches, from before. ``prefix``: tokens that all prompts begin with, read before."""

    def get(self, prefix: int, batch: Sequence[Asked]) -> list[Answer] | None:
        """An answer for each prompt; None if the batch was not answered before."""

    def keep(self, prefix: int, batch: Sequence[Asked], answers: Sequence[Answer]) -> None:
        """Keep an answer for each prompt."""


def cut(
    prompts: Sequence[Asked], prefix: int, new: int, room: int, stable: bool
) -> Iterator[Sequence[Asked]]:
    """``prompts``, distinct and longest first, in batches that read ``room`` tokens, or of one prompt.

    A batch holds ``_HELD`` times as many tokens. ``prefix``: tokens that are read before. ``new``: tokens of an answer.
    """
    ranks = (
        [hashlib.sha256((json.dumps(p.tokens) + p.stream).encode()).digest() for p in prompts]
        if stable
        else []
    )
    parts = [(0, len(prompts))] if prompts else []
    while parts:
        begin, end = parts.pop()
        longest = len(prompts[begin].tokens)
        count = max(1, min(room // (longest - prefix), room * _HELD // (longest + new)))
        if end - begin <= count:
            yield prompts[begin:end]
        elif stable:
            border = min(range(begin + 1, end), key=ranks.__getitem__)
            parts += [(border, end), (begin, border)]
        else:
            yield prompts[begin : begin + count]
            parts.append((begin + count, end))
