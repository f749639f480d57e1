"""Answers by vLLM, greedily or drawn by seeds.

``stages.inference.vllm_process`` has its process, ``checks.formats.engines`` its parameters. In:  a model directory,
conversations, params ``evaluate`` with ``engine``. Out: an answer per row and draw, and answers per second without the
start of vLLM. The time of one row is not known, because vLLM accepts all rows at once and starts each when there is
room.

Prompts are rendered and tokenized here, as for transformers, and token ids come back. vLLM gets no tokenizer and none
of the model's generation settings. It schedules in one process, with a cache and passes of a stated size instead of
sizes that it would choose by the machine. So the rows of a pass are the same in every run, and a busy machine changes
no answer. Identical prompts are answered once, unless answers are drawn. Prompts are sorted, whatever the order of the
rows.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import draws
from checks.formats.engines import Vllm
from checks.process.errors import EvaluationRefused
from checks.records.rows import Message, Row
from stages.inference import prompts, shipped_adapter, vllm_process

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_GIB = 1 << 30
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # MaxLoRARanks in vllm/config/lora.py of 0.32


def answer(
    root: Path,
    engine: Vllm,
    settings: Evaluate,
    folder: Path,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
    label: str,
    rows_name: Path,
    log: bool = True,
) -> tuple[list[str], float]:
    """Ask the model in ``folder``: answers to ``conversations``, first draws first, and answers per second.

    ``log``: whether what vLLM prints is kept. Raises MachineRefused when vLLM is not there, is another version, runs
    out of memory or is killed, and EvaluationRefused when it cannot run the model, or the model cannot be asked.
    """
    tokenizer, positions, ends = read(folder)
    room = None if positions is None else positions - settings.max_new_tokens
    asked = prompts.tokens(tokenizer, conversations, rows, room, rows_name)
    decoding = settings.decoding
    drawn = [
        (tuple(prompt), decoding.seed_of(row.id, draw) if decoding else 0)
        for draw in range(draws(decoding))
        for row, prompt in zip(rows, asked, strict=True)
    ]
    distinct = sorted(set(drawn))
    seeds = [seed for _, seed in distinct] if decoding else []
    request = request_of(settings, engine, folder, [prompt for prompt, _ in distinct], ends, seeds)
    reply = vllm_process.ask(root, engine, request, folder, label, log)
    if None in reply.logprobs:
        raise EvaluationRefused(
            f"{label}: a log-probability is not finite", "train with a lower train.learning_rate"
        )
    given = {
        pair: _text(tokenizer, ids, ends) for pair, ids in zip(distinct, reply.answers, strict=True)
    }
    return [given[pair] for pair in drawn], len(drawn) / reply.seconds


def request_of(
    settings: Evaluate,
    engine: Vllm,
    folder: Path,
    asked: Sequence[Sequence[int]],
    ends: Iterable[int],
    seeds: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` and ``vllm.SamplingParams``, and the prompts as token ids.

    ``seeds``: one for each prompt, where answers are drawn.
    """
    new = settings.max_new_tokens
    adapter = shipped_adapter.folder_in(folder)
    room = {} if adapter is None else _room(adapter)
    decoding = settings.decoding
    sampling = (
        decoding.model_dump(include={"temperature", "top_p"}) if decoding else {"temperature": 0.0}
    )
    return {
        "model": {
            "model": str(folder.resolve()), "dtype": _DTYPES[settings.precision], "seed": 0,
            "generation_config": "vllm", "skip_tokenizer_init": True, "load_format": "safetensors",
            "max_model_len": max(map(len, asked)) + new, "max_num_seqs": engine.max_rows,
            "max_num_batched_tokens": settings.batch_tokens,
            "kv_cache_memory_bytes": int(engine.kv_cache_gb * _GIB), "tensor_parallel_size": engine.gpus,
            "enforce_eager": not engine.compiled, "enable_prefix_caching": True, "enable_chunked_prefill": True,
            "async_scheduling": False,
        } | room,
        "adapter": None if adapter is None else str(adapter.resolve()),
        "sampling": {
            **sampling, "seed": 0, "max_tokens": new, "logprobs": 0, "detokenize": False,
            "ignore_eos": True, "stop_token_ids": sorted(ends),  # all that end an answer are in the list
        },
        "prompts": asked, "seeds": list(seeds),
    }  # fmt: skip


def _room(adapter: Path) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` for one adapter: it takes the ranks of _RANKS, and refuses all others."""
    rank = shipped_adapter.rank(adapter)
    if rank > _RANKS[-1]:
        raise EvaluationRefused(
            f"{adapter}: has rank {rank}, vLLM takes {_RANKS[-1]} at most", "lower train.lora.r"
        )
    fitting = next(most for most in _RANKS if most >= rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting}


def read(folder: Path) -> tuple[Any, int | None, frozenset[int]]:
    """Return the tokenizer, how many positions the model has, and the ids that end an answer: those of ``generate``."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if (folder / "generation_config.json").exists():
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        else:
            generation = GenerationConfig.from_model_config(config)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EvaluationRefused(
            f"{folder}: does not load: {reason}", "run `./lockstep run` to make it again"
        ) from error
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return tokenizer, positions, prompts.end_tokens(generation, tokenizer)


def _text(tokenizer: Any, ids: Sequence[int], ends: frozenset[int]) -> str:
    kept = ids[:-1] if ids and ids[-1] in ends else ids
    return str(tokenizer.decode(kept, skip_special_tokens=True).strip())
