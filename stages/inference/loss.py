"""How many nats a causal language model needs for a text: minus the sum of its tokens' log-probabilities.

A text is read alone and without a chat template, after the token that begins a document (where the tokenizer has none:
the one that ends a text), so that each of its tokens counts. A text longer than a window is read in windows, each after
the last token of the one before. So does the rolling log-likelihood of EleutherAI's lm-evaluation-harness.

Each window is computed alone, on a CPU by one thread, and several at a time: neither other texts, nor the number of
cores, nor how busy they are changes a sum.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from checks.process.errors import EvaluationRefused
from stages.inference import generate
from stages.threads import lanes

_WINDOW = 1024  # tokens read at a time, at most; the logits of each are in memory


def nats(folder: Path, precision: str, texts: Sequence[str], label: str) -> list[float]:
    """Minus the log-likelihood of each text, in nats, by the model in ``folder``, with weights in ``precision``.

    Logits become float32 and sums float64, whatever the precision. Raises EvaluationRefused when the model does not
    load, when its tokenizer has no token to begin with, or when a log-probability is not finite.
    """
    model, tokenizer = generate.load(folder, precision)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise EvaluationRefused(
            f"{folder}: its tokenizer has no token that begins or ends a text", "add one to it"
        )
    size = min(_WINDOW, getattr(model.config.get_text_config(), "max_position_embeddings", _WINDOW))
    windows = list[tuple[int, list[int]]]()
    for number, text in enumerate(texts):
        ids = [begin, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        windows += [
            (number, ids[first : first + size + 1]) for first in range(0, len(ids) - 1, size)
        ]
    with lanes(model) as pool:
        scored = pool.map(lambda window: _nats(model, window[1]), windows)
        sums = [0.0] * len(texts)
        for (number, _), nats_of_window in tqdm(
            zip(windows, scored, strict=True), label, len(windows), unit="text", disable=None
        ):
            sums[number] += nats_of_window
    return sums


@torch.inference_mode()  # Each thread has this mode for itself.
def _nats(model: Any, ids: Sequence[int]) -> float:
    """Of all tokens but the first, which they follow."""
    tokens = torch.tensor([ids], device=model.device)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    total = float(
        torch.nn.functional.cross_entropy(logits.float(), tokens[0, 1:], reduction="none")
        .double()
        .sum()
    )
    if not total < float("inf"):  # NaN fails this, too
        raise EvaluationRefused(
            "a log-probability is not finite", "train with a lower train.learning_rate"
        )
    return total
