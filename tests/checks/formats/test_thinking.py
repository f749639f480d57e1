"""What a model writes is divided into thought and answer by the rule of vLLM's parser."""

from typing import Any

import pytest

from checks.formats.thinking import Parts, Thinking
from checks.process.errors import ParamsRefused
from tests.conftest import as_params

CUT = Parts("first this", "", False)
WHOLE = Parts("first this", "queue", True)
PLAIN = Parts("", "queue", True)


@pytest.mark.parametrize(
    ("text", "always", "mixed"),
    [
        ("<think>\nfirst this\n</think>\n\nqueue", WHOLE, WHOLE),
        ("first this\n</think>\n\nqueue", WHOLE, WHOLE),  # The template wrote the opening mark.
        ("<think>\n\n</think>\n\nqueue", PLAIN, PLAIN),
        ("<think>\nfirst this", CUT, CUT),
        ("first this", CUT, Parts("", "first this", True)),
        ("", Parts("", "", False), Parts("", "", True)),
        ("ah <think>first this</think>queue", WHOLE, WHOLE),
        ("<think>first this</think>a </think> b", Parts("first this", "a </think> b", True), None),
        ("queue</think>vm<think>first this", CUT, CUT),
    ],
)
def test_an_answer_follows_its_thought(text: str, always: Parts, mixed: Parts | None) -> None:
    assert Thinking(mode="always").divide(text) == always
    if mixed is not None:
        assert Thinking(mode="mixed").divide(text) == Thinking(mode="never").divide(text) == mixed


def test_marks_may_be_others() -> None:
    marked = Thinking(mode="mixed", marks=("[T]", "[/T]"))
    assert marked.divide("[T]first this[/T]queue") == WHOLE
    assert marked.divide("<think>a</think>b") == Parts("", "<think>a</think>b", True)


def test_a_model_does_not_think_unless_params_say_so(document: dict) -> None:
    assert as_params(document).base.thinking is None
    document["base"]["thinking"] = {"mode": "always"}
    assert as_params(document).base.thinking == Thinking(mode="always", marks=("<think>", "</think>"))


@pytest.mark.parametrize(
    ("thinking", "reasoning", "problem"),
    [
        ({"mode": "always", "marks": ["|", "|"]}, None, r"base.thinking: marks are both |; name what begins a thought"),
        ({"mode": "never"}, {"parser": "qwen3"}, "serve.reasoning: base.thinking.mode is never, .*; remove serve"),
        (
            {"mode": "always", "marks": ["[T]", "[/T]"]},
            {"parser": "qwen3"},
            "serve.reasoning: its marks are not those of base.thinking; set begins and ends",
        ),
        ({"mode": "on"}, None, "base.thinking.mode: "),
    ],
)
def test_contradictions_are_refused(
    document: dict, thinking: dict[str, Any], reasoning: dict[str, Any] | None, problem: str
) -> None:
    document["base"]["thinking"] = thinking
    if reasoning:
        document["serve"]["reasoning"] = reasoning
    with pytest.raises(ParamsRefused, match=problem):
        as_params(document)


def test_a_server_may_take_the_same_thoughts_out(document: dict) -> None:
    document["base"]["thinking"] = {"mode": "always"}
    document["serve"]["reasoning"] = {"parser": "deepseek_r1"}
    reasoning = as_params(document).serve.reasoning
    assert reasoning is not None
    assert (reasoning.begins, reasoning.ends) == ("<think>", "</think>")
