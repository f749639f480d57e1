"""The mark, the headline and the next step for an environment: one table of situations, for `lockstep status`.

``advise`` is a pure function of a ``Situation``, whose fields are plain values. The marks are those of
``release.review.advice``: ✅ go on, ⚠️ a person decides, 🚫 do not use what is here as it is.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from release.review.advice import Advised, Row

Name = Literal[
    "quarantined", "drift", "emergency", "doubt", "nothing", "runs", "held", "unfit", "room", "render", "build",
    "people", "soak", "next",
]  # fmt: skip

Wait = Literal[
    "build", "soak", "signatures", "approvals", "quarantine", "verification", "render", "room"
]


class Situation(NamedTuple):
    """The facts that decide what to do about an environment.

    ``version``: what it runs; None: nothing. ``quarantined``: why that is in quarantine. ``drift``: the first
    contradiction in git and its fix. ``exemption``: the exception that it runs on. ``doubt``: why the time of the last
    move is not believed. ``after``: the environment before this one. ``next``: the version or model that could be
    promoted next, from ``source``; None: there is none. ``waits``: in words, by what it waits for.
    """

    environment: str
    version: str | None = None
    quarantined: str | None = None
    drift: tuple[str, str] | None = None
    exemption: str = ""
    doubt: str = ""
    after: str | None = None
    next: str | None = None
    source: str = ""
    waits: Mapping[Wait, str] = MappingProxyType({})


TABLE: dict[Name, Row] = {
    "quarantined": Row(
        "🚫", "{version} is in quarantine", "{quarantined}",
        "go back to the release before: `lockstep rollback {environment} --why …`",
    ),
    "drift": Row("🚫", "git contradicts itself", "{drift}", "{fix}"),
    "emergency": Row(
        "🚫", "{version} runs on an exception", "{exemption}",
        "make a release whose verdict is pass, and `lockstep promote {environment}` it before that time",
    ),
    "doubt": Row(
        "⚠️", "the time of the last move is not believed", "{doubt}",
        "ask who made that commit: `lockstep history {environment}`",
    ),
    "nothing": Row("⚠️", "nothing runs here, and nothing can follow yet", "", "{first}"),
    "runs": Row("✅", "runs {version}, and nothing newer can follow", "", "nothing to do"),
    "held": Row(
        "⚠️", "{next} of {source} must not follow", "{waits}",
        "make a better release; or let that one out: `lockstep quarantine --release NAME --why …`",
    ),
    "unfit": Row(
        "⚠️", "{next} of {source} must not follow as it was verified", "{waits}",
        "`lockstep verify` it as {environment} serves, `lockstep sign` it, and promote it to {source} again",
    ),
    "room": Row(
        "⚠️", "{next} of {source} can follow once environment.yaml of {environment} lets an update end", "{waits}",
        "write that, `lockstep render {environment}`, commit both, then `lockstep promote {environment}`",
    ),
    "render": Row(
        "⚠️", "{next} of {source} can follow once {environment} is rendered", "{waits}",
        "`lockstep render {environment}`, commit that, then `lockstep promote {environment}`",
    ),
    "build": Row(
        "✅", "{next} of {source} can follow once it is an image", "",
        "`lockstep build`, then `lockstep promote {environment}`",
    ),
    "people": Row(
        "⚠️", "{next} of {source} can follow once people sign", "{waits}",
        "let them sign: `{sign}`; then `lockstep promote {environment}`",
    ),
    "soak": Row(
        "✅", "{next} of {source} can follow later", "{waits}", "wait, then `lockstep promote {environment}`"
    ),
    "next": Row("✅", "{next} of {source} can follow", "", "`lockstep promote {environment}`"),
}  # fmt: skip
# The first of these that a release waits for decides what to do.
_WAITS: dict[Wait, Name] = {
    "quarantine": "held",
    "verification": "unfit",
    "room": "room",
    "render": "render",
    "build": "build",
    "signatures": "people",
    "approvals": "people",
    "soak": "soak",
}


def advise(situation: Situation) -> Advised:
    """Return the mark, the headline, the reason and the next step of a situation."""
    row = TABLE[_name(situation)]
    drift, fix = situation.drift or ("", "")
    approves = "approvals" in situation.waits
    values = situation._asdict() | {
        "drift": drift, "fix": fix, "waits": "; ".join(situation.waits.values()),
        "first": f"`lockstep promote {situation.after}` first" if situation.after else "`lockstep run` makes a model",
        "sign": f"lockstep approve {situation.environment} --why …" if approves else "lockstep sign",
    }  # fmt: skip
    return Advised(
        mark=row.mark,
        headline=row.headline.format_map(values),
        why=row.why.format_map(values),
        todo=row.todo.format_map(values),
    )


def _name(situation: Situation) -> Name:
    """Return the first situation that applies: the one that a reader must settle first."""
    follows = situation.next is not None
    cases: tuple[tuple[object, Name], ...] = (
        (situation.quarantined is not None, "quarantined"),
        (situation.drift, "drift"),
        (situation.exemption, "emergency"),
        (situation.doubt, "doubt"),
        (not follows and situation.version is None, "nothing"),
        (not follows, "runs"),
        *((wait in situation.waits, name) for wait, name in _WAITS.items()),
    )
    return next((name for applies, name in cases if applies), "next")


def of_the_quarantine(contradictions: list[tuple[str, str]]) -> list[Advised]:
    """Return advice for each contradiction of the quarantine file and its fix."""
    return [
        Advised(mark="🚫", headline="the quarantine contradicts its history", why=why, todo=todo)
        for why, todo in contradictions
    ]


def of_the_tags(contradictions: list[str]) -> list[Advised]:
    """Return advice for tags that contradict the moves; none if they agree."""
    advised = Advised(
        mark="⚠️", headline="tags contradict the moves", why="; ".join(contradictions),
        todo="`lockstep reconcile --fix` makes those that are missing, and says what to do about others",
    )  # fmt: skip
    return [advised] if contradictions else []
