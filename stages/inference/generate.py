"""Generation for many prompts, greedy or sampled: the tokens of one-row-at-a-time ``model.generate``, sooner.

In: a transformers causal language model with a key-value cache, prompts as token ids.
Out: per prompt the new tokens and the seconds they took.

* The tokens with which all prompts begin are computed once. Identical prompts are answered once, unless sampled.
* Prompts of like length share a batch, padded on the left. A row that has ended leaves its batch.
* On a CPU several batches are computed at a time, each by one thread: threads that compute one tensor together wait
  for one another at every operation, and many operations are too small to be shared.

A batch holds the same rows whatever thread takes it and when, so that a busy machine changes no answer. So the answers
of a batch can be kept, and used again where the same rows are a batch again.
"""

import copy
import inspect
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from checks.formats.decoding import Decoding
from checks.process.errors import EvaluationRefused
from stages import cpu_arithmetic
from stages.inference import sampling, shipped_adapter
from stages.inference.batches import Answer, Asked, Kept, Prompt, cut
from stages.inference.grammar import Grammar, constrained
from stages.inference.prompts import end_tokens as end_tokens_of
from stages.inference.unpacking import unpacked
from stages.threads import one_thread

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Parts of ``batch_tokens`` on a CPU, one for each batch, so that a batch has the same rows on every machine.
PARTS = 4
# Batches computed at a time, at most: each reads all weights at every step.
_LANES = 16
# Rotary frequencies that transformers chooses by the longest row of a batch, for all of its rows.
_BY_LENGTH = frozenset({"dynamic", "longrope"})


def load(folder: Path, precision: str) -> tuple[Any, Any]:
    """Model, with the adapter that ships beside it, and tokenizer of ``folder``, on the GPU if there is one.

    ``precision``: of its numbers. Raises EvaluationRefused when the directory holds no causal language model that
    generates from a key-value cache.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cpu_arithmetic.use()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=_TYPES[precision], local_files_only=True
        )
        model = shipped_adapter.added(unpacked(model), folder)
        layers = DynamicCache(config=model.config).layers
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EvaluationRefused(
            f"{folder}: does not load: {reason}", "run `./lockstep run` to make it again"
        ) from error
    unknown = {type(layer).__name__ for layer in layers} - {
        DynamicLayer.__name__,
        DynamicSlidingWindowLayer.__name__,
    }
    if unknown:
        kinds = ", ".join(sorted(unknown))
        raise EvaluationRefused(
            f"{folder}: {model.config.model_type} keeps a state other than keys and values ({kinds})",
            "use a model whose layers are all attention",
        )
    return model.to(device).eval(), tokenizer


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the token ids that end an answer."""
    return end_tokens_of(model.generation_config, tokenizer)


def lanes(device: str) -> int:
    """How many batches are computed at a time on a kind of device; on a CPU each has one thread."""
    return min(torch.get_num_threads(), _LANES) if device == "cpu" else 1


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    max_new_tokens: int,
    batch_tokens: int,
    label: str = "generate",
    *,
    stable: bool = False,
    kept: Kept | None = None,
    decoding: Decoding | None = None,
    streams: Sequence[str] = (),
    grammar: Grammar | None = None,
) -> list[Answer]:
    """Answer every prompt, with a progress bar called ``label``.

    ``prompts``: token ids, none empty. ``ends``: ids that end an answer. ``batch_tokens``: prompt tokens that are read
    at a time, padding included, by all batches together; what all prompts share is read once. ``stable``: see
    ``batches``. ``kept``: answers of before, which gets those of each batch as soon as it ends. ``decoding``: how
    answers are sampled, each with its own random numbers of ``streams``; None: greedily. ``grammar``: the
    JSON that answers must be; None: they are free. Returns one answer per prompt, in order. Raises EvaluationRefused
    when a logit is not finite, or the grammar is too complex.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens")
    # The longest first: the last batch to end is then a short one.
    questions = [
        Asked(tuple(prompt), stream)
        for prompt, stream in zip(prompts, streams or [""] * len(prompts), strict=True)
    ]
    distinct = sorted(set(questions), key=lambda question: (-len(question.tokens), question))
    if not distinct:
        return []
    kind = model.device.type
    at_once = lanes(kind)
    apart = len(distinct[0].tokens) + max_new_tokens > _alike_up_to(model)
    room = 1 if apart else max(1, batch_tokens // (PARTS if kind == "cpu" else 1))
    prefix = (
        0 if apart or _slides(model) else shared_prefix([question.tokens for question in distinct])
    )
    answers, asked = dict[Asked, Answer](), list[Sequence[Asked]]()
    for batch in cut(distinct, prefix, max_new_tokens, room, stable):
        if kept is not None and (before := kept.get(prefix, batch)) is not None:
            answers |= zip(batch, before, strict=True)
        else:
            asked.append(batch)
    stop = threading.Event()
    with (
        tqdm(
            total=len(distinct), initial=len(answers), desc=label, unit="row", disable=None
        ) as bar,
        one_thread(),
    ):
        begin = _read(model, distinct[0].tokens[:prefix] if asked else ())

        def answer(batch: Sequence[Asked]) -> dict[Asked, Answer]:
            tokens_by_place = dict(
                _answer(
                    model, batch, begin, prefix, ends, max_new_tokens, decoding, grammar, stop, bar
                )
            )  # fmt: skip
            # Fewer tokens mean that another batch failed.
            if kept is not None and len(tokens_by_place) == len(batch):
                kept.keep(prefix, batch, [tokens_by_place[prompt] for prompt in batch])
            return tokens_by_place

        with ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(answer, batch) for batch in asked]
            try:
                for ended in wait(running, return_when=FIRST_EXCEPTION).done:
                    ended.result()
            except BaseException:
                stop.set()  # the others end at their next step
                raise
    for future in running:
        answers |= future.result()
    return [answers[question] for question in questions]


def shared_prefix(prompts: Sequence[Prompt]) -> int:
    """Number of tokens with which all begin; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    pairs = zip(min(prompts), max(prompts), strict=False)
    return min(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)),
        min(map(len, prompts)) - 1,
    )


@torch.inference_mode()
def _read(model: Any, prefix: Prompt) -> Any:
    """Keys and values of the tokens with which all prompts begin."""
    cache = DynamicCache(config=model.config)
    if prefix:
        model(
            input_ids=torch.tensor([prefix], device=model.device),
            logits_to_keep=1,
            use_cache=True,
            **cached(model, cache),
        )
    return cache


@torch.inference_mode()  # Each thread has this mode for itself.
def _answer(
    model: Any, prompts: Sequence[Asked], begin: Any, prefix: int, ends: frozenset[int], new: int,
    decoding: Decoding | None, grammar: Grammar | None, stop: threading.Event, bar: Any,
) -> list[tuple[Asked, Answer]]:  # fmt: skip
    """Answers to the prompts of one batch, whose first ``prefix`` tokens are in the cache ``begin``."""
    started, device = time.perf_counter(), model.device
    width = len(prompts[0].tokens) - prefix
    texts = [prompt.tokens[prefix:] for prompt in prompts]
    pads = torch.tensor([width - len(text) for text in texts], device=device)
    ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts], device=device)
    mask = (torch.arange(width, device=device) >= pads[:, None]).long()
    mask = torch.cat([mask.new_ones(len(prompts), prefix), mask], dim=1)
    cache = copy.deepcopy(begin)
    if prefix:
        cache.batch_repeat_interleave(len(prompts))
    rows, written = list(range(len(prompts))), [list[int]() for _ in prompts]
    states = [grammar.begin() for _ in prompts] if grammar else []
    answers = list[tuple[Asked, Answer]]()
    while rows and not stop.is_set():
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=True,
            **cached(model, cache),
        ).logits[:, -1]  # fmt: skip
        best, chosen = logits.max(dim=-1)
        if not bool(torch.isfinite(best).all()):
            raise EvaluationRefused(
                "a logit is not finite", "train with a lower train.learning_rate"
            )
        if states:
            logits = constrained(logits, [states[row] for row in rows])
            chosen = logits.max(dim=-1).indices
        if decoding is not None:
            asked = [prompts[row].stream for row in rows]
            chosen = sampling.choose(logits, decoding, asked, len(written[rows[0]]))
        left = list[int]()
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if token not in ends:
                written[row].append(token)
                if states:
                    states[row].consume_token(token)
            if token in ends or len(written[row]) == new:
                answers.append(
                    (prompts[row], Answer(tuple(written[row]), time.perf_counter() - started))
                )
            else:
                left.append(place)
        bar.update(len(rows) - len(left))
        if len(left) < len(rows):
            keep = torch.tensor(left, dtype=torch.long, device=device)
            rows, mask, chosen = [rows[place] for place in left], mask[keep], chosen[keep]
            if left:
                cache.batch_select_indices(keep)
        ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """The argument that hands a model its cache: its name changed within transformers 5."""
    return {
        "cache"
        if "cache" in inspect.signature(model.forward).parameters
        else "past_key_values": cache
    }


def _slides(model: Any) -> bool:
    """Whether a layer sees a window of tokens: padding behind a shared prefix would be counted in it."""
    layers = DynamicCache(config=model.config).layers
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return "chunked_attention" in kinds or any(
        isinstance(layer, DynamicSlidingWindowLayer) for layer in layers
    )


def _alike_up_to(model: Any) -> float:
    """Number of tokens up to which a row's positions do not depend on the longest row of its batch."""
    config, limits = model.config.get_text_config(), [float("inf")]
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if _BY_LENGTH & set(kind.values() if isinstance(kind, dict) else (kind,)):
            rope = getattr(config, "rope_parameters", None) or {}
            parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
            names = ("original_max_position_embeddings", "max_position_embeddings")
            limits += [part[names[0]] for part in parts if names[0] in part]
            limits += [limit for name in names if (limit := getattr(config, name, None))]
    return min(limits)
