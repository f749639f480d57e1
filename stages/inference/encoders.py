"""Vectors of texts by an encoder, and scores of pairs of texts by a cross-encoder: what suites of kind ``rag`` rank by.

Each text or pair is read alone, on a CPU by one thread, and several at a time: neither other texts, nor the number of
cores, nor how busy they are changes a vector or a score.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tqdm import tqdm

from checks.kinds.retriever import Pooling
from checks.process.errors import EvaluationRefused
from stages import cpu_arithmetic
from stages.threads import lanes

_WAITING = 4096  # texts that wait for a lane: each costs about a kilobyte
_ENCODER, _CROSS_ENCODER = "AutoModel", "AutoModelForSequenceClassification"
# One row for each of the model's inputs. A list of int would take ten times the bytes.
Tokens = Mapping[str, NDArray[np.int32]]


def embed(
    folder: Path, texts: Sequence[str], pooling: Pooling, most: int | None, model_name: str
) -> NDArray[np.float32]:
    """Return a vector of length 1 for each text, of shape (texts, width), by the encoder in ``folder`` in float32.

    ``pooling``: it is the mean of its tokens' vectors, or the first one's. ``most``: tokens of a text that count, None:
    all. ``model_name`` names the encoder in a refusal.

    Raises EvaluationRefused when it does not load, or a text is too long.
    """
    tokenizer, model = _loaded(folder, _ENCODER, model_name)
    asked = _tokens(tokenizer, model, [(text,) for text in texts], most, model_name)
    vectors = np.empty((0, 0), np.float32)
    for place, vector in enumerate(
        _each(lambda ids: _vector(model, ids, pooling), model, asked, "encode")
    ):
        if not len(vectors):
            vectors = np.empty((len(texts), len(vector)), np.float32)
        vectors[place] = vector
    return vectors


def relevance(
    folder: Path, pairs: Sequence[tuple[str, str]], most: int | None, model_name: str
) -> NDArray[np.float64]:
    """Score each pair of a question and a passage by the cross-encoder in ``folder``, in float32: its one logit.

    ``most``: tokens of a pair that count, None: all; the longer of both is cut first. ``model_name`` names the
    cross-encoder in a refusal.

    Raises EvaluationRefused when it does not load or is none, a pair is too long, or a score is no number.
    """
    tokenizer, model = _loaded(folder, _CROSS_ENCODER, model_name)
    if model.config.num_labels != 1:
        raise EvaluationRefused(
            f"{model_name}: has {model.config.num_labels} labels, and a cross-encoder has 1",
            "pin a model with one label",
        )
    asked = _tokens(tokenizer, model, pairs, most, model_name)
    scores = np.array(
        list(_each(lambda tokens: _score(model, tokens), model, asked, "re-rank")), np.float64
    )
    if not np.isfinite(scores).all():
        raise EvaluationRefused(
            f"{model_name}: gives a score that is no number", "pin another model"
        )
    return scores


def _loaded(folder: Path, of: str, model_name: str) -> tuple[Any, Any]:
    """Tokenizer and model. A cross-encoder without its last layer is refused: transformers would invent one."""
    import transformers

    cpu_arithmetic.use()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = getattr(transformers, of).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.replace(str(folder), "the folder")
        kind = "an encoder" if of == _ENCODER else "a cross-encoder"
        raise EvaluationRefused(
            f"{model_name}: does not load: {reason}", f"pin {kind}'s folder, in safetensors"
        ) from error
    if of == _CROSS_ENCODER and (missing := sorted(report["missing_keys"])):
        raise EvaluationRefused(
            f"{model_name}: the weights have no {missing[0]}: it is no cross-encoder",
            "pin a cross-encoder's folder",
        )
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _tokens(
    tokenizer: Any, model: Any, asked: Sequence[tuple[str, ...]], most: int | None, model_name: str
) -> list[Tokens]:
    """Return what the model reads of each text or pair. Raises EvaluationRefused for one that it does not hold."""
    cut: dict[str, Any] = {"truncation": True, "max_length": most} if most else {}
    room = min(
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", tokenizer.model_max_length),
    )
    encoded = list[Tokens]()
    for texts in asked:
        inputs = tokenizer(*texts, verbose=False, return_attention_mask=False, **cut)
        if (count := len(inputs["input_ids"])) > room:
            raise EvaluationRefused(
                f"{model_name}: {texts[-1][:40]!r}… has {count} tokens, and the model holds {room}",
                "lower chunker.words, or set max_tokens",
            )
        encoded.append({name: np.asarray(ids, np.int32) for name, ids in inputs.items()})
    return encoded


def _each(
    of: Callable[[Tokens], Any], model: Any, asked: Sequence[Tokens], doing: str
) -> Iterator[Any]:
    """``of`` each, in order, several at a time."""
    with lanes(model) as pool, tqdm(total=len(asked), desc=doing, disable=None) as bar:
        for start in range(0, len(asked), _WAITING):
            for result in pool.map(of, asked[start : start + _WAITING]):
                bar.update()
                yield result


@torch.inference_mode()  # Each thread has this mode for itself.
def _vector(model: Any, tokens: Tokens, pooling: Pooling) -> NDArray[np.float64]:
    ids = torch.from_numpy(tokens["input_ids"]).long()[None].to(model.device)
    states = model(input_ids=ids).last_hidden_state[0].double()
    vector = states.mean(0) if pooling == "mean" else states[0]
    return np.asarray((vector / vector.norm()).cpu().numpy())


@torch.inference_mode()  # Each thread has this mode for itself.
def _score(model: Any, tokens: Tokens) -> float:
    inputs = {
        name: torch.from_numpy(ids).long()[None].to(model.device) for name, ids in tokens.items()
    }
    return float(model(**inputs).logits[0, 0])
