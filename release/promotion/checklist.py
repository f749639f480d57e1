"""Runs every promotion check and collects all failures; no failure stops the checks after it."""

import time
from collections.abc import Callable, Sequence
from typing import Literal

from checks.formats.serving import Seconds
from checks.process.errors import (
    MachineRefused,
    Outrun,
    PromotionRefused,
    Refusal,
    RegistryRefused,
    RemoteRefused,
)
from checks.records.rows import Record

About = Literal[
    "environment",  # its files are unchanged since the last move
    "previous",  # the previous environment has run this image for the soak time
    "image",  # the store has every part of it
    "evidence",  # a valid signed statement is about exactly this image
    "quarantine",  # neither the image nor the weights are in quarantine
    "record",  # the signed record is in the target branch's history, and its verdict passes
    "verdict",  # it holds in this checkout too (first environment only)
    "policy",  # the verdict is under the target's policy, or one that the target accepts
    "weights",  # the layers contain the model's files
    "layers",  # the image is the base, these layers and this runtime, and nothing else
    "sealed",  # the sealed split said that the model passes, if this environment asks that
    "serving",  # it was verified with a runtime and in a way that this environment accepts
    "edits",  # With the files that people wrote, the environment still builds to the release.
    "approvals",  # enough people approved
    "version",  # the version is valid and free
]
# These end the move at once: this machine or a remote failed, so that the checks cannot run.
_ENDING = (MachineRefused, RemoteRefused, Outrun)


class Unavailable(Exception):  # noqa: N818 - no error: another check has it
    """A part that a check needs was not found, so the check is skipped; the message names the part."""


class Failure(Record):
    """One failure and its fix. ``unanswered``: a registry did not answer, so nothing is known to be wrong."""

    what: str
    todo: str
    unanswered: bool = False

    @property
    def line(self) -> str:
        """The failure and its fix on one line."""
        return f"{self.what}; {self.todo}" if self.todo else self.what


class Check(Record):
    """The result of one check. It passes without failures, unless it was skipped; ``note`` then says why."""

    about: About
    failures: tuple[Failure, ...]
    note: str
    skipped: bool
    seconds: Seconds


class CheckResult:
    """Collects the result of one check while it runs."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.note = ""

    def fail(self, what: str, todo: str) -> None:
        """Record a failure."""
        self.failures.append(Failure(what=what, todo=todo))


def run(about: About, check: Callable[[CheckResult], object]) -> Check:
    """Run one check. A Refusal inside becomes failures, unless it is one of those that end the whole move."""
    began = time.perf_counter()
    result = CheckResult()
    skipped = False
    try:
        check(result)
    except _ENDING:
        raise
    except Unavailable as why:
        skipped = True
        result.note = str(why)
    except Refusal as refused:
        lines = [(refused.what, refused.todo), *((line, "") for line in refused.others)]
        unanswered = isinstance(refused, RegistryRefused)
        result.failures += [
            Failure(what=what, todo=todo, unanswered=unanswered) for what, todo in lines
        ]
    return Check(
        about=about,
        failures=tuple(result.failures),
        note=result.note,
        skipped=skipped,
        seconds=time.perf_counter() - began,
    )


def refusal(moving: str, checks: Sequence[Check]) -> Refusal | None:
    """The refusal with all failures; None if there are none. ``moving`` names the move that does not happen.

    It is RegistryRefused if every failure is a registry that did not answer, else PromotionRefused.
    """
    failures = [failure for check in checks for failure in check.failures]
    if not failures:
        skipped = [check.about for check in checks if check.skipped]
        assert not skipped, f"no check failed, but {skipped} was skipped"
        return None
    kind = RegistryRefused if all(failure.unanswered for failure in failures) else PromotionRefused
    return kind(
        f"{moving}: {failures[0].what}",
        failures[0].todo,
        tuple(failure.line for failure in failures[1:]),
    )
