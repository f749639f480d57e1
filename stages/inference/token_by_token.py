"""Greedy generation of one prompt at a time, with how sure the model was of each token.

What a server is held to: slow, and free of anything that batches could change.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache

from checks.process.errors import EvaluationRefused
from stages.inference.generate import cached


class Step(NamedTuple):
    """A chosen token and the second best; log-probabilities in nats."""

    id: int
    logprob: float
    runner_up: int
    runner_up_logprob: float


@torch.inference_mode()
def answer(
    model: Any,
    prompt: Sequence[int],
    ends: frozenset[int],
    max_new_tokens: int,
    never: frozenset[int] = frozenset(),
) -> list[Step]:
    """The greedy answer to ``prompt`` (token ids), at most ``max_new_tokens`` long, with the token that ended it.

    No token of ``never`` is chosen; log-probabilities are the model's own all the same, as servers report them.
    Raises EvaluationRefused when a log-probability is not finite.
    """
    known = {
        "use_cache": True,
        "logits_to_keep": 1,
        **cached(model, DynamicCache(config=model.config)),
    }
    ids, steps = torch.tensor([list(prompt)], device=model.device), []
    for _ in range(max_new_tokens):
        logprobs = model(input_ids=ids, **known).logits[0, -1].double().log_softmax(-1)
        best = logprobs.topk(2 + len(never))
        if not bool(torch.isfinite(best.values).all()):
            raise EvaluationRefused(
                "a log-probability is not finite", "train with a lower train.learning_rate"
            )
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        (chosen, sure), (second, less) = [pair for pair in pairs if pair[0] not in never][:2]
        steps.append(Step(chosen, round(min(sure, 0.0), 6), second, round(min(less, 0.0), 6)))
        if chosen in ends:
            break
        ids = torch.tensor([[chosen]], device=model.device)
    return steps


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return what each token adds to the text, special tokens left out; joined they are the text.

    A character that several tokens spell belongs to the one that completes it. So does text that a later token changes:
    where tokens are bytes, one byte that fits no character turns those before it into replacement characters.
    """
    parts, sofar = [], ""
    whole = _text(tokenizer, tokens)
    for count in range(1, len(tokens) + 1):
        text = _text(tokenizer, tokens[:count])
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") or not whole.startswith(text)
        if count < len(tokens) and (unfinished or len(text) < len(sofar)):
            text = sofar
        parts.append(text[len(sofar) :])
        sofar = text
    return parts


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(
        tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
