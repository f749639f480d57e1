"""contract: whether clients get the calls, thoughts, JSON and sampling that params.yaml promises.

The other checks ask for the text that the model writes. Here a server is asked as clients ask it, whole and streamed,
and its parser must make of an answer what the offline answer says: ``checks.records.tool_calls`` reads its calls, and
the marks of ``serve.reasoning`` divide it. Answers that the token limit cut are left out.

Sampling is compared by answers of one seed: a request that does not say how to sample must be answered as one that asks
for what the gates judged.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from checks.config.release_params import Serve, ServedDecoding
from checks.formats import json_schema
from checks.formats.serving import Probe, ServingCheck
from checks.records import json_values, tool_calls
from checks.records.tool_calls import Call, MalformedCall
from release.serving import dialects
from release.serving.client import shown
from release.serving.dialects import Answer, Parsed
from release.serving.probes import agreement
from release.serving.probes.context import ProbeContext, answered, failed, passed, some, together

_WAYS = {False: "", True: ", streamed"}
_JSON = 4  # prompts that are asked for JSON
_PLAIN = ServedDecoding(temperature=1, top_p=1)
_GREEDY = ServedDecoding(temperature=0, top_p=1)


class _Parts(NamedTuple):
    """The parts of an answer. ``content`` contains the calls, too."""

    thought: str
    content: str
    calls: tuple[Hashable, ...]


def contract(context: ProbeContext) -> ServingCheck:
    """Every promise of params.yaml is kept in whole and in streamed replies, and was tested."""
    results = list[tuple[list[str], str]]()
    if context.serve.tools or context.serve.reasoning:
        results.append(_parsers(context))
    if context.serve.json_schema is not None:
        results.append(_schema(context, context.serve.json_schema))
    if context.serve.decoding is not None:
        results.append(_sampling(context, context.serve.decoding))
    if wrong := [complaint for complaints, _ in results for complaint in complaints]:
        return failed("contract", some(wrong))
    return passed("contract", "; ".join(compared for _, compared in results))


def _parsers(context: ProbeContext) -> tuple[list[str], str]:
    """Compare the parts of answers; return the differences, and a line about what was compared."""
    serve = context.serve
    asked = [
        (probe, answer)
        for probe, answer in zip(context.probes.probes, context.answers, strict=True)
        if probe.ended and answer.finish != "length" and (serve.reasoning or probe.tools)
    ]
    limit = context.probes.max_new_tokens

    def ask(pair: tuple[Probe, Answer]) -> list[str]:
        probe, answer = pair
        body = dialects.request(context.model, probe.messages, limit)
        if serve.tools and probe.tools:
            body |= {"tools": list(probe.tools), "tool_choice": "auto"}
        else:
            body |= context.speech.for_text(probe.tools)
        return [
            f"probe {probe.id}{how}: {complaint}"
            for streamed, how in _WAYS.items()
            if (
                complaint := _unlike(
                    context, probe, answer, dialects.parsed(context.client, body, streamed)
                )
            )
        ]

    replies = answered(together(1, asked, ask, "parsers", "prompt"))
    wrong = [complaint for complaints in replies for complaint in complaints]
    parts = [part for probe, _ in asked if (part := _divide(serve, probe, probe.text))]
    counts = {
        "tools": sum(bool(part.calls) for part in parts),
        "reasoning": sum(bool(part.thought) for part in parts),
    }
    names = {"tools": "a call", "reasoning": "a thought"}
    wrong += [
        f"serve.{key}: no offline answer has {names[key]} and an end, so its parser was not tested: raise "
        "serve.probes.rows or serve.probes.max_new_tokens"
        for key, count in counts.items()
        if key in serve.promises and not count
    ]
    tested = " and ".join(
        f"{count} with {names[key]}" for key, count in counts.items() if key in serve.promises
    )
    return (
        wrong,
        f"{len(parts)} answers, {tested}, have the same parts as offline, whole and streamed",
    )


def _divide(serve: Serve, probe: Probe, text: str) -> _Parts | None:
    """Return the parts of an answer; None if it begins a call that cannot be read."""
    thought, content = "", agreement.tidy(text)
    if serve.reasoning and serve.reasoning.ends in text:
        thought, content = agreement.divided(text, serve.reasoning)
    if not (serve.tools and probe.tools):
        return _Parts(thought, content, ())
    try:
        calls = tool_calls.read(content)
    except (MalformedCall, RecursionError):
        return None
    return _Parts(thought, content, tuple(map(tool_calls.comparable, calls)))


def _unlike(context: ProbeContext, probe: Probe, answer: Answer, reply: Parsed) -> str | None:
    """Return how a reply differs from the offline answer, or None.

    Where the server's own answer parts from that at a near tie, the reply is compared with the server's.
    """
    complaint = _differs(_divide(context.serve, probe, probe.text), reply)
    if complaint and context.unlike(probe, answer.text) is None:
        own = _divide(context.serve, probe, answer.text)
        return _differs(own, reply) and complaint
    return complaint


def _differs(parts: _Parts | None, reply: Parsed) -> str | None:
    """Return which of these parts a reply does not have, or None."""
    if parts is None:
        return None
    if reply.finish == "length":
        return "was cut, and the offline answer ends"
    try:
        calls = tuple(tool_calls.comparable(call) for call in _calls(reply))
    except (ValueError, RecursionError) as error:
        return str(error)
    thought, content = reply.thought.strip(), reply.content.strip()
    if calls != parts.calls:
        named = ", ".join(f"{shown(name)} with {shown(given)}" for name, given in reply.calls)
        there = (
            f"calls {named}"
            if calls
            else f"makes no call: content is {shown(content)}, thought {shown(thought)}"
        )
        return f"{there}; the offline answer is {shown(parts.content)}"
    if thought != parts.thought:
        return (
            f"reasoning_content is {shown(thought)}, and the offline thought {shown(parts.thought)}"
        )
    if not calls and content != parts.content:
        return f"content is {shown(content)}, and the offline answer {shown(parts.content)}"
    if calls and (content not in parts.content or _has_call(content)):
        return f"content is {shown(content)} beside the calls of {shown(parts.content)}"
    return None


def _calls(reply: Parsed) -> Iterator[Call]:
    for name, text in reply.calls:
        arguments = _json(text)
        if not isinstance(arguments, dict):
            raise ValueError(
                f"calls {shown(name)} with arguments that are no JSON object: {shown(text)}"
            )
        yield Call(name, arguments)


def _has_call(content: str) -> bool:
    try:
        return bool(tool_calls.read(content))
    except (MalformedCall, RecursionError):
        return True


def _json(text: str) -> Any:
    """Read JSON. Raises ValueError if it is none."""
    try:
        return json_values.read(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is no JSON") from error


def _schema(context: ProbeContext, schema: Mapping[str, JsonValue]) -> tuple[list[str], str]:
    """Ask for JSON; return the answers that do not fit ``schema``, and a line about what was asked."""
    validator = json_schema.validator(schema)
    probes = context.probes.probes[:_JSON]
    limit = context.serve.max_total_tokens - context.serve.max_input_tokens

    def ask(probe: Probe) -> list[str]:
        body = dialects.request(context.model, probe.messages, limit)
        body |= dialects.response_format(schema)
        return [
            f"probe {probe.id}{how}: {complaint}"
            for streamed, how in _WAYS.items()
            if (complaint := _unfit(validator, dialects.parsed(context.client, body, streamed)))
        ]

    replies = answered(together(1, probes, ask, "JSON", "prompt"))
    wrong = [complaint for complaints in replies for complaint in complaints]
    return wrong, f"{len(probes)} answers fit serve.json_schema, whole and streamed"


def _unfit(validator: json_schema.Validator, reply: Parsed) -> str | None:
    """Return why the content of a reply does not fit, or None."""
    if reply.finish == "length":
        return f"the JSON had no end where serve.max_total_tokens cut it: {shown(reply.content)}"
    try:
        why = json_schema.unfit(validator, _json(reply.content))
    except ValueError as reason:
        why = str(reason)
    except LookupError as reason:
        return f"serve.json_schema cannot be followed: {reason}"
    return why and f"content does not fit serve.json_schema: {why}"


def _sampling(context: ProbeContext, judged: ServedDecoding) -> tuple[list[str], str]:
    """Ask with no sampling, the judged one and another; return what differs, and a line about what was compared.

    No answer may end early, because short answers are nearly the same however they are sampled. Answers that differ
    when the same is asked again are not compared.
    """
    limit = context.probes.max_new_tokens
    other = _GREEDY if judged == _PLAIN else _PLAIN

    def ask(numbered: tuple[int, Probe]) -> list[Parsed]:
        seed, probe = numbered
        body = dialects.request(context.model, probe.messages, limit) | {"seed": seed}
        del body["temperature"]
        body |= context.speech.for_text(probe.tools)
        body |= context.speech.without(context.probes.ends, limit)
        plain = dict(context.speech.only)
        return [
            dialects.parsed(context.client, body | fields, streamed=False)
            for fields in (
                judged.model_dump() | plain,
                {},
                judged.model_dump() | plain,
                other.model_dump() | plain,
            )
        ]

    numbered = list(enumerate(context.probes.probes, 1))
    replies = answered(together(1, numbered, ask, "sampling", "prompt"))
    same = [
        (probe, default, first, otherwise)
        for probe, (first, default, again, otherwise) in zip(
            context.probes.probes, replies, strict=True
        )
        if first == again
    ]
    wrong = [
        f"probe {probe.id}: a request without sampling gets {shown(default.content)}, and one with that of "
        f"serve.decoding {shown(first.content)}, by the same seed"
        for probe, default, first, _ in same
        if default != first
    ]
    if not same:
        wrong.append(
            "serve.decoding: no answer comes again by the same seed, so nothing was tested: "
            "lower serve.probes.max_new_tokens"
        )
    elif all(first == otherwise for _, _, first, otherwise in same):
        wrong.append(
            f"serve.decoding: no answer of {len(same)} differs at temperature {other.temperature:g}, so nothing was "
            "tested: raise serve.probes.rows or serve.probes.max_new_tokens"
        )
    return wrong, f"{len(same)} answers are sampled as serve.decoding says where a request does not"
