"""The batched engine gives, token by token, what ``model.generate`` gives one row at a time."""

import contextlib
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
    AttentionInterface,
    AutoModelForCausalLM,
    DiffLlamaConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from checks.errors import EvaluationRefused
from stages.inference import batching, flat_attention, generate

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


# Beside the families that we are made for: what their attention takes decides how they are asked.
KNOWN: dict[str, Any] = {
    "gemma 2": lambda: Gemma2Config(**SMALL, head_dim=8, sliding_window=12, attn_logit_softcapping=0.5),
    "gpt 2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2,
        initializer_range=0.3,
    ),
}  # fmt: skip
FOREIGN: dict[str, Any] = {
    "attention sinks": lambda: GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
    "chunks": lambda: Llama4TextConfig(
        **SMALL, head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=12
    ),
    "scaling by position": lambda: Llama4TextConfig(
        **SMALL, head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=None,
        layer_types=["full_attention"] * 2, attn_temperature_tuning=True,
    ),
    "two attentions a layer": lambda: DiffLlamaConfig(**SMALL),
    "a window for the mask alone": lambda: PhimoeConfig(
        **SMALL, sliding_window=6, num_local_experts=2, num_experts_per_tok=2
    ),
    "long rope": lambda: Phi3Config(
        **SMALL, original_max_position_embeddings=16, partial_rotary_factor=1.0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 16,
        },
    ),
    "no exchange": lambda: FalconConfig(
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
        return LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SMALL)).eval()
    if kind == "qwen2, half of it sliding":
        sliding = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
        return Qwen2ForCausalLM(Qwen2Config(**SMALL, **sliding)).eval()
    if kind in FOREIGN or kind in KNOWN:
        # "eager": not every version of transformers caps scores in the others.
        return AutoModelForCausalLM.from_config({**FOREIGN, **KNOWN}[kind](), attn_implementation="eager").eval()
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


def branching(count: int, prefix: int) -> list[list[int]]:
    """Prompts of which each third begins as another one, and one is the beginning of another."""
    drawn = draw(count, prefix)
    for place in range(2, count, 3):
        drawn[place] = drawn[place - 1][: prefix + 1 + place % 4] + drawn[place][prefix:]
    return [*drawn, drawn[0][: prefix + 1]]


@pytest.mark.parametrize(
    "kind",
    ["llama", "qwen2", "qwen2, half of it sliding", "mistral", "mistral, sliding", "mistral, wide window", *KNOWN],
)
@pytest.mark.parametrize("prefix", [0, 9])
def test_the_tokens_are_those_of_generate(
    kind: str, prefix: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, prompts = make(kind), branching(12, prefix)
    # Several ends, so that rows stop at different steps.
    ends = frozenset((2, *range(30, 60)))
    expected = one_by_one(model, prompts, ends, 5)
    assert len({len(tokens) for tokens in expected}) > 2
    before = model.config._attn_implementation
    for batch_tokens in (1, 64, 10_000):
        found = generate.generate(model, prompts, ends, 5, batch_tokens)
        assert [answer.tokens for answer in found] == expected
    monkeypatch.setattr(flat_attention, "_SCORES", 40)  # every prompt in pieces, every group of few rows
    assert [answer.tokens for answer in generate.generate(model, prompts, ends, 5, 64)] == expected
    assert model.config._attn_implementation == before
    assert "one prompt at a time" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_model_with_another_attention_is_asked_one_prompt_at_a_time(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, prompts, ends = make(kind), draw(6, 9) * 2, frozenset((2, *range(40, 60)))
    before = model.config._attn_implementation
    found = generate.generate(model, prompts, ends, 5, 64, "candidate")
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 5)
    assert all(answer.seconds > 0 for answer in found)
    assert "candidate: one prompt at a time: " in capsys.readouterr().err
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "linear"])
def test_positions_that_turn_otherwise_in_long_rows_are_left_to_the_model(kind: str) -> None:
    """transformers takes them from the longest row of a pass, and keeps them for the next."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **(factors if kind == "longrope" else {})}
    small = SMALL | {"max_position_embeddings": 64 if kind == "longrope" else 16}
    model = LlamaForCausalLM(LlamaConfig(**small, rope_parameters=rope)).eval()
    with flat_attention.taken_over(model, 16):
        pass
    expected = contextlib.nullcontext() if kind == "linear" else pytest.raises(flat_attention.Foreign, match="long")
    with expected, flat_attention.taken_over(model, 17):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_every_part_of_a_model_gets_its_attention_back() -> None:
    config = Gemma3Config(
        text_config={**SMALL, "head_dim": 8},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})
    with flat_attention.taken_over(model, 10):
        assert model.config.text_config._attn_implementation == "lockstep_flat"
    parts = (model.config, model.config.text_config, model.config.vision_config)
    assert [part._attn_implementation for part in parts] == ["sdpa", "eager", "sdpa"]


def test_a_model_whose_logits_come_out_otherwise_is_asked_one_prompt_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where an attention does what neither its arguments nor the model's configuration tell."""
    model, prompts, ends = make("mistral, sliding"), draw(6, 9), frozenset((2, *range(40, 60)))
    model.config.sliding_window = 9
    expected = one_by_one(model, prompts, ends, 5)
    attend = flat_attention.attend
    blind = {
        **AttentionInterface._global_mapping,
        "lockstep_flat": lambda *a, **k: attend(*a, **k | {"sliding_window": 12}),
    }
    monkeypatch.setattr(AttentionInterface, "_global_mapping", blind)
    found = generate.generate(model, prompts, ends, 5, 64)
    assert "its attention is another" in capsys.readouterr().err
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
        self.tokens = 0
        self.handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        self.tokens += kwargs["input_ids"].numel()
        self.threads.append(threading.get_ident())


def one_lane(model: Any, prompts: list[list[int]], ends: frozenset[int], new: int, batch_tokens: int) -> None:
    """The engine without what holds it to the model's own attention, which is asked besides."""
    distinct = sorted({tuple(prompt) for prompt in prompts})
    with flat_attention.taken_over(model, 100):
        engine = batching.Engine(model, distinct, batching.Settings(ends, new, batch_tokens))
        assert len(engine.run(distinct, lambda _: None)) == len(distinct)


def test_what_prompts_begin_with_alike_is_computed_once() -> None:
    prompts, counter = branching(20, 30), Counter(make("llama"))
    one_lane(counter.model, prompts, frozenset((2,)), 1, 80)
    distinct = {tuple(prompt[:length]) for prompt in prompts for length in range(1, len(prompt) + 1)}
    assert counter.shapes[0] == (1, 30)
    assert len(counter.shapes) > 3
    assert counter.tokens == len(distinct)
    assert counter.tokens < 30 + sum(len(prompt) - 30 for prompt in prompts)


def test_prompts_that_are_equal_are_computed_once_and_all_answered() -> None:
    prompts = draw(3, 0) * 5
    counter = Counter(make("llama"))
    one_lane(counter.model, prompts, frozenset((2,)), 1, 10_000)
    assert counter.tokens <= sum(map(len, prompts[:3]))
    found = generate.generate(counter.model, prompts, frozenset((2,)), 1, 10_000)
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
    one_lane(counter.model, prompts, ends, 6, 10_000)
    # A row is read back in step k when it had not ended in the k before; the last token never is.
    still = [sum(len(tokens) >= step for tokens in expected) for step in range(1, 6)]
    assert counter.shapes[1:] == [(1, rows) for rows in still]
    assert still[-1] < len(prompts)


def test_rows_are_answered_while_others_are_read() -> None:
    prompts, counter = draw(40, 0), Counter(make("llama"))
    one_lane(counter.model, prompts, frozenset(), 4, 50)
    read = counter.tokens - 3 * len(prompts)
    assert read < sum(map(len, prompts))
    assert len(counter.shapes) < 1.3 * read / 50 + 3


def test_what_is_read_at_a_time_is_bounded() -> None:
    prompts, counter = [*draw(40, 30), [*draw(1, 30)[0][:30], *range(3, 103)]], Counter(make("llama"))
    one_lane(counter.model, prompts, frozenset(), 1, 50)
    assert [width for _, width in counter.shapes if width > 50] in ([100], [99])
    assert len(counter.shapes) < len(prompts) / 2


def test_what_is_held_at_a_time_is_bounded_prefix_included(monkeypatch: pytest.MonkeyPatch) -> None:
    held = list[int]()

    class Slots(flat_attention.Slots):
        def __init__(self, capacity: int, begin: flat_attention.Slots | None = None) -> None:
            super().__init__(capacity, begin)
            held.append(capacity)

    monkeypatch.setattr(batching, "Slots", Slots)
    prompts = [*draw(100, 100), [*draw(1, 100)[0][:100], *[7] * 400]]
    model = LlamaForCausalLM(LlamaConfig(**SMALL | {"max_position_embeddings": 600})).eval()
    for batch_tokens in (20, 200):
        held.clear()
        one_lane(model, prompts, frozenset((2,)), 3, batch_tokens)
        prefix, *spans = held
        assert prefix == 100
        assert len(spans) > 1 if batch_tokens == 20 else len(spans) == 1
        # One row needs more than there is to be: it is alone.
        assert sorted(spans)[-2 if batch_tokens == 20 else -1] <= prefix + batch_tokens * 16
        assert max(spans) <= max(prefix + batch_tokens * 16, 502)
    assert generate.generate(model, prompts, frozenset((2,)), 3, 20)[-1].tokens == one_by_one(
        model, prompts[-1:], frozenset((2,)), 3
    )[0]  # fmt: skip


Shape = st.tuples(st.integers(1, 60), st.integers(0, 300)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(Shape, min_size=1, max_size=40), st.integers(1, 20_000))
def test_groups_cover_every_row_once_and_their_scores_fit(shapes: list[tuple[int, int]], limit: int) -> None:
    shapes.sort(reverse=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(flat_attention, "_SCORES", limit)
        groups = flat_attention.cut(shapes)
    assert [row for begin, end in groups for row in range(begin, end)] == list(range(len(shapes)))
    for begin, end in groups:
        columns = max(shape[1] for shape in shapes[begin:end])
        assert end - begin == 1 or (end - begin) * shapes[begin][0] * columns <= limit


def test_long_rows_are_not_computed_with_short_ones() -> None:
    shapes = [(200, 400), *[(10, 30)] * 300]
    assert flat_attention.cut(shapes)[0] == (0, 1)
    assert len(flat_attention.cut(shapes)) == 2


@given(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=8), min_size=1, max_size=30), st.integers(1, 6))
def test_lanes_share_out_all_prompts(drawn: list[list[int]], count: int) -> None:
    prompts = sorted(set(map(tuple, drawn)))
    dealt = batching.shares(prompts, min(count, len(prompts)), 0, 2)
    assert [prompt for share in dealt for prompt in share] == prompts
    assert len(dealt) == min(count, len(prompts))
    assert all(dealt)


@pytest.mark.parametrize("prefix", [9, 300])
def test_lanes_have_about_as_much_to_compute(prefix: int) -> None:
    prompts = sorted(map(tuple, draw(200, prefix)))
    dealt = batching.shares(prompts, 4, prefix, 8)
    sizes = [sum(len(prompt) - prefix + 8 for prompt in share) for share in dealt]
    assert max(sizes) < 1.2 * min(sizes)


def test_an_answer_takes_longer_the_later_it_ends() -> None:
    model, prompts, ends = make("llama"), draw(24, 0), frozenset((2, *range(40, 60)))
    found = generate.generate(model, prompts, ends, 6, 10_000)
    ordered = sorted(found, key=lambda answer: answer.seconds)
    assert ordered[0].seconds > 0
    assert len(ordered[0].tokens) < len(ordered[-1].tokens)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_too(tiny_base: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = generate.load(tiny_base, precision)
    assert model.dtype.itemsize == 2
    prompts, ends = [[3, 4], [5], [3, 9, 7]], generate.end_tokens(model, tokenizer)
    found = generate.generate(model, prompts, ends, 3, 10)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 3)
    assert "one prompt at a time" not in capsys.readouterr().err


def test_large_keys_do_not_overflow_in_fp16() -> None:
    model, prompts, ends = make("qwen2").half(), draw(6, 9), frozenset((2,))
    for layer in model.model.layers:
        layer.self_attn.q_proj.bias.data.fill_(200.0)
        layer.self_attn.k_proj.bias.data.fill_(200.0)
    found = generate.generate(model, prompts, ends, 5, 64)
    assert [answer.tokens for answer in found] == one_by_one(model, prompts, ends, 5)


def test_logits_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    monkeypatch.setattr(batching, "_ALIKE", float("inf"))
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
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)
    with pytest.raises(EvaluationRefused, match="other than keys and values"):
        generate.load(tmp_path, "fp32")
