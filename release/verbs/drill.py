"""drill: rehearses a rollback end to end in a scratch clone, and measures each step.

It clones the ledger as it is, with a scratch remote. There it rolls the environment back, removes the release from
quarantine and moves the environment forward again, as in an emergency. Only the images are real; they are only read.
The clone is deleted afterwards.

With `--incident` it promotes a worse model on purpose, replays traffic, and measures the way to the rollback. All of
it is in a temporary folder and on loopback. A clone of the ledger moves the environment to the worse model. Servers
of both models run as processes, each behind `lockstep gateway`. Each prompt of the test split is sent to one of both
by chance; its label is known. After each window the decision of `lockstep canary` is made. Once it is `roll back`,
the code of `lockstep rollback` makes the commit. Labels of wrong answers come sooner than those of right ones, as
they often do, and must not mislead the decision.

With `--emergency` it rehearses a release whose gate fails (release/promotion/bad_night.py).
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from checks.formats.pointer import Pointer
from checks.formats.rollout_report import RolloutReport
from checks.formats.serving import Seconds
from checks.process.errors import EvidenceRefused, Refusal, ServingRefused, VerdictInconclusive
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, layout
from release.adapters.git import Git
from release.adapters.registry import reference
from release.ledger import DEADLINE
from release.ledger.message import NONE
from release.monitoring import canary, releases
from release.monitoring.store import CaptureStore
from release.promotion import (
    bad_night,
    context,
    environment,
    image_checks,
    incident_report,
    scratch,
)
from release.promotion.checklist import PromotionContext
from release.promotion.incident_report import Scene, draw_requests, replay_requests
from release.promotion.rollback_plan import RolledBack
from release.promotion.rollback_targets import NoEarlierRelease
from release.runtimes import Runtime, lookup
from release.serving import behind_gateway, processes, weights
from release.serving.server import unwinding
from release.verbs import gateway, quarantine, rollback

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


def emergency(root: Path, name: str, target: str | None = None) -> bad_night.BadNight:
    """Rehearse an exception in a scratch clone: two people sign it, it expires, it is healed, and it is rolled back.

    Raises as ``bad_night.stage`` and ``bad_night.play``, and whatever ``rollback`` would raise.
    """
    promotion_context = context.find(root, target)
    with processes.scratch() as folder:
        scene = bad_night.stage(promotion_context, name, folder)

        def roll_back(there: PromotionContext) -> Pointer | None:
            # Images in a folder are beside the work tree of this clone.
            there = there._replace(records=promotion_context.records)
            return rollback.move(there, name, why=_WHY).after

        return bad_night.play(scene, roll_back)


def _back(there: PromotionContext, name: str) -> RolledBack:
    try:
        return rollback.move(there, name, why=_WHY)
    except NoEarlierRelease:
        return rollback.move(there, name, why=_WHY, to=NONE)


def incident(
    root: Path,
    name: str,
    options: incident_report.IncidentOptions,
    tell: Callable[[str], None] = lambda _: None,
) -> incident_report.Incident:
    """Run the drill; ``tell`` gets a line for each step and each decision. ``refusal`` says whether it was detected.

    Raises whatever ``rollback`` would raise; EvidenceRefused also if the worse model is production's or rows are few,
    MachineRefused if a package is missing, ServingRefused if a server does not start. Every process is then ended and
    the temporary folder removed, after a signal too.
    """
    runtime = lookup.here(root, options.runtime)
    _are_installed(runtime, root)
    with unwinding(), ExitStack() as stack:
        promotion_context = context.find(root, options.target)
        before = promotion_context.must_run(name)
        params = promotion_context.records.work_tree.params
        requests = draw_requests(root, options)
        worse = _worse_weights(root, options.worse, before)
        home = stack.enter_context(processes.scratch())
        there = scratch.clone(promotion_context, home)
        folders = (_production_weights(promotion_context, name, before, home), worse[0])
        there = scratch.promoted(there, name, before, worse[1], _WHY)
        if refused := rollback.refusal(rollback.move(there, name, why=_WHY, dry_run=True)):
            raise refused  # It is raised before minutes of traffic.
        sides = releases.both(root, params, name, name, there.ledger)
        captures = home / "captures"
        servers = [
            stack.enter_context(
                behind_gateway.started(runtime, params.serve, folder, release, name, captures, root)
            )
            for folder, release in zip(folders, (sides.production, sides.candidate), strict=True)
        ]
        tell(
            f"two servers start, each behind a gateway: {sides.production}, and {sides.candidate}, the worse one"
        )
        for server in servers:
            server.wait(params.serve.verify.start_seconds)
        at_once = len(servers) * runtime.concurrency
        scene = Scene(name, sides, servers, CaptureStore(str(captures)), at_once)
        roll_back = partial(_roll_back, there, home / scratch.REMOTE, name)
        replayed = replay_requests(scene, params, requests, options, roll_back, tell)
    return incident_report.report(name, before, worse, params.monitor, options, replayed)


def refusal(done: incident_report.Incident) -> Refusal | None:
    """Return the refusal of a drill in which no decision was `roll back`; None if the worse model was rolled back."""
    if done.back is not None:
        return None
    return VerdictInconclusive(
        f"{done.environment}: the worse model was not detected within {done.requests} requests",
        "replay more (--requests), give it a larger --share or more labels (--labelled), or lower monitor.margin",
    )


def _are_installed(runtime: Runtime, root: Path) -> None:
    if runtime.package is None:
        raise ServingRefused(
            f"{runtime.name} runs in its image alone", "use --runtime transformers"
        )
    gateway.installed()
    processes.program(runtime, root)


def _roll_back(
    there: PromotionContext, remote: Path, name: str, report: RolloutReport
) -> incident_report.Back:
    began = time.monotonic()
    there = there._replace(tip=there.ledger.tip())
    done = rollback.move(there, name, why=canary.why(report), runs=report.candidate)
    seconds = round(time.monotonic() - began, 2)
    scratch.arrived(there, name, done.after)
    commit = Git(remote, DEADLINE).line("cat-file", "commit", done.commit or "")
    return incident_report.Back(
        to=done.after, seconds=seconds, signed="\ngpgsig" in commit.partition("\n\n")[0]
    )


def _worse_weights(root: Path, folder: Path | None, before: Pointer) -> tuple[Path, Digest]:
    """Return the folder of the worse model (None: the base's) and its digest, which must not be what runs."""
    folder = folder or root / layout.BASE
    actual = digest.of_tree(folder).digest
    if actual == before.model:
        raise EvidenceRefused(
            f"{folder}: is the model that already runs, {before.version}",
            "name another folder: --worse",
        )
    return folder, actual


def _production_weights(context: PromotionContext, name: str, before: Pointer, home: Path) -> Path:
    """Return a folder with the weights that the environment runs: here, or taken from their image into ``home``."""
    folder = context.root / layout.MERGED
    if folder.is_dir() and digest.of_tree(folder).digest == before.model:
        return folder
    built = environment.stated(environment.look(context, name), name).predicate.image
    store = image_checks.open_place(context.root, reference.parse(before.image))
    return weights.unpack(store, built, home / "production")
