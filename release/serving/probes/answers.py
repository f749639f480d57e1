"""template, parity, adapter: the answers to the probes, one at a time, held to the offline model's."""

from checks.serving import Continuation, Probe, ServingCheck
from release.serving import dialects
from release.serving.client import NoAnswer, shown
from release.serving.probes import agreement
from release.serving.probes.asked import Asked, answered, failed, passed, some, together, unavailable


def template(asked: Asked) -> ServingCheck:
    """The server makes the offline token ids of every probe's chat; where it cannot say, as many."""
    probes = asked.probes.probes
    if asked.speech.tokenize is None:
        return _counts(asked)

    def ask(probe: Probe) -> tuple[int, ...] | None:
        return dialects.tokenize(asked.client, asked.speech, asked.model, probe.messages)

    wrong = []
    for probe, ids in zip(probes, answered(together(1, probes, ask, "chat template", "prompt")), strict=True):
        if ids != probe.prompt_tokens:
            pairs = enumerate(zip(ids or (), probe.prompt_tokens, strict=False), 1)
            place = next((n for n, (here, there) in pairs if here != there), None)
            where = f"differ from token {place} on" if place else "differ in length"
            wrong.append(
                f"probe {probe.id}: {len(ids or ())} token ids, {len(probe.prompt_tokens)} offline: they {where}"
            )
    if wrong:
        return failed("template", some(wrong))
    return passed("template", f"the token ids of {len(probes)} chats are the offline ones")


def _counts(asked: Asked) -> ServingCheck:
    wrong, counted = [], 0
    for probe, answer in zip(asked.probes.probes, asked.answers, strict=True):
        if answer.prompt_tokens is None:
            continue
        counted += 1
        if answer.prompt_tokens != len(probe.prompt_tokens):
            wrong.append(f"probe {probe.id}: {answer.prompt_tokens} tokens, {len(probe.prompt_tokens)} offline")
    why = asked.runtime.cannot.get("template", "this server does not tell the token ids of a chat")
    if wrong:
        return failed("template", f"another number of tokens in a chat: {some(wrong)}")
    if counted < len(asked.probes.probes):
        return unavailable("template", f"{why}, nor how many there are")
    return passed("template", f"{counted} chats have as many tokens as offline; only the number was compared: {why}")


def parity(asked: Asked) -> ServingCheck:
    """The server answers every probe as the offline model does, and continues plain texts as it does.

    The latter since answers may be short: a penalty on repetition shows in a long text that repeats itself, and in no
    log-probability, which servers report as they were before the penalty.
    """
    found = _by_text(asked) if asked.speech.logprobs is None else _by_tokens(asked)
    if found.status != "pass":
        return found
    wrong, said = _continued(asked)
    if wrong:
        return failed("parity", wrong, found.value, found.bound)
    return passed("parity", f"{found.reason}; {said}", found.value, found.bound)


def _continued(asked: Asked) -> tuple[str | None, str]:
    """What is wrong with the continuations, if anything, and what was compared."""
    texts = asked.probes.continuations
    if not texts:
        return None, "no long text was compared, since there is none among the probes"

    def ask(one: Continuation) -> str:
        return dialects.complete(asked.client, asked.model, one.prompt, len(one.tokens))

    try:
        answers = answered(together(1, texts, ask, "long texts", "text"))
    except NoAnswer as reason:
        if asked.server.how == "url" and reason.status in (404, 405):
            return None, f"long texts were not asked: HTTP {reason.status} at {dialects.TEXT}"
        raise
    found = [agreement.by_text(one, text, asked.serve.verify) for one, text in zip(texts, answers, strict=True)]
    if wrong := [one.complaint for one in found if one.complaint]:
        return f"a long text is continued otherwise: {some(wrong)}", ""
    asked.continued |= {one.id: text for one, text in zip(texts, answers, strict=True)}
    compared, told = sum(one.compared for one in found), sum(len(one.tokens) for one in texts)
    return None, f"{compared} of {told} tokens of {len(texts)} long texts compared by text"


def _by_tokens(asked: Asked) -> ServingCheck:
    settings, probes = asked.serve.verify, asked.probes.probes
    found = []
    for probe, answer in zip(probes, asked.answers, strict=True):
        if answer.tokens is None:
            return failed("parity", f"probe {probe.id}: answered without the log-probabilities that it was asked for")
        found.append(agreement.by_tokens(probe, answer, answer.tokens, settings))
    largest, bound = max(one.largest for one in found), settings.max_logprob_diff
    if wrong := [one.complaint for one in found if one.complaint]:
        return failed("parity", some(wrong), largest, bound)
    compared = sum(one.compared for one in found)
    if not compared:
        return failed("parity", "every answer parted at its first token: nothing could be compared", None, bound)
    said = (
        f"{compared} of {sum(len(probe.tokens) for probe in probes)} tokens of {len(probes)} answers compared, at most "
        f"{largest:.3f} nats apart; {sum(one.parted for one in found)} answers part at a near tie"
    )
    return passed("parity", said, largest, bound)


def _by_text(asked: Asked) -> ServingCheck:
    settings, probes = asked.serve.verify, asked.probes.probes
    pairs = list(zip(probes, asked.answers, strict=True))
    found = [agreement.by_text(probe, answer.text, settings) for probe, answer in pairs]
    equal = sum(agreement.tidy(probe.text) == agreement.tidy(answer.text) for probe, answer in pairs)
    share = equal / len(pairs)
    if wrong := [one.complaint for one in found if one.complaint]:
        return failed("parity", some(wrong), share)
    if not sum(one.compared for one in found):
        return failed("parity", "every answer parted at its first token: nothing could be compared", share)
    why = asked.runtime.cannot.get("parity", "this server tells no log-probabilities")
    said = f"{equal} of {len(pairs)} texts are the offline ones, the others part at a near tie; by text: {why}"
    return passed("parity", said, share)


def adapter(asked: Asked) -> ServingCheck:
    """Where the tuned and the untuned model answer differently, the server answers as the tuned one."""
    telling, tuned, base = 0, 0, []
    for probe, answer in zip(asked.probes.probes, asked.answers, strict=True):
        text, untuned = agreement.tidy(answer.text), agreement.tidy(probe.base_text)
        if agreement.tidy(probe.text) == untuned:
            continue
        telling += 1
        tuned += text == agreement.tidy(probe.text)
        if text == untuned and agreement.by_text(probe, answer.text, asked.serve.verify).complaint:
            base.append(f"probe {probe.id}: {shown(answer.text)}")
    if not telling:
        return failed("adapter", "cannot be told: the base answers every probe as the merged model does")
    share = tuned / telling
    if base:
        return failed("adapter", f"{len(base)} of {telling} answers are the untuned base's: {some(base)}", share)
    if not tuned:
        return failed("adapter", f"none of {telling} answers is the merged model's where the base's differs", share)
    said = f"of {telling} answers that the base gives otherwise, {tuned} are the merged model's and none is the base's"
    return passed("adapter", said, share)
