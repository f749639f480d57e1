"""Batches give, token by token, what ``model.generate`` gives one row at a time."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # which loads a family when it is asked for: other workers collect this file too

from checks.process.errors import EvaluationRefused
from stages.inference import generate

pytestmark = pytest.mark.slow

VOCABULARY = 120
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}


# Beside the usual families: attention that sees, scales or turns positions in its own way.
OTHERS: dict[str, Any] = {
    "gemma 2": lambda: transformers.Gemma2Config(**SMALL, head_dim=8, sliding_window=12, attn_logit_softcapping=0.5),
    "gpt 2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2,
        initializer_range=0.3,
    ),
    "attention sinks": lambda: transformers.GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
    "chunks": lambda: transformers.Llama4TextConfig(
        **SMALL, head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=12
    ),
    "scaling by position": lambda: transformers.Llama4TextConfig(
        **SMALL, head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=None,
        layer_types=["full_attention"] * 2, attn_temperature_tuning=True,
    ),
    "two attentions a layer": lambda: transformers.DiffLlamaConfig(**SMALL),
    "a window for the mask alone": lambda: transformers.PhimoeConfig(
        **SMALL, sliding_window=6, num_local_experts=2, num_experts_per_tok=2
    ),
    "long rope": lambda: transformers.Phi3Config(
        **SMALL, original_max_position_embeddings=16, partial_rotary_factor=1.0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 16,
        },
    ),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(kind: str) -> Any:
    """A random model whose answers differ from row to row; initialised widely, so that ties do not happen."""
    torch.manual_seed(11)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    if kind == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL)).eval()
    if kind == "qwen2, half of it sliding":
        sliding = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, **sliding)).eval()
    if kind in OTHERS:
        # "eager": not every version of transformers caps scores in the others.
        return transformers.AutoModelForCausalLM.from_config(OTHERS[kind](), attn_implementation="eager").eval()
    window = {"mistral": None, "mistral, sliding": 12, "mistral, wide window": 100}[kind]
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=window)).eval()


def one_by_one(model: Any, prompts: list[list[int]], ends: frozenset[int], new: int) -> list[tuple[int, ...]]:
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=sorted(ends),
            pad_token_id=0,
        )  # fmt: skip
        tokens = out[0, len(prompt) :].tolist()
        answers.append(tuple(tokens[:-1] if tokens[-1] in ends else tokens))
    return answers


def draw(count: int, prefix: int, seed: int = 1) -> list[list[int]]:
    generator = random.Random(seed)
    shared = [generator.randrange(3, VOCABULARY) for _ in range(prefix)]
    return [
        shared + [generator.randrange(3, VOCABULARY) for _ in range(generator.randint(1, 20))] for _ in range(count)
    ]


def branching(count: int, prefix: int) -> list[list[int]]:
    """Prompts of which each third begins as another one, and one is the beginning of another."""
    drawn = draw(count, prefix)
    for place in range(2, count, 3):
        drawn[place] = drawn[place - 1][: prefix + 1 + place % 4] + drawn[place][prefix:]
    return [*drawn, drawn[0][: prefix + 1]]


FAMILIES = (
    "llama",
    "qwen2",
    "qwen2, half of it sliding",
    "mistral",
    "mistral, sliding",
    "mistral, wide window",
    *OTHERS,
)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [*((kind, 9) for kind in FAMILIES), *((kind, 0) for kind in ("llama", "mistral, sliding", "chunks"))],
)
def test_the_tokens_are_those_of_generate(kind: str, prefix: int) -> None:
    model, prompts = make(kind), branching(12, prefix)
    if kind == "long rope":  # transformers reads a row anew when its answer reaches the long frequencies
        prompts = [prompt for prompt in prompts if not 11 < len(prompt) <= 16]
    # Several ends, so that rows stop at different steps.
    ends = frozenset((2, *range(30, 60)))
    expected = one_by_one(model, prompts, ends, 5)
    assert len({len(tokens) for tokens in expected}) > 1
    for batch_tokens in (1, 64, 10_000):
        found = generate.generate(model, prompts, ends, 5, batch_tokens)
        assert [answer.tokens for answer in found] == expected
        assert all(answer.seconds > 0 for answer in found)


@pytest.mark.parametrize(("kind", "alone"), [("dynamic", True), ("longrope", True), ("linear", False)])
def test_rows_are_computed_alone_where_the_longest_of_a_batch_decides_the_positions(kind: str, alone: bool) -> None:
    """transformers takes frequencies from the longest row of a batch, for all of its rows."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **(factors if kind == "longrope" else {})}
    small = SMALL | {"max_position_embeddings": 64 if kind == "longrope" else 16}
    counter = Counter(transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, rope_parameters=rope)).eval())
    prompts = [[*range(3, 3 + length)] for length in (4, 5, 9)]
    generate.generate(counter.model, prompts, frozenset((2,)), 7, 10_000)  # at most 16 tokens
    assert max(rows for rows, _ in counter.shapes) == 3
    counter.shapes.clear()
    generate.generate(counter.model, prompts, frozenset((2,)), 8, 10_000)
    assert (max(rows for rows, _ in counter.shapes) == 1) is alone


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_give_the_same_tokens(threads: int) -> None:
    model, prompts, ends = make("llama"), draw(23, 9) + draw(2, 9), frozenset((2, *range(40, 60)))
    expected = one_by_one(model, prompts, ends, 5)
    torch.set_num_threads(threads)
    counter = Counter(model)
    for batch_tokens in (1, 64, 10_000):
        found = generate.generate(counter.model, prompts, ends, 5, batch_tokens)
        assert [answer.tokens for answer in found] == expected
        assert torch.get_num_threads() == threads
    assert len(set(counter.threads)) > 2  # the first reads the prefix
    assert generate.generate(model, prompts[:1], ends, 5, 64)[0].tokens == expected[0]


def test_a_batch_that_fails_ends_the_others() -> None:
    model, torch_threads, calls = make("llama"), torch.get_num_threads(), 0

    def fails(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("out of memory")

    model.register_forward_pre_hook(fails)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate.generate(model, draw(200, 0), frozenset((2,)), 40, 100)
    assert torch.get_num_threads() == 2
    assert calls < 60, "some 600 would answer all"
    torch.set_num_threads(torch_threads)


def test_the_tiny_base_answers_the_same_as_generate(tiny_base: Path) -> None:
    model, tokenizer = generate.load(tiny_base, "fp32")
    prompts = [tokenizer.encode(f"list the {word} of my vault") for word in ("disk", "disk", "queue of all", "ключ ☁")]
    ends = generate.end_tokens(model, tokenizer)
    found = generate.generate(model, prompts, ends, 8, 2048)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 8)


class Counter:
    """Wraps a model and notes the shape of every forward pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []
        self.threads: list[int] = []
        self.tokens = 0
        self.handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        self.tokens += kwargs["input_ids"].numel()
        self.threads.append(threading.get_ident())


def test_what_prompts_begin_with_alike_is_computed_once() -> None:
    prompts, counter = draw(20, 30), Counter(make("llama"))
    generate.generate(counter.model, prompts, frozenset((2,)), 1, 80)
    assert counter.shapes[0] == (1, 30)
    assert len(counter.shapes) > 3
    assert all(width <= 20 for _, width in counter.shapes[1:])


def test_prompts_that_are_equal_are_computed_once_and_all_answered() -> None:
    prompts = draw(3, 0) * 5
    counter = Counter(make("llama"))
    found = generate.generate(counter.model, prompts, frozenset((2,)), 1, 10_000)
    assert [rows for rows, _ in counter.shapes] == [3]
    assert found[:3] * 5 == found


def test_a_prompt_that_is_the_prefix_of_another_keeps_a_token_of_its_own() -> None:
    model, ends = make("llama"), frozenset((2,))
    prompts = [[5, 6, 7], [5, 6, 7, 8, 9], [5, 6, 7, 8]]
    found = generate.generate(model, prompts, ends, 4, 100)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 4)


def test_rows_that_have_ended_leave_the_batch() -> None:
    model, prompts, ends = make("llama"), draw(12, 0), frozenset((2, *range(40, 60)))
    expected = one_by_one(model, prompts, ends, 6)
    counter = Counter(model)
    generate.generate(counter.model, prompts, ends, 6, 10_000)
    # A row is read back in step k when it had not ended in the k before; the last token never is.
    still = [sum(len(tokens) >= step for tokens in expected) for step in range(1, 6)]
    assert counter.shapes[1:] == [(rows, 1) for rows in still if rows]
    assert still[-1] < len(prompts)


@pytest.mark.parametrize(("prefix", "batch_tokens"), [(0, 50), (60, 50), (60, 32)])
def test_what_is_read_and_held_at_a_time_is_bounded(prefix: int, batch_tokens: int) -> None:
    prompts, counter = [*draw(40, prefix), [*draw(1, prefix)[0][:prefix], *[7] * 60]], Counter(make("llama"))
    generate.generate(counter.model, prompts, frozenset(), 1, batch_tokens)
    shapes = counter.shapes[1:] if prefix else counter.shapes
    assert (1, 60) in shapes  # one row needs more than there is to be
    for count, width in shapes:
        assert count == 1 or (count * width <= batch_tokens and count * (prefix + width) <= 16 * batch_tokens)
    assert len(shapes) < len(prompts)


def test_an_answer_takes_longer_the_later_it_ends() -> None:
    model, prompts, ends = make("llama"), draw(24, 0), frozenset((2, *range(40, 60)))
    found = generate.generate(model, prompts, ends, 6, 10_000)
    ordered = sorted(found, key=lambda answer: answer.seconds)
    assert ordered[0].seconds > 0
    assert len(ordered[0].tokens) < len(ordered[-1].tokens)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_too(tiny_base: Path, precision: str) -> None:
    model, tokenizer = generate.load(tiny_base, precision)
    assert model.dtype.itemsize == 2
    prompts, ends = [[3, 4], [5], [3, 9, 7]], generate.end_tokens(model, tokenizer)
    found = generate.generate(model, prompts, ends, 3, 10)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 3)


def test_large_keys_do_not_overflow_in_fp16() -> None:
    model, prompts, ends = make("qwen2").half(), draw(6, 9), frozenset((2,))
    for layer in model.model.layers:
        layer.self_attn.q_proj.bias.data.fill_(200.0)
        layer.self_attn.k_proj.bias.data.fill_(200.0)
    found = generate.generate(model, prompts, ends, 5, 64)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 5)


def test_logits_that_are_not_finite_are_refused() -> None:
    model = make("llama")
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(EvaluationRefused, match="not finite"):
        generate.generate(model, draw(6, 9), frozenset((2,)), 5, 64)


def test_no_prompts_give_no_answers_and_an_empty_prompt_is_an_error() -> None:
    model = make("llama")
    assert generate.generate(model, [], frozenset(), 3, 10) == []
    with pytest.raises(ValueError, match="no tokens"):
        generate.generate(model, [[1], []], frozenset(), 3, 10)


def test_every_end_that_model_or_tokenizer_names_ends_an_answer(tiny_base: Path) -> None:
    model, tokenizer = generate.load(tiny_base, "fp32")
    model.generation_config.eos_token_id = [5, 7]
    assert generate.end_tokens(model, tokenizer) == {5, 7, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = None
    assert generate.end_tokens(model, tokenizer) == {tokenizer.eos_token_id}


def test_a_directory_without_a_model_refuses(tmp_path: Path) -> None:
    with pytest.raises(EvaluationRefused, match="does not load"):
        generate.load(tmp_path, "fp32")


def test_a_model_without_a_key_value_cache_refuses(tmp_path: Path, tiny_base: Path) -> None:
    from transformers import AutoTokenizer, MambaConfig

    small = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1)
    transformers.AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)
    with pytest.raises(EvaluationRefused, match="other than keys and values"):
        generate.load(tmp_path, "fp32")
