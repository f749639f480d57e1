"""Runs every promotion check and collects all failures; no failure stops the checks after it.

Their input is the context that decides a move, and the record that the signed statement names.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from checks.config.release_params import Environment, Promote, Serve
from checks.formats.pointer import Pointer
from checks.formats.serving import Seconds
from checks.formats.signers import Signers
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    Outrun,
    PromotionRefused,
    Refusal,
    RegistryRefused,
    RemoteRefused,
)
from checks.records.rows import Record
from checks.storage import layout
from checks.storage.digest import FileDigest
from release.adapters.registry.documents import Manifest, Store
from release.ledger import Change, Ledger, Move, Tag, missing
from release.record.records import Records

if TYPE_CHECKING:
    from checks.config.params import Params

About = Literal[
    "environment",  # its files are unchanged since the last move
    "previous",  # the previous environment has run this image for the soak time
    "image",  # the store has every part of it
    "evidence",  # a valid signed statement is about exactly this image
    "quarantine",  # neither the image nor the weights are in quarantine
    "emergency",  # a signed exception holds, if one was asked for
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


class PromotionContext(NamedTuple):
    """Everything that decides a move.

    ``target``: the branch of this repository that rules and signers come from; ``trunk``: its commit. ``serve``: how
    its images are built. ``tip``: the commit of the ledger that all decisions are based on. ``planned``: files below
    the git root that the same commit writes, if it moves several projects.
    """

    records: Records
    target: str
    trunk: str
    promote: Promote
    serve: Serve
    signers: Signers
    ledger: Ledger
    tip: str
    planned: Mapping[Path, bytes | None] = MappingProxyType({})

    @property
    def root(self) -> Path:
        """The folder of the clone."""
        return self.records.root

    @property
    def name(self) -> str:
        """The name of the model in tags."""
        return self.ledger.model_name(self.serve.name)

    def rule(self, environment: str) -> Environment:
        """The rules of the environment. Raises EvidenceRefused if there is no such environment."""
        if environment not in self.promote.environments:
            raise EvidenceRefused(
                f"environment {environment[:60]!r}: {layout.PARAMS} of {self.target} names no such one",
                f"use one of {', '.join(self.promote.environments)}",
            )
        return self.promote.environments[environment]

    def moves(self) -> list[Move]:
        """The moves of all environments, which versions and tags are numbered by."""
        return [move for name in self.promote.ordered for move in self.ledger.moves(self.tip, name)]

    def runs(self, environment: str) -> Pointer | None:
        """Return what an environment runs after its last move; None also if its pointer cannot be read."""
        moves = self.ledger.moves(self.tip, environment)
        return moves[0].after if moves else None

    def must_run(self, environment: str) -> Pointer:
        """Return what an environment runs. Raises EvidenceRefused as ``rule``, PromotionRefused if it runs nothing."""
        self.rule(environment)
        pointer = self.ledger.pointer(self.tip, environment)
        if pointer is None:
            raise PromotionRefused(
                f"{environment} runs nothing", f"`lockstep promote {environment}` first"
            )
        return pointer

    def made(self, change: Change) -> tuple[str, ...]:
        """The names of the tags of ``change`` that the last commit created, or would create."""
        lost = {line.split(": ")[0] for line in self.ledger.untagged}
        return tuple(tag.name for tag in change.tags if f"tag {tag.name}" not in lost)

    def missing_tags(self) -> tuple[Tag, ...]:
        """Tags that belong to past moves but do not exist, as after a merged pull request."""
        return missing(self.name, self.ledger.tags(), self.moves())


class ImageRecord(NamedTuple):
    """The parts of the commit's record that decide the image."""

    params: "Params"
    files: Mapping[str, FileDigest]  # Files of the model.


class StoredImage(NamedTuple):
    """An image in its store."""

    store: Store
    manifest: Manifest
    config: dict[str, Any]


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

    def fail_each(self, failures: Iterable[str], todo: str) -> None:
        """Record several failures that one thing fixes."""
        for what in failures:
            self.fail(what, todo)


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
