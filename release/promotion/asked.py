"""Everything that can be lacking is asked, and every gap is told: nothing stops at the first."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from checks.errors import MachineRefused, Outrun, PromotionRefused, Refusal, RegistryRefused, RemoteRefused
from checks.rows import Record
from checks.serving import Seconds

About = Literal[
    "environment",  # its folder is as the last move left it
    "previous",  # the environment before runs this image, and has for long enough
    "image",  # it is in its place, whole
    "evidence",  # a signed statement about exactly this image holds
    "quarantine",  # neither the image nor the weights are held back
    "record",  # git has what was signed for in the history of the target branch, and its verdict passes
    "verdict",  # it holds in this checkout too, where the first environment is moved
    "policy",  # the verdict answers the target's policy, or one that the target lets it pass under
    "weights",  # the layers are made of the files of the model
    "layers",  # the image is the base, these layers and this runtime, and nothing else
    "serving",  # it was verified, by a runtime and in a way that count here
    "edits",  # with what people wrote, the environment builds to the release and nothing else
    "approvals",  # enough people said yes
    "version",  # it can be called so
]
# These end a move whatever else is lacking: this machine or a remote could not be asked.
_ENDING = (MachineRefused, RemoteRefused, Outrun)


class Unavailable(Exception):  # noqa: N818 - no error: another check has it
    """What a check needs was not found, so that it cannot be asked; its text says what is not there."""


class Gap(Record):
    """What is lacking, and what to do. ``unanswered``: a registry could not say."""

    what: str
    todo: str
    unanswered: bool = False

    @property
    def line(self) -> str:
        """Both, for a person."""
        return f"{self.what}; {self.todo}" if self.todo else self.what


class Check(Record):
    """One thing that was asked. It holds when nothing is lacking, unless it was not asked: ``note`` then says why."""

    about: About
    gaps: tuple[Gap, ...]
    note: str
    unasked: bool
    seconds: Seconds


class Answer:
    """The answer to one question, while it is found."""

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        self.note = ""
        self.unasked = False

    def lacks(self, what: str, todo: str) -> None:
        """Note a gap."""
        self.gaps.append(Gap(what=what, todo=todo))


class Asked:
    """The answers so far."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    @contextmanager
    def asking(self, about: About) -> Iterator[Answer]:
        """Ask one thing. A Refusal inside is a gap with all its lines, unless it means that nothing can be asked."""
        answer, began = Answer(), time.perf_counter()
        try:
            yield answer
        except _ENDING:
            raise
        except Unavailable as why:
            answer.unasked, answer.note = True, str(why)
        except Refusal as refused:
            unanswered = isinstance(refused, RegistryRefused)
            answer.gaps.append(Gap(what=refused.what, todo=refused.todo, unanswered=unanswered))
            answer.gaps += [Gap(what=line, todo="", unanswered=unanswered) for line in refused.others]
        self.checks.append(
            Check(
                about=about, gaps=tuple(answer.gaps), note=answer.note, unasked=answer.unasked,
                seconds=time.perf_counter() - began,
            )
        )  # fmt: skip


def refusal(moving: str, checks: Sequence[Check]) -> Refusal | None:
    """What stands against a move, every gap of it; None when nothing does. ``moving`` is what does not happen.

    RegistryRefused when all that is lacking is a registry's answer, else PromotionRefused.
    """
    gaps = [gap for check in checks for gap in check.gaps]
    if not gaps:
        unasked = [check.about for check in checks if check.unasked]
        assert not unasked, f"nothing is lacking, and {unasked} was not asked"
        return None
    kind = RegistryRefused if all(gap.unanswered for gap in gaps) else PromotionRefused
    return kind(f"{moving}: {gaps[0].what}", gaps[0].todo, tuple(gap.line for gap in gaps[1:]))
