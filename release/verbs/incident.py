"""drill --incident: promotes a worse model on purpose, replays traffic, and measures the way to the rollback.

Everything happens in a temporary folder and on loopback. A clone of the ledger, with a remote of its own, moves the
environment to the worse model. Servers of both models run as processes, each behind `lockstep gateway`. Each prompt of
the test split is sent to one of both by chance; its label is known. After each window the decision of `lockstep canary`
is made. Once it is `roll back`, the code of `lockstep rollback` makes the commit. Labels of wrong answers come sooner
than those of right ones, as they often do, and must not mislead the decision.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from checks.formats.pointer import Pointer
from checks.formats.rollout_report import RolloutReport
from checks.process.errors import (
    EvidenceRefused,
    Refusal,
    ServingRefused,
    VerdictInconclusive,
)
from checks.records.record import Digest
from checks.storage import digest, layout
from release.adapters.git import Git
from release.adapters.registry import reference
from release.ledger import DEADLINE
from release.monitoring import canary, releases
from release.monitoring.store import CaptureStore
from release.promotion import context, environment, image_checks, incident_report, scratch
from release.promotion.checklist import PromotionContext
from release.promotion.incident_report import (
    Back,
    Incident,
    IncidentOptions,
    Scene,
    draw_requests,
    replay_requests,
)
from release.runtimes import Runtime, lookup
from release.serving import behind_gateway, processes, weights
from release.serving.server import unwinding
from release.verbs import gateway, rollback

_WHY = "a drill"


def incident(
    root: Path, name: str, options: IncidentOptions, tell: Callable[[str], None] = lambda _: None
) -> Incident:
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
            raise refused  # before minutes of traffic
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


def refusal(done: Incident) -> Refusal | None:
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


def _roll_back(there: PromotionContext, remote: Path, name: str, report: RolloutReport) -> Back:
    began = time.monotonic()
    there = there._replace(tip=there.ledger.tip())
    done = rollback.move(there, name, why=canary.why(report), runs=report.candidate)
    seconds = round(time.monotonic() - began, 2)
    scratch.arrived(there, name, done.after)
    if done.after is None or not done.after.model.startswith(f"sha256:{report.production}"):
        raise EvidenceRefused(
            f"the drill: {name} went back to another release", "report this as a bug"
        )
    commit = Git(remote, DEADLINE).line("cat-file", "commit", done.commit or "")
    return Back(to=done.after, seconds=seconds, signed="\ngpgsig" in commit.partition("\n\n")[0])


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
