"""The message of a move: a sentence for people, why, and trailers for machines.

promote production to v1.4.0

Better on rare services.

Lockstep-Move: production#7
Lockstep-Kind: promote
Lockstep-From: sha256:…
Lockstep-To: sha256:…
Lockstep-Evidence: sha256:…

``why`` is folded into one line of a paragraph of its own, so that no words of it are trailers: these are the last
paragraph that begins with Lockstep-Move. Whoever may push can still write any message by hand. So trailers tell what
was meant; what happened is what the pointers say, and a message that differs from them is not believed.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from checks.errors import PromotionRefused
from checks.pointer import Pointer
from release.ledger.git import printable

NONE = "none"  # in From: nothing ran before
_FIRST = "Lockstep-Move: "
_LONGEST = 1000
_TRAILER = re.compile(r"^(Lockstep-[A-Z][a-z]+): (\S+)$")


class Read(NamedTuple):
    """``trailers`` by their name without ``Lockstep-``; empty when there is no whole set of them."""

    why: str
    trailers: Mapping[str, str]


def compose(
    environment: str,
    number: int,
    kind: Literal["promote", "rollback"],
    before: Pointer | None,
    after: Pointer,
    why: str,
) -> str:
    """The message of the move. Raises PromotionRefused when ``why`` says nothing."""
    reason = printable(why, _LONGEST)
    if not reason:
        raise PromotionRefused("a move without a reason", "say why: the ledger is what people read later")
    verb = "promote" if kind == "promote" else "roll back"
    trailers = {
        "Move": f"{environment}#{number}",
        "Kind": kind,
        "From": before.digest if before else NONE,
        "To": after.digest,
        "Evidence": after.evidence,
    }
    lines = "\n".join(f"Lockstep-{name}: {value}" for name, value in trailers.items())
    return f"{verb} {environment} to {after.version}\n\n{reason}\n\n{lines}\n"


def read(message: str) -> Read:
    """Why a move was made, by any commit's message, and the trailers of one that Lockstep made."""
    paragraphs = [part.strip("\n") for part in re.split(r"\n[ \t]*\n", message.strip()) if part.strip()]
    subject = paragraphs[0] if paragraphs else ""
    at = max((i for i, part in enumerate(paragraphs) if i and part.startswith(_FIRST)), default=None)
    body = paragraphs[1:at]
    return Read(printable(" ".join(body) or subject, _LONGEST), _trailers(paragraphs[at]) if at else {})


def differs(trailers: Mapping[str, str], environment: str, before: Pointer | None, after: Pointer | None) -> str:
    """How a message differs from what its commit did; empty when it does not."""
    moved, _, number = trailers["Move"].rpartition("#")
    did = {"From": before.digest if before else NONE, "To": after.digest if after else NONE}
    if after:
        did["Evidence"] = after.evidence
    if moved != environment or not number.isdecimal():
        return f"its message is about {printable(trailers['Move'], 80)}"
    for name, value in did.items():
        if trailers[name] != value:
            return f"its message says {name.lower()} {printable(trailers[name], 80)}, the pointer says {value}"
    return ""


def _trailers(paragraph: str) -> Mapping[str, str]:
    pairs = [found.groups() for line in paragraph.splitlines() if (found := _TRAILER.match(line))]
    trailers = {name.removeprefix("Lockstep-"): value for name, value in pairs}
    whole = set(trailers) == {"Move", "Kind", "From", "To", "Evidence"} and len(pairs) == len(trailers)
    return trailers if whole and trailers["Kind"] in ("promote", "rollback") else {}
