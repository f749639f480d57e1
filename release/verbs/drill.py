"""drill: rehearses a rollback end to end in a scratch clone, and measures each step.

It clones the ledger as it is, with a scratch remote. There it rolls the environment back, removes the release from
quarantine and moves the environment forward again, as in an emergency. Only the images are real; they are only read.
The clone is deleted afterwards.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from checks.formats.pointer import Pointer
from checks.formats.serving import Seconds
from checks.records.rows import Record
from release.ledger.message import NONE
from release.promotion import context, scratch
from release.promotion.checklist import PromotionContext
from release.promotion.rollback_plan import RolledBack
from release.promotion.rollback_targets import NoEarlierRelease
from release.serving import processes
from release.verbs import quarantine, rollback

_WHY = "a drill"
_T = TypeVar("_T")


class DrillStep(Record):
    """One step and its duration in seconds."""

    what: str
    seconds: Seconds


class Drill(Record):
    """A rollback of ``environment`` from ``before`` to ``to`` and forward again, all in a scratch clone."""

    environment: str
    before: Pointer
    to: Pointer | None  # None: to nothing
    steps: tuple[DrillStep, ...]
    seconds: Seconds


def drill(root: Path, name: str, target: str | None = None) -> Drill:
    """Roll the environment ``name`` back and forward in a scratch clone. Raises whatever ``rollback`` would raise."""
    began, steps = time.perf_counter(), list[DrillStep]()

    def timed(what: str, do: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        done = do()
        steps.append(DrillStep(what=what, seconds=time.perf_counter() - start))
        return done

    promotion_context = timed("ask the ledger", lambda: context.find(root, target))
    before = promotion_context.must_run(name)
    with processes.scratch() as folder:
        there = timed(
            "make a scratch clone and remote", lambda: scratch.clone(promotion_context, folder)
        )
        back = timed("roll back", lambda: _back(there, name))
        there = scratch.arrived(there, name, back.after)
        timed("let it out of quarantine", lambda: quarantine.free(there, before.version, _WHY))
        there = there._replace(tip=there.ledger.tip())
        timed(
            "move forward again",
            lambda: rollback.move(there, name, why=_WHY, to=before.digest),
        )
        scratch.arrived(there, name, before)
    return Drill(
        environment=name,
        before=before,
        to=back.after,
        steps=tuple(steps),
        seconds=time.perf_counter() - began,
    )


def _back(there: PromotionContext, name: str) -> RolledBack:
    try:
        return rollback.move(there, name, why=_WHY)
    except NoEarlierRelease:
        return rollback.move(there, name, why=_WHY, to=NONE)
