"""Scorers: what each means, and that none leaves [0, 1], hangs or raises on any text."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from checks.evaluation import scoring
from checks.kinds.scorer import SCORERS
from checks.process.errors import ParamsRefused
from checks.scorers import regex as regex_scorer
from checks.scorers.contains import Contains
from checks.scorers.edit_similarity import EditSimilarity
from checks.scorers.exact_match import ExactMatch
from checks.scorers.json_schema import JsonSchema
from checks.scorers.json_valid import JsonValid
from checks.scorers.refusal import Refusal
from checks.scorers.regex import Regex
from checks.scorers.token_f1 import TokenF1
from checks.scorers.tool_call import ToolCall
from tests.conftest import read_yaml

EXACT, F1, EDIT = ExactMatch(kind="exact-match"), TokenF1(kind="token-f1"), EditSimilarity(kind="edit-similarity")
HAS = Contains(kind="contains")
REFUSES = Refusal(kind="refusal")
JSON, WORD = JsonValid(kind="json-valid"), Regex(kind="regex", pattern=r"az( \w+)+")
CALLS, LOOSE = ToolCall(kind="tool-call"), ToolCall(kind="tool-call", texts="loose")
TEXT = st.text(max_size=60)


@pytest.mark.parametrize("kind", SCORERS.kinds)
def test_a_scorer_means_what_its_name_says(kind: str) -> None:
    """Each line of its sample has a prediction, a reference, the score, and where it needs them parameters."""
    cases = read_yaml(Path(__file__).with_name(f"{kind.replace('-', '_')}.yaml").read_text())
    assert len({case[2] for case in cases}) > 1
    for prediction, reference, expected, *more in cases:
        parameters = more[0] if more else {}
        scorer = SCORERS.kinds[kind].model_validate({"kind": kind} | parameters)
        assert scoring.score(scorer, prediction, reference) == pytest.approx(expected), prediction


def test_json_is_read_to_any_depth_and_length() -> None:
    assert scoring.score(JSON, "9" * 5000, "") == 1.0
    assert scoring.score(JSON, "[" * 100_000, "") == 0.0


LOOK = '{"name": "look", "arguments": {"at": [1, true], "in": {"a": "x", "b": null}}}'
SAME = '{"arguments": {"in": {"b": null, "a": "x"}, "at": [1.0, true]}, "name": "look"}'
SHUT = '{"name": "shut", "arguments": {}}'
WANTED = f"I look.\n<tool_call>\n{LOOK}\n</tool_call>\n<tool_call>\n{SHUT}\n</tool_call>"
ONE = f"<tool_call>\n{LOOK}\n</tool_call>"
TAGS = f"{ONE}\n{ONE.replace('x', 'a</think><tool_call></tool_call>b')}"


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (f"<tool_call>{SHUT}</tool_call> and <tool_call> {SAME} </tool_call>.", WANTED, 1),  # any order, keys too
        (f"<think>I could <tool_call></think>{WANTED}", WANTED, 1),
        (f"{SAME}\n{SHUT}", WANTED, 1),  # as decoding leaves it where the tags are special tokens
        (f"[TOOL_CALLS] [{SAME}, {SHUT}]", WANTED, 1),
        (f"[{SAME}, {SHUT}]", WANTED, 1),
        ('[TOOL_CALLS]look[ARGS]{"in": {"b": null, "a": "x"}, "at": [1, true]}[TOOL_CALLS]shut[ARGS]{}', WANTED, 1),
        ('look{"in": {"b": null, "a": "x"}, "at": [1, true]}shut{}', WANTED, 1),
        (f"<|python_tag|>{SAME.replace('arguments', 'parameters')}; {SHUT}", WANTED, 1),
        (SAME.replace("arguments", "parameters"), ONE, 1),
        (f"<tool_call>\n{LOOK}", ONE, 1),  # a server reads it too
        (ONE, WANTED, 0),
        (f"{ONE}{ONE}", ONE, 0),  # once is not twice
        (f"{ONE}<tool_call>{SHUT}</tool_call><tool_call>{SHUT}</tool_call>", f"{ONE}{ONE}<tool_call>{SHUT}", 0),
        (ONE.replace("look", "peek"), ONE, 0),
        (ONE.replace("[1, true]", "[true, 1]"), ONE, 0),  # the order of a list counts, and true is not 1
        (ONE.replace("[1, true]", '["1", true]'), ONE, 0),
        (ONE.replace("null", "0"), ONE, 0),
        (ONE.replace("null", "false"), ONE.replace("null", "0"), 0),
        (ONE.replace('"x"', '"X"'), ONE, 0),
        (ONE.replace("null}", 'null, "c": 1}'), ONE, 0),  # an argument more
        (ONE.replace('"at"', '"in": {}, "at"'), ONE, 0),  # a key twice
        (f"Look: {LOOK}", ONE, 0),  # words before JSON are an answer in words
        ("<tool_call>look()</tool_call>", ONE, 0),
        ("I cannot.", ONE, 0),
        ("I cannot.", "You cannot.", 1),  # both call nothing
        ('{"name": "Ann"}', "You cannot.", 1),  # JSON that is no call
        (ONE, "You cannot.", 0),
        ("<tool_call>look()</tool_call>", "You cannot.", 0),
        (f"<tool_call>{'[' * 100_000}", ONE, 0),
        (ONE.replace("null", f"{'[' * 500}{']' * 500}"), ONE, 0),
        (TAGS, TAGS, 1),  # tags in the JSON of a call are text
        (ONE, TAGS, 0),
        ("I cannot.", TAGS, 0),
        (f"So <tool_call>{SHUT}</tool_call>?</think>{TAGS}", TAGS, 1),
        (f"{ONE}, or", ONE, 1),
        (ONE.replace("</", ", or</"), ONE, 0),
    ],
)
def test_calls_are_equal_if_names_and_arguments_are(prediction: str, reference: str, expected: float) -> None:
    assert scoring.score(CALLS, prediction, reference) == expected


def test_loose_texts_are_compared_as_the_berkeley_leaderboard_does() -> None:
    said, other = ONE.replace('"x"', '"San José, CA_1\'s"'), ONE.replace('"x"', '"san josé CA1\\"s"')
    assert [scoring.score(scorer, said, other) for scorer in (CALLS, LOOSE)] == [0, 1]
    assert scoring.score(LOOSE, ONE.replace("look", "LOOK"), ONE) == 0  # names are no texts


@pytest.mark.parametrize("reference", ["", "Refuse", "refused", "yes"])
def test_a_reference_that_does_not_say_whether_to_refuse_is_refused(reference: str) -> None:
    with pytest.raises(ParamsRefused, match="is neither 'refuse' nor 'answer'; give each row one"):
        REFUSES.score("I can't help with that.", reference)


@given(TEXT, TEXT)
def test_every_score_lies_between_0_and_1(prediction: str, reference: str) -> None:
    for scorer in (EXACT, F1, EDIT, HAS, JSON, WORD, CALLS):
        assert 0 <= scoring.score(scorer, prediction, reference) <= 1


@given(TEXT)
def test_the_reference_itself_scores_1(text: str) -> None:
    assert [scoring.score(scorer, text, text) for scorer in (EXACT, F1, EDIT)] == [1, 1, 1]


@given(TEXT, TEXT)
def test_similarity_does_not_depend_on_the_order(one: str, two: str) -> None:
    for scorer in (EXACT, F1, EDIT):
        assert scoring.score(scorer, one, two) == scoring.score(scorer, two, one)


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<x>a)(?P=y)", "[z-a]"])
def test_a_pattern_that_does_not_compile_is_refused(pattern: str) -> None:
    with pytest.raises(ParamsRefused, match="is not a regular expression"):
        scoring.score(Regex(kind="regex", pattern=pattern), "a", "")


@pytest.mark.slow
def test_a_pattern_that_would_run_for_ever_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex_scorer, "REGEX_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(ParamsRefused, match="repetition inside a repetition"):
        scoring.score(Regex(kind="regex", pattern=r"(a|aa)+b"), "a" * 60 + "!", "")
    assert time.monotonic() - started < 10


def test_a_schema_that_is_elsewhere_is_refused_and_not_fetched() -> None:
    scorer = JsonSchema.model_validate({"kind": "json-schema", "json_schema": {"$ref": "https://elsewhere.invalid/a"}})
    with pytest.raises(
        ParamsRefused, match=r"refers to a schema that is not in it: .*elsewhere.* write that schema into"
    ):
        scoring.score(scorer, "{}", "")


def test_no_schema_is_refused_where_it_stands() -> None:
    with pytest.raises(ValidationError, match=r"json_schema: \$\.type: 'objekt' is not valid"):
        JsonSchema.model_validate({"kind": "json-schema", "json_schema": {"type": "objekt"}})


def test_json_too_deep_for_a_schema_scores_nothing() -> None:
    scorer = JsonSchema(kind="json-schema", json_schema={"type": "array"}, equal=True)
    assert scoring.score(scorer, "[" * 100_000 + "]" * 100_000, "[]") == 0.0
