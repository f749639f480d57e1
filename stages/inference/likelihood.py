"""How likely given answers are after a chat prompt: the nats of each of their tokens, teacher-forced.

In:  a model's directory; chats, each with one or more answers.
Out: minus the log-probability of each token of each answer, the token that ends it included: the tokens that training
     would learn. Their sum is minus the log-likelihood of the answer.

The tokens with which all answers to one chat begin are read once. Each chat is computed alone, on a CPU by one thread,
and several at a time: neither other chats nor the number of cores changes a figure.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers.cache_utils import DynamicCache

from checks.kinds.suite import Answered
from checks.process.errors import EvaluationRefused
from stages.inference import generate
from stages.threads import lanes

_LOGITS = 1 << 24  # numbers in the logits of a batch of answers
Tokens = tuple[int, ...]


def nats(
    folder: Path, precision: str, asked: Sequence[Answered], label: str
) -> list[list[list[float]]]:
    """For each chat and each of its answers the nats of each token, by the model in ``folder``.

    ``precision``: of the weights; logits become float32. Raises EvaluationRefused when the model does not load, cannot
    be asked a chat, or gives a log-probability that is not finite.
    """
    model, tokenizer = generate.load(folder, precision)
    if tokenizer.chat_template is None:
        raise EvaluationRefused(
            f"{folder}: the model has no chat template", "set base.uri to an Instruct model"
        )
    ends = generate.end_tokens(model, tokenizer)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", float("inf"))

    def of_chat(chat: Answered) -> list[list[float]]:
        start, answers = _tokens(tokenizer, chat, ends)
        if (longest := max(map(len, answers))) > room:
            raise EvaluationRefused(
                f"{_shown(chat)}: {longest} tokens with its answer, and the model reads {room}",
                "shorten it",
            )
        return _nats(model, start, answers)

    with lanes(model) as pool:
        scored = pool.map(of_chat, asked)
        return list(tqdm(scored, label, len(asked), unit="chat", disable=None))


def _tokens(tokenizer: Any, chat: Answered, ends: frozenset[int]) -> tuple[int, list[Tokens]]:
    """How many tokens the prompt has, and the tokens of prompt and answer together, for each answer."""
    turns = [message.model_dump() for message in chat.messages]
    whole = [[*turns, {"role": "assistant", "content": answer}] for answer in chat.answers]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    pieces, start = [], len(prompt)
    for ids in tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False):
        if ids[:start] != prompt or len(ids) == start:
            raise EvaluationRefused(
                f"{_shown(chat)}: the chat template does not continue the prompt with the answer",
                "use a template that renders the prompt alike with and without its answer",
            )
        stop = next((place for place in range(start, len(ids)) if ids[place] in ends), len(ids) - 1)
        pieces.append(tuple(ids[: stop + 1]))
    return start, pieces


def _shown(chat: Answered) -> str:
    return f"the chat that ends with {chat.messages[-1].content[:60]!r}"


@torch.inference_mode()  # Each thread has this mode for itself.
def _nats(model: Any, start: int, answers: Sequence[Tokens]) -> list[list[float]]:
    """Of the tokens from ``start`` on, which all answers reach."""
    shared = max(start, generate.shared_prefix(answers))
    cache = DynamicCache(config=model.config)
    logits = _logits(model, [answers[0][:shared]], cache)[0, start - 1 :].float()
    begin = [] if shared == start else _of(logits[:-1][None], [answers[0][start:shared]])[0]
    size = max(1, _LOGITS // (logits.shape[-1] * (max(map(len, answers)) - shared)))
    nats_of_answers = list[list[float]]()
    for first in range(0, len(answers), size):
        batch = [answer[shared:] for answer in answers[first : first + size]]
        after = logits[-1].expand(len(batch), 1, -1)
        if (width := max(map(len, batch))) > 1:
            inputs = [own[:-1] + (0,) * (width - len(own)) for own in batch]
            more = copy.deepcopy(cache)
            more.batch_repeat_interleave(len(batch))
            after = torch.cat([after, _logits(model, inputs, more).float()], dim=1)
        nats_of_answers += [begin + own for own in _of(after, batch)]
    return nats_of_answers


def _logits(model: Any, ids: Sequence[Tokens], cache: Any) -> Any:
    """Logits after each token, of shape (rows, tokens, vocabulary). Shorter rows are padded at their end."""
    known = cache.get_seq_length()
    tokens = torch.tensor(ids, device=model.device)
    places = torch.arange(known, known + tokens.shape[1], device=model.device).expand(tokens.shape)
    return model(
        input_ids=tokens, position_ids=places, use_cache=True, **generate.cached(model, cache)
    ).logits


def _of(logits: Any, targets: Sequence[Tokens]) -> list[list[float]]:
    """Nats of each row's targets, one after each logit; padding after a row is left out."""
    width = logits.shape[1]
    padded = torch.tensor(
        [row + (0,) * (width - len(row)) for row in targets], device=logits.device
    )
    losses = cross_entropy(logits.transpose(1, 2), padded, reduction="none").tolist()
    cut = [row[: len(own)] for row, own in zip(losses, targets, strict=True)]
    if not all(value < float("inf") for row in cut for value in row):  # NaN fails this, too
        raise EvaluationRefused(
            "a log-probability is not finite", "train with a lower train.learning_rate"
        )
    return cut
