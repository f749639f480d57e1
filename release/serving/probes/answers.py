"""template, parity, adapter: compare the answers to the probes, one at a time, with the offline model's."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from checks.config.release_params import Verify
from checks.formats.serving import Probe, ServingCheck
from release.serving import dialects
from release.serving.client import NoAnswer, shown
from release.serving.dialects import Answer
from release.serving.probes import agreement, endpoints
from release.serving.probes.context import (
    ProbeContext,
    answered,
    failed,
    passed,
    some,
    together,
    unavailable,
)

_SEVERAL = 4  # long answers: one of so many may part at up to twice near_tie


def template(context: ProbeContext) -> ServingCheck:
    """The server's token ids of every probe's chat are the offline ones; without ids, their number."""
    probes = context.probes.probes
    if context.speech.tokenize is None:
        return _counts(context)

    def ask(probe: Probe) -> tuple[int, ...] | None:
        return dialects.tokenize(
            context.client, context.speech, context.model, probe.messages, probe.tools
        )

    wrong = []
    for probe, ids in zip(
        probes, answered(together(1, probes, ask, "chat template", "prompt")), strict=True
    ):
        if ids != probe.prompt_tokens:
            pairs = enumerate(zip(ids or (), probe.prompt_tokens, strict=False), 1)
            place = next((n for n, (here, there) in pairs if here != there), None)
            difference = f"differ from token {place} on" if place else "differ in length"
            wrong.append(
                f"probe {probe.id}: {len(ids or ())} token ids, {len(probe.prompt_tokens)} offline: they {difference}"
            )
    if wrong:
        return failed("template", some(wrong))
    return passed("template", f"the token ids of {len(probes)} chats are the offline ones")


def _counts(context: ProbeContext) -> ServingCheck:
    wrong, counted = [], 0
    for probe, answer in zip(context.probes.probes, context.answers, strict=True):
        if answer.prompt_tokens is None:
            continue
        counted += 1
        if answer.prompt_tokens != len(probe.prompt_tokens):
            wrong.append(
                f"probe {probe.id}: {answer.prompt_tokens} tokens, {len(probe.prompt_tokens)} offline"
            )
    why = context.runtime.cannot.get(
        "template", "this server does not return the token ids of a chat"
    )
    if wrong:
        return failed("template", f"another number of tokens in a chat: {some(wrong)}")
    if counted < len(context.probes.probes):
        return unavailable("template", f"{why}, nor how many there are")
    return passed(
        "template",
        f"{counted} chats have as many tokens as offline; only the number was compared: {why}",
    )


class _Compared(NamedTuple):
    """``wrong``: what is wrong with ``parted`` answers, or None; ``said``: what was compared; ``value``: the figure."""

    wrong: str | None
    said: str
    value: float | None
    parted: int = 0


def parity(context: ProbeContext) -> ServingCheck:
    """Check that the server answers each probe as the offline model does, and uses what params.yaml turns on.

    Equal answers say nothing about a cache or a guess that no answer needed.
    """
    settings = context.runtime.chosen(context.serve).values()
    names = [name for setting in settings for name in setting.counters]
    before = endpoints.counters(context, names)
    result = _parity(context)
    if result.status != "pass":
        return result
    unused, use_seen = endpoints.settings_used(context, before)
    if unused:
        return failed("parity", unused, result.value, result.bound)
    return result.model_copy(update={"reason": "; ".join([result.reason, *use_seen])})


def _parity(context: ProbeContext) -> ServingCheck:
    """The answers alone, also when no token may end them.

    The second part is needed because answers may be short. A penalty on repetition shows only in a long answer, and not
    in log-probabilities, which servers report as they were before the penalty.
    """
    settings, long = context.serve.verify, context.long_probes
    bound = None if context.speech.logprobs is None else settings.max_logprob_diff
    short = _compared(context, context.probes.probes, context.answers, settings)
    if short.wrong:
        return failed("parity", short.wrong, short.value, bound)
    if context.serve.prefix_caching:
        again = answered(
            together(1, context.probes.probes, context.probe, "the same again", "prompt")
        )
        cached = _compared(context, context.probes.probes, again, settings)
        if cached.wrong:
            return failed(
                "parity", f"asked again, with prefix caching: {cached.wrong}", cached.value, bound
            )
    why = (
        "none is among the probes"
        if context.speech.unending
        else "this server cannot be kept from ending an answer"
    )
    answers: tuple[Answer, ...] = ()
    try:
        answers = answered(together(1, long, context.long, "long answers", "prompt"))
    except NoAnswer as reason:
        if context.server.how != "url" or reason.status not in (400, 422):
            raise
        why = str(reason)
    if not answers:
        return passed(
            "parity", f"{short.said}; no long answer was compared: {why}", short.value, bound
        )
    # By the choice of tokens alone: where the end is likeliest, the others' log-probabilities are far from exact.
    chosen = settings.model_copy(update={"max_logprob_diff": math.inf})
    result = _compared(context, long, answers, chosen)
    if result.parted == 1 and len(long) >= _SEVERAL:
        # A penalty changes several answers. A correct server in 16 bits changed one of eight, at 0.5 nats.
        wide = chosen.model_copy(update={"near_tie": 2 * chosen.near_tie})
        if (wider := _compared(context, long, answers, wide)).wrong is None:
            result = wider._replace(
                said=f"{wider.said}, one of them at more than near_tie and at most twice"
            )
    if result.wrong:
        return failed("parity", f"where nothing ends an answer, {result.wrong}", short.value, bound)
    context.unended |= {probe.id: answer.text for probe, answer in zip(long, answers, strict=True)}
    return passed(
        "parity", f"{short.said}; where nothing ends an answer, {result.said}", short.value, bound
    )


def _compared(
    context: ProbeContext, probes: Sequence[Probe], answers: Sequence[Answer], settings: Verify
) -> _Compared:
    """Compare answers by their tokens, or by their texts if the server returns no log-probabilities."""
    pairs, by_tokens = list(zip(probes, answers, strict=True)), context.speech.logprobs is not None
    reasoning = context.serve.reasoning
    if by_tokens and (without := [probe.id for probe, answer in pairs if answer.tokens is None]):
        wrong = f"probe {without[0]}: answered without the requested log-probabilities"
        return _Compared(wrong, "", None)
    agreements = [
        agreement.by_tokens(probe, answer, answer.tokens or (), settings, reasoning)
        if by_tokens
        else agreement.by_text(probe, answer.text, settings, context.silent, reasoning)
        for probe, answer in pairs
    ]
    equal = sum(context.tidy(probe.text) == context.tidy(answer.text) for probe, answer in pairs)
    value = max(agreed.largest for agreed in agreements) if by_tokens else equal / len(pairs)
    if complaints := [agreed.complaint for agreed in agreements if agreed.complaint]:
        return _Compared(some(complaints), "", value, len(complaints))
    compared = sum(agreed.compared for agreed in agreements)
    if not compared:
        what = "every answer parted at its first token: nothing could be compared"
        return _Compared(what, "", None if by_tokens else value)
    why = context.runtime.cannot.get("parity", "this server returns no log-probabilities")
    summary = f"{equal} of {len(pairs)} texts are the offline ones, the others part at a near tie; by text: {why}"
    if by_tokens:
        summary = (
            f"{compared} of {sum(len(probe.tokens) for probe in probes)} tokens of {len(probes)} answers compared, at "
            f"most {value:.3f} nats apart; {sum(agreed.parted for agreed in agreements)} answers part at a near tie"
        )
    return _Compared(None, summary, value)


def adapter(context: ProbeContext) -> ServingCheck:
    """Check that the server answers as the tuned model where the untuned one answers otherwise.

    Long answers decide only where both models answer every probe alike: two models that give a prompt the same label
    differ in what they would say after it.
    """
    served = zip(context.probes.probes, (answer.text for answer in context.answers), strict=True)
    answers = _telling(context, served) or _telling(
        context,
        [
            (probe, context.unended[probe.id])
            for probe in context.long_probes
            if probe.base_text and probe.id in context.unended
        ],
    )
    if not answers:
        return failed(
            "adapter", "not decidable: the base answers every probe as the judged model does"
        )
    tuned, base = 0, []
    for probe, text in answers:
        tuned += context.tidy(text) == context.tidy(probe.text)
        parted = agreement.by_text(
            probe, text, context.serve.verify, reasoning=context.serve.reasoning
        )
        if context.tidy(text) == context.tidy(probe.base_text) and parted.complaint:
            base.append(f"probe {probe.id}: {shown(text)}")
    share = tuned / len(answers)
    if base:
        return failed(
            "adapter",
            f"{len(base)} of {len(answers)} answers are the untuned base's: {some(base)}",
            share,
        )
    if not tuned:
        return failed(
            "adapter",
            f"none of {len(answers)} answers is the judged model's where the base's differs",
            share,
        )
    summary = (
        f"of {len(answers)} probes with another answer of the base, {tuned} answers are the judged model's and none is "
        "the base's"
    )
    return passed("adapter", summary, share)


def _telling(
    context: ProbeContext, answers: Iterable[tuple[Probe, str]]
) -> list[tuple[Probe, str]]:
    """Return the probes, each with its served answer, that the base answers otherwise than the merged model."""
    return [
        (probe, text)
        for probe, text in answers
        if context.tidy(probe.text) != context.tidy(probe.base_text)
    ]
