"""Whether a served answer matches the offline one: token by token, or by text if the server returns no tokens.

Greedy decoding takes the most likely token. Servers differ in arithmetic, so two correct answers may diverge where the
two best tokens were nearly tied, and nowhere else. After that they continue different prompts, so the comparison ends.
White space at the ends is ignored (no scorer counts it, and some servers strip it), and so is a character that the
token limit cut in two. Where a server takes thoughts out of answers (serve.reasoning), so is the mark before a thought,
which may be in the prompt, and white space around the mark after it.
"""

from collections.abc import Sequence, Set
from itertools import takewhile
from typing import NamedTuple

from checks.config.release_params import Reasoning, Verify
from checks.formats.serving import Probe, ProbeReport, ProbeToken
from release.serving.client import shown
from release.serving.dialects import Answer, Token

CUT = "\N{REPLACEMENT CHARACTER}"


class Agreement(NamedTuple):
    """``complaint``: what is wrong, or None. ``compared``: number of tokens found equal.

    ``largest``: largest difference in log-probability among them, in nats. ``parted``: the answers diverged at a near
    tie.
    """

    complaint: str | None
    compared: int
    largest: float
    parted: bool


def tidy(text: str, reasoning: Reasoning | None = None) -> str:
    """An answer without the parts that are ignored."""
    plain = text.strip().rstrip(CUT).rstrip()
    if reasoning is None:
        return plain
    return reasoning.ends.join(part for part in divided(plain, reasoning) if part)


def divided(text: str, reasoning: Reasoning) -> tuple[str, str]:
    """The thought and the rest of an answer, without the marks; all is the thought if no mark ends one."""
    thought, _, rest = _begun(text, reasoning).partition(reasoning.ends)
    return thought.rstrip(), rest.strip()


def _begun(text: str, reasoning: Reasoning | None) -> str:
    """An answer from its first character that counts."""
    plain = text.lstrip()
    return plain.removeprefix(reasoning.begins).lstrip() if reasoning else plain


def by_tokens(
    probe: Probe,
    answer: Answer,
    served: Sequence[Token],
    settings: Verify,
    reasoning: Reasoning | None = None,
) -> Agreement:
    """Compare the served tokens with the probe's."""
    largest, offset = 0.0, 0
    for place, token in enumerate(probe.tokens):
        last = place + 1 == len(probe.tokens)
        if place >= len(served):
            if answer.finish == "length":
                return Agreement(
                    _at(probe, place, "was cut off by its server"), place, largest, False
                )
            if not (last and probe.ended):  # some servers leave out the token that ended the answer
                return _part(probe, place, "the end", largest, settings)
            break
        here = served[place]
        ended = place + 1 == len(served) and answer.finish != "length"
        if not _same(token, here, last and probe.ended, ended, answer.text[offset:]):
            other = f"token {here.id}" if here.text is None else shown(here.text)
            return _part(probe, place, other, largest, settings)
        difference = abs(here.logprob - token.logprob)
        largest = max(largest, difference)
        if difference > settings.max_logprob_diff:
            what = (
                f"{shown(token.text)} has log-probability {here.logprob:.3f} there and {token.logprob:.3f} offline, "
                f"{difference:.3f} apart where {settings.max_logprob_diff:g} is allowed (serve.verify.max_logprob_diff)"
            )
            return Agreement(_at(probe, place, what), place, largest, False)
        offset += len(token.text)
    count = len(probe.tokens)
    if len(served) > count:
        return Agreement(
            _at(probe, count, "goes on where the offline answer ends"), count, largest, False
        )
    if tidy(answer.text, reasoning) != tidy(probe.text, reasoning):
        what = f"has the offline tokens, and the text {shown(answer.text)}, not {shown(probe.text)}"
        return Agreement(_at(probe, count, what), count, largest, False)
    return Agreement(None, min(count, len(served)), largest, False)


def silent(report: ProbeReport) -> frozenset[int]:
    """Ids of tokens that add no text to an answer, such as <|im_start|>, as far as the probes show them.

    They end answers, are in answers without text, or are in every prompt: the template's. Tokens that have text in an
    answer are left out.
    """
    answers = [token for probe in report.probes for token in (*probe.tokens, *probe.unended)]
    prompts = [set(probe.prompt_tokens) for probe in report.probes]
    shared = set.intersection(*prompts) if len(prompts) > 1 else set[int]()
    without = {token.id for token in answers if not token.text}
    return frozenset(
        (shared | without | set(report.ends)) - {token.id for token in answers if token.text}
    )


def by_text(
    probe: Probe,
    text: str,
    settings: Verify,
    silent: Set[int] = frozenset(),
    reasoning: Reasoning | None = None,
) -> Agreement:
    """Compare a text with the probe's: equal, or diverging first inside a token that was nearly tied.

    A text does not show whether the server wrote a token without text (``silent``: their ids). So an earlier near tie
    with such a token ends the comparison there: what follows may be the answer to another beginning.
    """
    if tidy(text, reasoning) == tidy(probe.text, reasoning):
        return Agreement(None, len(probe.tokens), 0.0, False)
    offline, served = _begun(probe.text, reasoning), _begun(text, reasoning)
    alike = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(offline, served, strict=False))
    )
    place = _token_at(probe, alike + len(probe.text) - len(offline))
    unseen = _unseen(probe, len(probe.tokens) if place is None else place, settings, silent)
    if place is None:
        return unseen or Agreement(
            f"probe {probe.id}: goes on after {probe.tokens[-1].text!r}, its last token: {shown(served[alike:])}",
            len(probe.tokens), 0.0, False,
        )  # fmt: skip
    other = shown(served[alike:]) if alike < len(served) else "the end"
    agreement = _part(probe, place, other, 0.0, settings)
    # A character that several tokens spell shows at the one that completes it; any of them may be where they parted.
    while agreement.complaint and place > 0 and not probe.tokens[place - 1].text:
        place -= 1
        earlier = _part(probe, place, other, 0.0, settings)
        agreement = earlier if earlier.complaint is None else agreement
    return (unseen or agreement) if agreement.complaint else agreement


def _unseen(probe: Probe, end: int, settings: Verify, silent: Set[int]) -> Agreement | None:
    """The answers may have diverged before token ``end`` without a trace in the text; None if they cannot have."""
    for place, token in enumerate(probe.tokens[:end]):
        if token.lead <= settings.near_tie and (not token.text or token.runner_up in silent):
            return Agreement(None, place, 0.0, True)
    return None


def _same(token: ProbeToken, served: Token, ends: bool, served_ends: bool, rest: str) -> bool:
    """Whether two tokens are equal. Without ids by text; the text of a special token is not in the answer."""
    if served.id is not None:
        return served.id == token.id
    if ends:
        return served_ends
    if token.text or not served.text:
        return token.text == served.text
    return not rest.startswith(served.text)


def _part(probe: Probe, place: int, other: str, largest: float, settings: Verify) -> Agreement:
    """The answers diverge at ``place``: right if the two best tokens were nearly tied."""
    token = probe.tokens[place]
    if token.lead <= settings.near_tie:
        return Agreement(None, place, largest, True)
    ends = probe.ended and place + 1 == len(probe.tokens)
    offline = "the end" if ends else shown(token.text)
    what = (
        f"{other} where the offline model has {offline}, {token.lead:.3f} nats ahead of any other; "
        f"answers may part at {settings.near_tie:g} or less (serve.verify.near_tie)"
    )
    return Agreement(_at(probe, place, what), place, largest, False)


def _at(probe: Probe, place: int, what: str) -> str:
    return f"probe {probe.id}, token {place + 1}: {what}"


def _token_at(probe: Probe, index: int) -> int | None:
    """The token with character ``index`` of the answer; past the end the token that ended it, or None."""
    end = 0
    for place, token in enumerate(probe.tokens):
        end += len(token.text)
        if index < end:
            return place
    return len(probe.tokens) - 1 if probe.ended else None
