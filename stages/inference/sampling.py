"""Draws a token of each row from its own distribution, with random numbers that no other row changes."""

from collections.abc import Sequence
from typing import Any

import torch

from checks.formats.decoding import Decoding, uniform

# So many tokens mostly reach top_p, and all of a large vocabulary take long to sort.
_FEW = 256


def choose(logits: Any, decoding: Decoding, streams: Sequence[str], place: int) -> Any:
    """Return a token id for each row of ``logits`` (rows, vocabulary), by the inverse of its distribution function.

    ``streams`` names each row's random numbers, and ``place`` is the token's place in the answer. The order is that of
    the ids, and tokens as likely as the last one within ``top_p`` count too: nothing depends on how ties are sorted.
    """
    chances = (logits.double() / decoding.temperature).softmax(dim=-1)
    if decoding.top_p < 1:
        chances = chances.where(chances >= _least(chances, decoding.top_p), 0.0)
    upto = chances.cumsum(dim=-1)
    numbers = [[uniform(stream, place)] for stream in streams]
    drawn = torch.tensor(numbers, dtype=upto.dtype, device=upto.device) * upto[:, -1:]
    return torch.searchsorted(upto, drawn, right=True)[:, 0]


def _least(chances: Any, top_p: float) -> Any:
    """Return the smallest chance of a token within ``top_p``, for each row."""
    few = chances.topk(min(_FEW, chances.shape[-1])).values
    least = _last_within(few, top_p)
    short = few.sum(dim=-1) < top_p
    if bool(short.any()):
        least[short] = _last_within(chances[short].sort(descending=True).values, top_p)
    return least


def _last_within(likely: Any, top_p: float) -> Any:
    within = (likely.cumsum(dim=-1) < top_p).sum(dim=-1, keepdim=True)
    return likely.gather(-1, within.clamp(max=likely.shape[-1] - 1))
