"""When a served answer is the offline one: by text and by token, pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.config.release_params import Verify
from checks.formats.serving import Probe, ProbeToken
from checks.rows import Message
from release.serving.dialects import Answer, Token
from release.serving.probes import agreement

SETTINGS = Verify(max_logprob_diff=0.1, near_tie=0.2, margin=0.01, start_seconds=1.0, drain_seconds=1.0)
SURE, TIED = 3.0, 0.1


def probe(*tokens: tuple[str, float], ended: bool = True) -> Probe:
    return Probe(
        id="p",
        messages=(Message(role="user", content="?"),),
        prompt_tokens=(1,),
        tokens=tuple(
            ProbeToken(id=n, text=text, logprob=-0.5, runner_up=99, runner_up_logprob=-0.5 - lead)
            for n, (text, lead) in enumerate(tokens)
        ),
        ended=ended,
        base_text="",
    )


def told(*tokens: tuple[str, float], finish: str = "stop", content: str | None = None) -> Answer:
    text = "".join(text for text, _ in tokens) if content is None else content
    return Answer(text, finish, tuple(Token(None, t, logprob) for t, logprob in tokens), None, None)


CASES = [
    # offline tokens with their leads, whether it ended, the served text, and whether that agrees
    ([("vm", SURE), ("", SURE)], True, "vm", True),
    ([("vm", SURE), ("", SURE)], True, " vm\n", True),
    ([(" vm\n", SURE), ("", SURE)], True, "vm", True),
    ([("vm", SURE), ("", SURE)], True, "vms", False),
    ([("vm", SURE), ("", TIED)], True, "vms", True),
    ([("vm", SURE), (" list", SURE)], True, "vm", False),
    ([("vm", SURE), (" list", TIED)], True, "vm", True),
    ([("vm", SURE), (" list", TIED)], True, "vm show", True),
    ([("vm", TIED), (" list", SURE)], True, "vm show", False),
    ([("vm", SURE), (" list", TIED)], False, "vm list all", False),
    ([("vm", SURE), (" list", SURE)], False, "vm list", True),
    ([("vm", SURE), ("\N{REPLACEMENT CHARACTER}", SURE)], False, "vm", True),
    ([("", TIED), ("é", SURE)], True, "x", True),
    ([("", SURE), ("é", SURE)], True, "x", False),
    ([("", SURE)], True, "", True),
    ([("", SURE)], True, "vm", False),
    ([("vm", SURE), ("", SURE)], True, "", False),
]


@pytest.mark.parametrize(("tokens", "ended", "text", "agrees"), CASES)
def test_texts_agree_when_equal_or_when_they_part_at_a_near_tie(
    tokens: list[tuple[str, float]], ended: bool, text: str, agrees: bool
) -> None:
    found = agreement.by_text(probe(*tokens, ended=ended), text, SETTINGS)
    assert (found.complaint is None) == agrees, found


TOLD = [
    # offline tokens, what the server told, and whether that agrees
    ([("vm", SURE), ("", SURE)], told(("vm", -0.55), ("<|end|>", -0.5), content="vm"), True),
    ([("vm", SURE), ("", SURE)], told(("vm", -0.55)), True),  # it leaves out the end
    ([("vm", SURE), ("", SURE)], told(("vm", -0.61), ("<|end|>", -0.5), content="vm"), False),
    ([("vm", SURE), ("", SURE)], told(("vm", -0.5), ("<|end|>", -0.61), content="vm"), False),
    ([("vm", SURE), ("", SURE)], told(("vm", -0.5), finish="length"), False),
    ([("vm", SURE), (" a", SURE), ("", SURE)], told(("vm", -0.5)), False),
    ([("vm", SURE), (" a", TIED), ("", SURE)], told(("vm", -0.5)), True),
    ([("vm", SURE), ("", SURE)], told(("vm", -0.5), ("s", -0.5)), False),
    ([("vm", SURE), ("", SURE)], told(("vm", -0.5), ("<|end|>", -0.5), content="v"), False),
    ([("", SURE), ("é", SURE), ("", SURE)], told(("", -0.5), ("é", -0.5), ("<|end|>", -0.5), content="é"), True),
    ([("", SURE), ("a", SURE), ("", SURE)], told(("<|im|>", -0.5), ("a", -0.5), ("<|end|>", -0.5), content="a"), True),
    ([("", SURE), ("a", SURE), ("", SURE)], told(("a", -0.5), ("a", -0.5), ("<|end|>", -0.5), content="aa"), False),
    ([("vm", SURE)], told(), False),
]


@pytest.mark.parametrize(("tokens", "answer", "agrees"), TOLD)
def test_tokens_agree_by_text_where_no_ids_are_told(
    tokens: list[tuple[str, float]], answer: Answer, agrees: bool
) -> None:
    assert answer.tokens is not None
    found = agreement.by_tokens(probe(*tokens), answer, answer.tokens, SETTINGS)
    assert (found.complaint is None) == agrees, found


@given(
    st.lists(st.tuples(st.text(max_size=4), st.floats(0, 5)), min_size=1, max_size=6),
    st.booleans(),
    st.text(max_size=20),
)
def test_any_text_gets_an_answer_and_the_models_own_agrees(
    tokens: list[tuple[str, float]], ended: bool, text: str
) -> None:
    offline = probe(*tokens, ended=ended)
    assert agreement.by_text(offline, offline.text, SETTINGS).complaint is None
    found = agreement.by_text(offline, text, SETTINGS)
    if all(lead > SETTINGS.near_tie for _, lead in tokens):
        assert (found.complaint is None) == (agreement.tidy(text) == agreement.tidy(offline.text))
