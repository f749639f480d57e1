"""The message of a move: a sentence for people, why, and trailers for machines.

promote production to v1.4.0

Better on rare services.

Lockstep-Move: production#7
Lockstep-Kind: promote
Lockstep-From: sha256:…
Lockstep-To: sha256:…
Lockstep-Evidence: sha256:…

A move that empties an environment has ``none`` in To and Evidence. A release from quarantine has its own trailers:

Lockstep-Release: sha256:…      (the image of an entry; a line for each)
Lockstep-Parent: 98f0e61f…      (the commit that it was made on)
Lockstep-Signed: eyJwYXls…      (a signed statement that says so, in Base64; where somebody signed it)

A commit that moves several projects has such a paragraph of trailers for each of them.

Because of the parent a release counts once: the same message on another commit, as after `git cherry-pick`, has no
effect.

``why`` is written on one line in its own paragraph, so that it cannot be read as a trailer: trailers are the last
paragraph that begins with Lockstep-Move. Anyone who may push can still write any message by hand. So trailers only say
what was intended. The pointers decide what happened, and a message that contradicts them is ignored.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from checks.formats.pointer import Pointer
from checks.process.errors import PromotionRefused
from checks.process.text import redact

NONE = "none"  # in From: nothing ran before; in To: nothing runs from now on
_FIRST = "Lockstep-Move: "
_RELEASE, _PARENT, _SIGNED = "Release", "Parent", "Signed"
_LONGEST = 1000
_TRAILER = re.compile(r"^(Lockstep-[A-Z][a-z]+): (\S+)$")


class MoveMessage(NamedTuple):
    """``trailers`` by their name without ``Lockstep-``; empty when there is no whole set of them.

    ``others``: the sets before that one, of a commit that moves several projects.
    """

    why: str
    trailers: Mapping[str, str]
    others: tuple[Mapping[str, str], ...] = ()


class ReleaseMessage(NamedTuple):
    """A release from quarantine, as a message says it: of which images, on which parent. ``signed`` None: by nobody."""

    images: frozenset[str]
    parent: str
    signed: bytes | None
    why: str


def compose(
    environment: str,
    number: int,
    kind: Literal["promote", "rollback"],
    before: Pointer | None,
    after: Pointer | None,
    why: str,
    project: str = "",
) -> str:
    """The message of the move; ``after`` None empties it. ``project``: its folder, if that is not the git root.

    Raises PromotionRefused when ``why`` says nothing.
    """
    reason = _reason("a move", why)
    verb = "promote" if kind == "promote" else "roll back"
    trailers = {
        "Move": f"{environment}#{number}",
        "Kind": kind,
        "From": before.digest if before else NONE,
        "To": after.digest if after else NONE,
        "Evidence": after.evidence if after else NONE,
    }
    lines = "\n".join(f"Lockstep-{name}: {value}" for name, value in trailers.items())
    subject = f"{environment} of {project}" if project else environment
    version = after.version if after else "nothing"
    return f"{verb} {subject} to {version}\n\n{reason}\n\n{lines}\n"


def together(messages: Sequence[str]) -> str:
    """Return the message of one commit that makes all moves of ``messages`` (of ``compose``). The first names it."""
    parts = [message.strip().split("\n\n") for message in messages]
    subject, reason, *_ = parts[0]
    head = f"{subject} and {len(parts) - 1} more" if len(parts) > 1 else subject
    return "\n\n".join([head, reason, *(part[2] for part in parts if len(part) > 2)]) + "\n"


def compose_release(
    images: Sequence[str], names: str, parent: str, why: str, signed: bytes | None
) -> str:
    """The message of a release of ``images`` from quarantine, which people call ``names``. Raises as ``compose``."""
    reason = _reason("a release from quarantine", why)
    lines = [f"Lockstep-{_RELEASE}: {image}" for image in images] + [
        f"Lockstep-{_PARENT}: {parent}"
    ]
    if signed is not None:
        lines.append(f"Lockstep-{_SIGNED}: {base64.b64encode(signed).decode()}")
    return "\n\n".join([f"release {names} from quarantine", reason, "\n".join(lines)]) + "\n"


def read_release(message: str) -> ReleaseMessage | None:
    """The release from quarantine that a message speaks of; None when it speaks of none, or not of it alone."""
    paragraphs = _paragraphs(message)
    if len(paragraphs) < 2 or not paragraphs[-1].startswith(f"Lockstep-{_RELEASE}: "):
        return None
    pairs = [
        match.groups() for line in paragraphs[-1].splitlines() if (match := _TRAILER.match(line))
    ]
    fields = {
        name: [value for key, value in pairs if key == f"Lockstep-{name}"]
        for name in (_RELEASE, _PARENT, _SIGNED)
    }
    if len(pairs) != len(paragraphs[-1].splitlines()) or sum(map(len, fields.values())) != len(
        pairs
    ):
        return None
    if len(fields[_PARENT]) != 1 or len(fields[_SIGNED]) > 1:
        return None
    try:
        signed = base64.b64decode(fields[_SIGNED][0], validate=True) if fields[_SIGNED] else None
    except ValueError:
        return None
    why = redact(" ".join(paragraphs[1:-1]), _LONGEST)
    return ReleaseMessage(frozenset(fields[_RELEASE]), fields[_PARENT][0], signed, why)


def read(message: str) -> MoveMessage:
    """Why a move was made, by any commit's message, and the trailers of one that Lockstep made."""
    paragraphs = _paragraphs(message)
    subject = paragraphs[0] if paragraphs else ""
    at = max(
        (i for i, part in enumerate(paragraphs) if i and part.startswith(_FIRST)), default=None
    )
    first = at
    while first and first > 1 and _trailers(paragraphs[first - 1]):
        first -= 1
    body = paragraphs[1:first]
    sets = (
        [_trailers(paragraph) for paragraph in paragraphs[first : at + 1]] if first and at else [{}]
    )
    return MoveMessage(redact(" ".join(body) or subject, _LONGEST), sets[-1], tuple(sets[:-1]))


def differs(
    trailers: Mapping[str, str], environment: str, before: Pointer | None, after: Pointer | None
) -> str:
    """How a message differs from what its commit did; empty when it does not."""
    moved, _, number = trailers["Move"].rpartition("#")
    did = {"From": before.digest if before else NONE, "To": after.digest if after else NONE}
    did["Evidence"] = after.evidence if after else NONE
    if moved != environment or not number.isdecimal():
        return f"its message is about {redact(trailers['Move'], 80)}"
    for name, value in did.items():
        if trailers[name] != value:
            return f"its message says {name.lower()} {redact(trailers[name], 80)}, the pointer says {value}"
    return ""


def _reason(what: str, why: str) -> str:
    reason = redact(why, _LONGEST)
    if not reason:
        raise PromotionRefused(f"{what} without a reason", "give the reason: the history shows it")
    return reason


def _paragraphs(message: str) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n[ \t]*\n", message.strip()) if part.strip()]


def _trailers(paragraph: str) -> Mapping[str, str]:
    if _FIRST not in paragraph:
        return {}
    pairs = [match.groups() for line in paragraph.splitlines() if (match := _TRAILER.match(line))]
    trailers = {name.removeprefix("Lockstep-"): value for name, value in pairs}
    whole = set(trailers) == {"Move", "Kind", "From", "To", "Evidence"} and len(pairs) == len(
        trailers
    )
    return trailers if whole and trailers["Kind"] in ("promote", "rollback") else {}
