"""Vectors of texts by an encoder: what dense retrieval of suites of kind ``rag`` compares.

Each text is encoded alone, on a CPU by one thread, and several at a time: neither other texts, nor the number of cores,
nor how busy they are changes a vector.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tqdm import tqdm

from checks import imports
from checks.errors import EvaluationRefused
from checks.retriever_kind import Pooling
from stages.weights.threads import one_thread

_LANES = 4  # texts encoded at a time on a CPU, at most


def embed(folder: Path, texts: Sequence[str], pooling: Pooling, most: int | None, where: str) -> NDArray[np.float64]:
    """A vector of length 1 for each text, of shape (texts, width), by the encoder in ``folder`` in float32.

    ``pooling``: it is the mean of its tokens' vectors, or the first one's. ``most``: tokens of a text that count, None:
    all. ``where`` names the encoder in a refusal.

    Raises EvaluationRefused when it does not load, or a text is too long.
    """
    with imports.uncollected():
        from transformers import AutoModel, AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.replace(str(folder), "the folder")
        raise EvaluationRefused(
            f"{where}: does not load: {reason}", "pin an encoder's folder, in safetensors"
        ) from error
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    cut: dict[str, Any] = {"truncation": True, "max_length": most} if most else {}
    asked = [tokenizer(text, verbose=False, **cut)["input_ids"] for text in texts]
    room = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", tokenizer.model_max_length))
    if long := next(((text, ids) for text, ids in zip(texts, asked, strict=True) if len(ids) > room), None):
        raise EvaluationRefused(
            f"{where}: {long[0][:40]!r}… has {len(long[1])} tokens, and the encoder holds {room}",
            "lower chunker.words, or set max_tokens",
        )
    lanes = min(torch.get_num_threads(), _LANES) if model.device.type == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(lanes) as pool:
        found = pool.map(lambda ids: _vector(model, ids, pooling), asked)
        return np.stack(list(tqdm(found, "encode", len(asked), unit="text", disable=None)))


@torch.inference_mode()  # of each thread for itself
def _vector(model: Any, ids: Sequence[int], pooling: Pooling) -> NDArray[np.float64]:
    states = model(input_ids=torch.tensor([ids], device=model.device)).last_hidden_state[0].double()
    vector = states.mean(0) if pooling == "mean" else states[0]
    return np.asarray((vector / vector.norm()).cpu().numpy())
