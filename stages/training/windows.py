"""Documents as windows of tokens: what ``train.method: cpt`` learns from, and what validate counts.

The model's own tokenizer encodes a document, with the tokens that it puts around a text, and the end-of-sequence token
follows. No window has tokens of two documents. A window begins with the last token of the window before it, which has
no loss there. So each token but the first of a document has a loss exactly once.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_BATCH = 256  # documents that are encoded at once


def encoded(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The token ids of each text; ``tokenizer`` is one of transformers.

    What looks like a special token in a text is encoded as plain text: a document cannot end itself, or begin a turn.
    """
    end = tokenizer.eos_token_id
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        for ids in tokenizer(batch, split_special_tokens=True, verbose=False)["input_ids"]:
            yield ids if ids[-1:] == [end] else [*ids, end]


def cut(documents: Iterable[Sequence[int]], length: int) -> Iterator[dict[str, list[int]]]:
    """The windows of each document, of at most ``length`` tokens, with labels: -100 for a token without a loss."""
    for ids in documents:
        for start in range(0, len(ids) - 1, length - 1):
            window = list(ids[start : start + length])
            yield {"input_ids": window, "labels": [-100, *window[1:]]}
