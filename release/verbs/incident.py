"""drill --incident: promotes a worse model on purpose, replays traffic, and measures the way to the rollback.

Everything happens in a temporary folder and on loopback. A clone of the ledger, with a remote of its own, moves the
environment to the worse model. Servers of both models run as processes, each behind `lockstep gateway`. Each prompt of
the test split is sent to one of both by chance; its label is known. After each window the decision of `lockstep canary`
is made. Once it is `roll back`, the code of `lockstep rollback` makes the commit. Labels of wrong answers come sooner
than those of right ones, as they often do, and must not mislead the decision.
"""

import importlib.util
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.pointer import Pointer
from checks.formats.rollout_report import RolloutReport
from checks.kinds.scorer import Scorer
from checks.process import distribution
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    PromotionRefused,
    Refusal,
    ServingRefused,
    VerdictInconclusive,
)
from checks.records.identity import Digest
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.adapters.git import Git
from release.adapters.registry import reference
from release.ledger import DEADLINE
from release.monitoring import canary, releases
from release.monitoring.releases import Sides
from release.monitoring.store import CaptureStore, Label
from release.promotion import context, environment, image_checks, incident_report, scratch
from release.promotion.checklist import PromotionContext
from release.promotion.incident_report import (
    Back,
    Incident,
    IncidentLook,
    IncidentOptions,
    Replayed,
)
from release.runtimes import Runtime, lookup
from release.serving import behind_gateway, processes, weights
from release.serving.behind_gateway import Behind
from release.serving.server import unwinding
from release.serving.traffic import Answered, Replay, Request, Side
from release.verbs import rollback

_PACKAGES = ("aiohttp", "prometheus_client", "yarl")  # The gateway needs these.
_WHY = "a drill"


_LATE = 1.0  # seconds until an answer is surely in the captures

_SEED = 17


class _Scene(NamedTuple):
    """The parts of a drill. ``servers``: of production, and of the worse model. ``at_once``: requests in flight."""

    environment: str
    sides: Sides
    servers: Sequence[Behind]
    store: CaptureStore
    at_once: int


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
        promotion_context.rule(name)
        before = promotion_context.ledger.pointer(promotion_context.tip, name)
        if before is None:
            raise PromotionRefused(f"{name} runs nothing", f"`lockstep promote {name}` first")
        params = promotion_context.records.work_tree.params
        requests = _draw_requests(root, options)
        worse = _worse_weights(root, options.worse, before)
        home = stack.enter_context(processes.scratch())
        there = scratch.clone(promotion_context, home)
        folders = (
            _production_weights(promotion_context, name, before, home),
            worse[0],
        )
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
        scene = _Scene(name, sides, servers, CaptureStore(str(captures)), at_once)
        roll_back = partial(_roll_back, there, home / scratch.REMOTE, name)
        replayed = _replay_requests(scene, params, requests, options, roll_back, tell)
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
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise MachineRefused(
            f"the gateway needs packages that are missing: {', '.join(missing)}",
            distribution.install("gateway"),
        )
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


def _draw_requests(root: Path, options: IncidentOptions) -> list[Request]:
    """Return the test split's different prompts in an order drawn by chance, each for a release drawn by chance."""
    path = root / layout.SPLITS / "test.jsonl"
    rows = list({row.messages: row for row in files.read_jsonl(path, Row)}.values())
    if not rows:
        raise EvidenceRefused(
            f"{path}: has no rows to replay", "run `./lockstep run` to make the file again"
        )
    if calling := [row.id for row in rows if row.has_calls]:
        raise EvidenceRefused(
            f"{path}: {len(calling)} rows have tools, {calling[0]} is one, and the drill sends none",
            "rehearse `lockstep drill` without --incident",
        )
    count = options.requests or len(rows)
    if count > len(rows):
        raise EvidenceRefused(
            f"--requests {count}: the test split has {len(rows)} different prompts, and each counts once",
            f"ask for at most {len(rows)}",
        )
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    return [
        Request(
            f"drill-{row.id}", row.messages, row.reference, chance.random() < options.share,
            chance.random() < options.labelled,
        )
        for row in chance.sample(rows, count)
    ]  # fmt: skip


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


def _replay_requests(
    scene: _Scene,
    params: Params,
    sent: Sequence[Request],
    options: IncidentOptions,
    roll_back: Callable[[RolloutReport], Back],
    tell: Callable[[str], None],
) -> Replayed:
    """Send the requests, and ask for a decision after each window, until it is `roll back` or every label counted.

    A label counts after the slowest answer so far, the delay of labels and two windows.
    """
    since = datetime.now(UTC)
    scorer = params.evaluate.scorers[0]
    looks, labelled = list[IncidentLook](), set[str]()
    report = back = None
    production, worse = (Side(server.url, server.model) for server in scene.servers)
    limit = params.evaluate.max_new_tokens
    with Replay(sent, production, worse, limit, options.rate, scene.at_once) as replaying:
        began = time.monotonic()
        slowest = 0.0
        counted = False
        while not counted and back is None:
            if replaying.wait(options.window):
                time.sleep(options.window)
            if gone := next((why for server in scene.servers if (why := server.gone())), None):
                raise ServingRefused(gone, "fix what its log says")
            answered = replaying.answered
            now = time.monotonic()
            slowest = max([slowest, *(answer.at - answer.sent for answer in answered)])
            wait = slowest + options.label_delay + 2 * options.window + _LATE
            counted = replaying.wait(0) and now > max(answer.sent for answer in answered) + wait
            _label(scene.store, _known(answered, scorer, now, options.label_delay), labelled)
            monitor = params.monitor.model_copy(update={"label_hours": wait / 3600})
            asked = params.model_copy(update={"monitor": monitor})
            # The last requests are a batch of their own, as at the end of an hour: no other comes.
            until = datetime.now(UTC) + (timedelta(hours=1) if counted else timedelta())
            report = canary.look(asked, scene.environment, scene.sides, scene.store, since, until)
            if report is None:
                continue
            looks.append(IncidentLook(
                seconds=round(time.monotonic() - began, 2), requests=len(answered), pairs=report.pairs,
                labelled=report.labelled, decision=report.decision,
            ))  # fmt: skip
            tell(looks[-1].line)
            if report.decision == "roll back":
                back = roll_back(report)
        back_at = time.monotonic() if back else None
        scored = [(answer, _score(answer, scorer)) for answer in replaying.answered]
        return Replayed(looks, report, back, back_at, scored, began)


def _known(answered: Sequence[Answered], scorer: Scorer, now: float, delay: float) -> list[Request]:
    """The requests whose label is known by ``now``: that of a wrong answer at once, of a right one after ``delay``."""
    return [
        answer.request
        for answer in answered
        if answer.request.labelled and answer.at + _LATE + delay * _score(answer, scorer) <= now
    ]


def _score(answered: Answered, scorer: Scorer) -> float:
    if answered.answer is None:
        return 0.0
    return scoring.score(scorer, answered.answer, answered.request.reference)


def _label(store: CaptureStore, requests: Sequence[Request], known: set[str]) -> None:
    if fresh := [request for request in requests if request.id not in known]:
        store.add([Label(request_id=request.id, label=request.reference) for request in fresh])
        known.update(request.id for request in fresh)
