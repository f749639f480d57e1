"""When a served answer is the offline one: by text and by token, pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks.config.release_params import Verify
from checks.formats.serving import Probe, ProbeReport, ProbeToken
from checks.records.rows import Message
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
    return Answer(text, finish, tuple(Token(None, t, logprob) for t, logprob in tokens), None)


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


SILENT = [
    # offline tokens with their leads and runners-up, the served text, and whether that agrees: 98 is <|im_start|>
    ([("vm", SURE, 1), (" a", TIED, 98), (" b", SURE, 1), (" c", SURE, 1)], "vm a b x", True),
    ([("vm", SURE, 1), (" a", TIED, 97), (" b", SURE, 1), (" c", SURE, 1)], "vm a b x", False),  # 97 has a text
    ([("vm", SURE, 1), (" a", SURE, 98), (" b", SURE, 1), (" c", SURE, 1)], "vm a b x", False),
    ([("vm", SURE, 1), ("", TIED, 97), (" b", SURE, 1), (" c", SURE, 1)], "vm b x", True),  # it left <|im_start|> out
    ([("vm", SURE, 1), (" b", SURE, 1), (" c", TIED, 98)], "vm x", False),  # the tie is later than the difference
    ([("vm", SURE, 1), (" a", TIED, 98), (" b", SURE, 1)], "vm a", True),  # <|im_start|> used up the limit
    ([("vm", TIED, 98), (" a", SURE, 1)], "vm a, and more", True),
]


@pytest.mark.parametrize(("tokens", "text", "agrees"), SILENT)
def test_an_earlier_near_tie_with_a_token_without_text_ends_the_comparison_there(
    tokens: list[tuple[str, float, int]], text: str, agrees: bool
) -> None:
    offline = probe(*((text, lead) for text, lead, _ in tokens), ended=False)
    known = [token.model_copy(update={"runner_up": n}) for token, (_, _, n) in zip(offline.tokens, tokens, strict=True)]
    offline = offline.model_copy(update={"tokens": tuple(known)})
    found = agreement.by_text(offline, text, SETTINGS, frozenset({98}))
    assert (found.complaint is None, found.parted) == (agrees, agrees), found
    if not agrees:
        assert "(serve.verify.near_tie)" in (found.complaint or "")


def test_tokens_without_text_are_those_of_the_template_and_the_ends() -> None:
    """The prompts: 98 <|im_start|>, 5 "user", 7 another word in each."""
    ours = [probe(("vm", SURE), ("", SURE)).model_copy(update={"prompt_tokens": (98, 5, word, 99)}) for word in (7, 8)]
    long = ProbeToken(id=5, text="user", logprob=-0.5, runner_up=98, runner_up_logprob=-0.6)
    ours[0] = ours[0].model_copy(update={"unended": (long,)})
    none = "sha256:" + "0" * 64
    report = ProbeReport(
        merged=none, base=none, valid=none, max_new_tokens=8, precision="fp32", device="cpu", probes=tuple(ours),
        ends=(99, 3),
    )  # fmt: skip
    assert agreement.silent(report) == {98, 99, 3, 1}
    assert 98 not in agreement.silent(report.model_copy(update={"probes": tuple(ours[:1])})), "one prompt shows nothing"


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
