"""The batched engine gives, token by token, what ``model.generate`` gives one row at a time."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from checks.errors import EvaluationRefused
from stages.inference import generate

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
        return LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()
    if kind == "qwen2, half of it sliding":
        sliding = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
        return Qwen2ForCausalLM(Qwen2Config(**SMALL, **sliding)).eval()
    window = {"mistral": None, "mistral, sliding": 12, "mistral, wide window": 100}[kind]
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).eval()


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


@pytest.mark.parametrize(
    "kind",
    ["llama", "qwen2", "qwen2, half of it sliding", "mistral", "mistral, sliding", "mistral, wide window"],
)
@pytest.mark.parametrize("prefix", [0, 9])
def test_the_tokens_are_those_of_generate(kind: str, prefix: int) -> None:
    model, prompts = make(kind), draw(12, prefix)
    # Several ends, so that rows stop at different steps.
    ends = frozenset((2, *range(40, 60)))
    expected = one_by_one(model, prompts, ends, 5)
    assert len({len(tokens) for tokens in expected}) > 2
    for batch_tokens in (1, 64, 10_000):
        found = generate.generate(model, prompts, ends, 5, batch_tokens)
        assert [answer.tokens for answer in found] == expected


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_lanes_give_the_same_tokens(threads: int) -> None:
    model, prompts, ends = make("llama"), draw(23, 9) + draw(2, 9), frozenset((2, *range(40, 60)))
    expected = one_by_one(model, prompts, ends, 5)
    torch.set_num_threads(threads)
    counter = Counter(model)
    for batch_tokens in (1, 64, 10_000):
        found = generate.generate(counter.model, prompts, ends, 5, batch_tokens)
        assert [answer.tokens for answer in found] == expected
        assert torch.get_num_threads() == threads
    # The first reads the prefix; the others take turns.
    assert len(set(counter.threads)) > 2
    assert generate.generate(model, prompts[:1], ends, 5, 64)[0].tokens == expected[0]


def test_a_lane_that_fails_ends_the_others() -> None:
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
        self.handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        self.threads.append(threading.get_ident())


def test_the_shared_prefix_is_computed_once() -> None:
    counter = Counter(make("llama"))
    generate.generate(counter.model, draw(20, 30), frozenset((2,)), 1, 80)
    first, *rest = counter.shapes
    assert first == (1, 30)
    assert len(rest) > 2
    assert all(width <= 20 for _, width in rest)


def test_prompts_that_are_equal_are_computed_once_and_all_answered() -> None:
    prompts = draw(3, 0) * 5
    counter = Counter(make("llama"))
    found = generate.generate(counter.model, prompts, frozenset((2,)), 1, 10_000)
    assert sum(rows for rows, _ in counter.shapes) == 3
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
    assert [rows for rows, width in counter.shapes if width == 1][-5:] == still
    assert still[-1] < len(prompts)


def test_what_is_read_at_a_time_is_bounded_padding_included() -> None:
    prompts, counter = draw(40, 0), Counter(make("llama"))
    generate.generate(counter.model, prompts, frozenset((2,)), 1, 50)
    assert all(rows * width <= 50 for rows, width in counter.shapes)
    assert len(counter.shapes) < len(prompts)


def test_what_is_held_at_a_time_is_bounded_prefix_included() -> None:
    prompts, counter = draw(100, 100), Counter(make("llama"))
    generate.generate(counter.model, prompts, frozenset((2,)), 3, 100)
    answered = [rows for rows, width in counter.shapes if width == 1]
    assert answered
    assert max(answered) * 104 <= 100 * 16


def test_one_long_prompt_does_not_pad_all_others() -> None:
    prompts, counter = [*draw(60, 0), list(range(3, 103))], Counter(make("llama"))
    generate.generate(counter.model, prompts, frozenset((2,)), 1, 10_000)
    assert sum(rows * width for rows, width in counter.shapes) < 1.3 * sum(map(len, prompts))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 300))
def test_parts_cover_every_row_once_within_the_limit(widths: list[int], limit: int) -> None:
    widths.sort(reverse=True)
    parts = generate._parts(widths, limit, 16)
    assert [row for begin, end in parts for row in range(begin, end)] == list(range(len(widths)))
    assert all(end - begin == 1 or widths[begin] * (end - begin) <= limit for begin, end in parts)


def test_an_answer_takes_longer_the_later_it_ends() -> None:
    model, prompts, ends = make("llama"), draw(24, 0), frozenset((2, *range(40, 60)))
    found = generate.generate(model, prompts, ends, 6, 10_000)
    ordered = sorted(found, key=lambda answer: answer.seconds)
    assert ordered[0].seconds > 0
    assert len(ordered[0].tokens) < len(ordered[-1].tokens)


def test_half_precision_runs_too(tiny_base: Path) -> None:
    model, tokenizer = generate.load(tiny_base, "bf16")
    assert model.dtype is torch.bfloat16
    assert generate.generate(model, [[3, 4], [5]], generate.end_tokens(model, tokenizer), 3, 10)


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
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)
    with pytest.raises(EvaluationRefused, match="other than keys and values"):
        generate.load(tmp_path, "fp32")
