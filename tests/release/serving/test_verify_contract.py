"""The check contract of `lockstep verify`, against labelled stand-ins for vLLM and SGLang."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from checks.config.params import Params
from checks.config.release_params import Reasoning, ServedDecoding, Tools
from checks.formats.serving import CheckName, Probe, ServingCheck, combine
from checks.formats.suite_report import SuiteAnswer
from checks.records.rows import Message
from release.serving import dialects, examine
from release.serving.probes import score
from release.serving.probes.context import ProbeContext, failed
from release.serving.suite_questions import Served
from tests.release.serving.test_verify_checks import DIGEST, END, PROBES, ask, probe, talking, token
from tests.vllm_standin import VllmStandIn

pytestmark = pytest.mark.slow

TOOLS: Any = ({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},)
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "é", "n": 1}}\n</tool_call>'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["vm", "storage"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def said(number: int, text: str, *, tools: bool = False, ended: bool = True) -> Probe:
    """A probe whose answer is ``text``, in tokens of three characters."""
    tokens = [token(40 + place, text[place : place + 3]) for place in range(0, len(text), 3)]
    made = probe(number, *tokens, *([END] if ended else []), ended=ended)
    return made.model_copy(update={"tools": TOOLS if tools else (), "unended": ()})


CALLING = (
    said(0, CALL, tools=True),
    said(1, "Both. " + CALL + "\n" + CALL.replace("1}", "2}"), tools=True),
    said(2, "No look.", tools=True),
    said(3, "plain"),
    said(4, CALL[:30], tools=True, ended=False),
)
THINKING = (
    said(0, "<think>\nIt runs.\n</think>\n\nvm"),
    said(1, "<think>It is stored.</think>storage"),
    said(2, "<think>It is cut", ended=False),
)
BOTH = (said(0, f"<think>look</think>{CALL}", tools=True), said(1, "<think>no</think>vm", tools=True))
PARSERS: dict[str, Any] = {
    "tools": Tools(parser="hermes"),
    "reasoning": Reasoning(parser="deepseek_r1"),
    "json_schema": SCHEMA,
    "decoding": ServedDecoding(temperature=0.7, top_p=0.9),
}


@contextmanager
def serving(
    params: Params, probes: tuple[Probe, ...], *promises: str, name: str = "vllm"
) -> Iterator[tuple[ProbeContext, VllmStandIn]]:
    """A stand-in that was started with the parsers of ``promises``, and what it is asked with."""
    with talking(params, name, probes) as (context, server):
        assert isinstance(server, VllmStandIn)
        context.probes = context.probes.model_copy(update={"max_new_tokens": 60})
        context.serve = context.serve.model_copy(update={key: PARSERS[key] for key in promises})
        server.tool_parser = "hermes" if "tools" in promises else None
        server.reasoning_parser = "deepseek_r1" if "reasoning" in promises else None
        yield context, server


def contract(context: ProbeContext) -> ServingCheck:
    return examine.CHECKS["contract"](context)


KEPT: list[tuple[tuple[Probe, ...], tuple[str, ...], str]] = [
    (CALLING, ("tools",), "3 answers, 2 with a call, have the same parts as offline, whole and streamed"),
    (THINKING, ("reasoning",), "2 answers, 2 with a thought, have the same parts as offline"),
    (BOTH, ("tools", "reasoning"), "2 answers, 1 with a call and 2 with a thought, have"),
    (PROBES, ("json_schema",), "4 answers fit serve.json_schema, whole and streamed"),
    (BOTH, ("tools", "reasoning", "json_schema"), "have the same parts as offline, whole and streamed; 2 answers fit"),
]


@pytest.mark.parametrize(("probes", "promises", "says"), KEPT)
def test_a_server_that_keeps_its_promises_passes_every_check(
    probes: tuple[Probe, ...], promises: tuple[str, ...], says: str, params: Params
) -> None:
    with serving(params, probes, *promises) as (context, _):
        found = ask(context)
    assert not [check for check in found.values() if check.status != "pass"]
    assert says in found["contract"].reason
    assert combine(tuple(found.values())) == "pass"


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_rows_and_questions_are_asked_under_the_schema_of_the_offline_answers(name: str, params: Params) -> None:
    text, other = json.dumps(SCHEMA), {"type": "object"}
    with serving(params, PROBES, "json_schema", name=name) as (context, server):
        context.offline = [row.model_copy(update={"prediction": server.json}) for row in context.offline]
        answer = SuiteAnswer(
            sample="one", model=DIGEST, messages=context.rows[0].messages, reference="", answer=server.json
        )
        context.suites = tuple(
            Served(suite, "contains", [answer], lambda *_: 0.0, 8, schema)
            for suite, schema in (("bound", json.dumps(other)), ("free", None))
        )
        free = score.score(context).reason
        server.bodies.clear()
        context.json_schema = text
        bound = score.score(context).reason
    rows = len(context.rows)
    assert (f"on {rows} rows, {rows} texts differ" in free, f"on {rows} rows, 0 texts differ" in bound) == (True, True)
    assert "1 rows of suite bound, 0 texts differ" in bound
    assert "1 rows of suite free, 1 texts differ" in bound
    asked = [body.get("response_format", {}).get("json_schema", {}).get("schema") for body in server.bodies]
    assert asked == [*([SCHEMA] * rows), other, None]


def test_sglang_keeps_thoughts_apart_for_clients_and_whole_for_the_other_checks(params: Params) -> None:
    with serving(params, THINKING, "reasoning", "json_schema", name="sglang") as (context, server):
        found = ask(context)
    assert not [check for check in found.values() if check.status != "pass"]
    assert {body.get("separate_reasoning", True) for body in server.bodies} == {True, False}


def test_without_a_promise_nothing_is_asked_and_the_report_has_no_such_check(params: Params) -> None:
    with talking(params, "vllm") as (context, server):
        found = ask(context)
    assert "contract" not in found
    assert not [body for body in server.bodies if {"response_format", "tools"} & set(body)]


Spoil = Callable[[VllmStandIn], object]


def setting(**values: Any) -> Spoil:
    def spoil(server: VllmStandIn) -> None:
        for name, value in values.items():
            setattr(server.faults if hasattr(server.faults, name) else server, name, value)

    return spoil


FAULTS: Mapping[str, tuple[tuple[Probe, ...], tuple[str, ...], Spoil, str]] = {
    "a parser that does not fit": (
        CALLING, ("tools",), setting(tool_parser="llama3_json"), "p0: makes no call: content is “<tool_call>",
    ),
    "no parser": (CALLING, ("tools",), setting(tool_parser=None), "HTTP 400"),
    "a lost argument": (CALLING, ("tools",), setting(arguments='{"at": "é"}'), "calls “look” with “{\"at\": \"é\"}”"),
    "a number that became a text": (
        CALLING, ("tools",), setting(arguments='{"at": "é", "n": "1"}'), "the offline answer is “<tool_call>",
    ),
    "arguments that are no JSON": (CALLING, ("tools",), setting(arguments="{'at': 1}"), "p0: “{'at': 1}” is no JSON"),
    "arguments that are no object": (CALLING, ("tools",), setting(arguments="[1]"), "arguments that are no JSON object"),
    "a stream that differs": (CALLING, ("tools",), setting(stream_otherwise=True), "p0, streamed: “{"),
    "a thought in the content": (
        THINKING, ("reasoning",), setting(reasoning_parser=None),
        "p0: reasoning_content is “”, and the offline thought “It runs.”",
    ),
    "an answer in the thought": (
        (*THINKING, said(3, "network")), ("reasoning",), setting(),
        "p3: reasoning_content is “network”, and the offline thought “”",
    ),
    "thoughts that nobody asked for": (
        BOTH, ("tools",), setting(reasoning_parser="deepseek_r1"), "p0: reasoning_content is “look”",
    ),
    "a schema that is ignored": (PROBES, ("json_schema",), setting(ignores_schema=True), "p0: content does not fit"),
    "a value that the schema forbids": (
        PROBES, ("json_schema",), setting(json='{"label": "sql"}'), "$.label: 'sql' is not one of",
    ),
    "JSON that is none": (PROBES, ("json_schema",), setting(json='{"label": NaN}'), "is no JSON"),
    "JSON in a fence": (PROBES, ("json_schema",), setting(json='```json\n{"label": "vm"}\n```'), "“```json"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_promise_is_found_and_named(fault: str, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, promises, spoil, says = FAULTS[fault]
    monkeypatch.setattr(examine, "CHECKS", {"contract": examine.CHECKS["contract"]})
    with serving(params, probes, *promises) as (context, server):
        spoil(server)
        found = ask(context)
    assert found["contract"].status == "fail", found["contract"]
    assert says in found["contract"].reason
    assert combine(tuple(found.values())) == "fail"


UNTESTED = [
    ((said(0, "vm", tools=True), *PROBES[1:]), "tools", "serve.tools: no offline answer has a call and an end"),
    (PROBES, "tools", "serve.tools: no offline answer has a call and an end"),
    ((said(0, CALL[:30], tools=True),), "tools", "so its parser was not tested"),
    ((said(0, "<think>cut", ended=False),), "reasoning", "serve.reasoning: no offline answer has a thought"),
]


@pytest.mark.parametrize(("probes", "promise", "says"), UNTESTED)
def test_a_parser_that_no_answer_needed_does_not_pass(
    probes: tuple[Probe, ...], promise: str, says: str, params: Params
) -> None:
    with serving(params, probes, promise) as (context, _):
        found = contract(context)
    assert found.status == "fail", found
    assert says in found.reason


def test_a_default_that_no_answer_shows_does_not_pass(params: Params) -> None:
    """The stand-in answers alike at every temperature."""
    with serving(params, PROBES, "decoding") as (context, server):
        context.probes = context.probes.model_copy(update={"ends": ()})
        result = contract(context)
    assert result.status == "fail", result
    assert "serve.decoding: no answer of 4 differs at temperature 1, so nothing was tested" in result.reason
    plain = {"top_k": 0, "min_p": 0}
    judged, other = {"temperature": 0.7, "top_p": 0.9} | plain, {"temperature": 1.0, "top_p": 1.0} | plain
    sampling = ("temperature", "top_p", "top_k", "min_p")
    asked = [{name: body[name] for name in sampling if name in body} for body in server.bodies]
    assert asked == [judged, {}, judged, other] * 4
    assert [body["seed"] for body in server.bodies] == [seed for seed in (1, 2, 3, 4) for _ in range(4)]


def test_a_server_that_draws_otherwise_by_the_same_seed_is_not_said_to_have_no_sampling(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()
    monkeypatch.setattr(dialects, "parsed", lambda *_, **__: dialects.Parsed(str(next(numbers)), "", (), "stop"))
    with serving(params, PROBES, "decoding") as (context, _):
        result = contract(context)
    assert (result.status, result.reason) == (
        "fail",
        (
            "serve.decoding: no answer comes again by the same seed, so nothing was tested: "
            "lower serve.probes.max_new_tokens"
        ),
    )


def test_a_call_that_parts_from_the_offline_one_at_a_near_tie_is_the_server_s_own(params: Params) -> None:
    """Both models are right there: parity allows it, so the parser is held to what this server wrote."""
    own = CALL.replace("look", "seek")
    place = CALL.index("look") // 3
    made = said(0, CALL, tools=True)
    tied = [part.model_copy(update={"runner_up_logprob": -0.15}) for part in made.tokens]
    offline = made.model_copy(update={"tokens": (*tied[: place + 1], *made.tokens[place + 1 :])})
    with serving(params, (offline,), "tools") as (context, server):
        server.probes[offline.messages[-1].content] = said(0, own, tools=True)
        assert contract(context).status == "pass"
        server.faults.arguments = "{}"
        assert contract(context).status == "fail"


def test_a_mark_that_the_prompt_has_already_is_in_no_answer(params: Params) -> None:
    """A template may begin the thought itself; the answer has only the mark after it."""
    probes = (said(0, "It runs.\n</think>\n\nvm"), said(1, "Stored.</think>storage"))
    with serving(params, probes, "reasoning") as (context, _):
        found = ask(context)
    assert not [check for check in found.values() if check.status != "pass"]


def test_every_promise_is_a_check_of_a_server_that_never_answered(params: Params) -> None:
    start = failed("start", "no")
    plain = {check.name for check in examine.nothing(start, params.serve)}
    promised: set[CheckName] = {check.name for check in examine.nothing(start, params.serve.model_copy(update=PARSERS))}
    assert promised - plain == {"contract"}


def test_a_schema_that_leads_out_of_itself_fetches_nothing(params: Params) -> None:
    began = time.monotonic()
    with serving(params, PROBES, "json_schema") as (context, _):
        context.serve = context.serve.model_copy(update={"json_schema": {"$ref": "http://127.0.0.1:9/schema"}})
        found = contract(context)
    assert found.status == "fail"
    assert "serve.json_schema cannot be followed" in found.reason
    assert time.monotonic() - began < 30


def test_messages_of_the_probes_are_sent_as_they_are(params: Params) -> None:
    with serving(params, CALLING, "tools") as (context, server):
        contract(context)
    auto = [body for body in server.bodies if body.get("tool_choice") == "auto"]
    assert [bool(body.get("stream")) for body in auto] == [False, True] * 3
    assert all(body["tools"] == list(TOOLS) and body["temperature"] == 0 for body in auto)
    assert auto[0]["messages"] == [message.model_dump() for message in CALLING[0].messages]
    assert isinstance(CALLING[0].messages[0], Message)
