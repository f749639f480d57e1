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
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.pointer import Pointer
from checks.formats.rollout_report import RolloutReport
from checks.kinds.scorer import Scorer
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
from release import runtimes
from release.adapters.git import Git
from release.adapters.registry import reference
from release.ledger import DEADLINE
from release.monitoring import canary, releases
from release.monitoring.incident import SIMULATED, Back, Expected, Incident, Look, expected, lost
from release.monitoring.releases import Sides
from release.monitoring.store import Label, Store
from release.promotion import context, environment, image, scratch
from release.promotion.types import PromotionContext
from release.runtimes import Runtime
from release.serving import behind, processes, weights
from release.serving.behind import Behind
from release.serving.server import unwinding
from release.serving.traffic import Answered, Replay, Request, Side
from release.verbs import rollback

_PACKAGES = ("aiohttp", "prometheus_client", "yarl")  # The gateway needs these.
_LATE = 1.0  # seconds until an answer is surely in the captures
_SEED = 17
_WHY = "a drill"


class IncidentOptions(NamedTuple):
    """``worse``: a folder of weights; None: the base. ``requests``: at most; None: all of the test split.

    ``rate``: requests a second. ``share``: of them to the worse model. ``labelled``: share of them whose label comes.
    ``label_delay``: seconds that the label of a right answer comes later than that of a wrong one. ``window``: seconds
    between two decisions. ``runtime``: starts both servers as processes.
    """

    worse: Path | None = None
    requests: int | None = None
    rate: float = 2.0
    share: float = 0.5
    labelled: float = 1.0
    label_delay: float = 5.0
    window: float = 10.0
    runtime: str = "transformers"
    target: str | None = None


class _Scene(NamedTuple):
    """The parts of a drill. ``both``: production and the worse model. ``where``: a scratch clone."""

    where: PromotionContext
    remote: Path
    sides: Sides
    both: Sequence[Behind]
    store: Store
    at_once: int  # requests in flight


class _Ran(NamedTuple):
    looks: list[Look]
    report: RolloutReport | None
    back: Back | None
    back_at: float | None
    answered: list[Answered]
    began: float


def incident(
    root: Path, name: str, options: IncidentOptions, tell: Callable[[str], None] = lambda _: None
) -> Incident:
    """Run the drill; ``tell`` gets a line for each step and each decision. ``refusal`` says whether it was detected.

    Raises whatever ``rollback`` would raise; EvidenceRefused also if the worse model is production's or rows are few,
    MachineRefused if a package is missing, ServingRefused if a server does not start. Every process is then ended and
    the temporary folder removed, after a signal too.
    """
    runtime = runtimes.load(options.runtime)
    _are_installed(runtime, root)
    with unwinding():
        promotion_context = context.find(root, options.target)
        promotion_context.rule(name)
        before = promotion_context.ledger.pointer(promotion_context.tip, name)
        if before is None:
            raise PromotionRefused(f"{name} runs nothing", f"`lockstep promote {name}` first")
        params = promotion_context.records.work_tree.params
        requests = _requests(root, options)
        worse = _worse(root, options, before)
        with ExitStack() as stack:
            home = stack.enter_context(processes.scratch())
            there = scratch.clone(promotion_context, home)
            folders = (_production(promotion_context, name, before, home), worse[0])
            there = scratch.promoted(there, name, before, worse[1], _WHY)
            if refused := rollback.refusal(
                rollback.move(there, name, rollback.RollbackOptions(why=_WHY, dry_run=True))
            ):
                raise refused  # before minutes of traffic
            sides = releases.both(root, params, name, name, there.ledger)
            captures = home / "captures"
            both = [
                stack.enter_context(
                    behind.started(runtime, params.serve, folder, release, name, captures, root)
                )
                for folder, release in zip(
                    folders, (sides.production, sides.candidate), strict=True
                )
            ]
            tell(
                f"two servers start, each behind a gateway: {sides.production}, and {sides.candidate}, the worse one"
            )
            for server in both:
                server.wait(params.serve.verify.start_seconds)
            scene = _Scene(
                there,
                home / scratch.REMOTE,
                sides,
                both,
                Store(str(captures)),
                len(both) * runtime.concurrency,
            )
            ran = _run(scene, name, params, requests, options, tell)
    return _result(name, before, worse, params, options, ran)


def refusal(done: Incident) -> Refusal | None:
    """The refusal of a drill in which no decision was `roll back`; None if the worse model was rolled back."""
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
            "pip install -c constraints.txt -e '.[gateway]'",
        )
    processes.program(runtime, root)


def _requests(root: Path, options: IncidentOptions) -> list[Request]:
    """The test split's different prompts in an order drawn by chance, each for a release drawn by chance."""
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
    if (count := options.requests or len(rows)) > len(rows):
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


def _worse(root: Path, options: IncidentOptions, before: Pointer) -> tuple[Path, Digest]:
    folder = root / layout.BASE if options.worse is None else options.worse
    actual = digest.of_tree(folder).digest
    if actual == before.model:
        raise EvidenceRefused(
            f"{folder}: is the model that already runs, {before.version}",
            "name another folder: --worse",
        )
    return folder, actual


def _production(where: PromotionContext, name: str, before: Pointer, home: Path) -> Path:
    """A folder with the weights that the environment runs: here, or taken from their image."""
    folder = where.root / layout.MERGED
    if folder.is_dir() and digest.of_tree(folder).digest == before.model:
        return folder
    built = environment.stated(environment.look(where, name), name).predicate.image
    store = image.open_place(where.root, reference.parse(before.image))
    return weights.unpack(store, built, home / "production")


def _run(
    scene: _Scene,
    name: str,
    params: Params,
    requests: Sequence[Request],
    options: IncidentOptions,
    tell: Callable[[str], None],
) -> _Ran:
    """Replay, and ask for a decision after each window, until it is `roll back` or every label counted.

    A label counts after the slowest answer so far, the delay of labels and two windows.
    """
    since, limit, scorer = (
        datetime.now(UTC),
        params.evaluate.max_new_tokens,
        params.evaluate.scorers[0],
    )
    looks, labelled, report, back = list[Look](), set[str](), None, None
    production, worse = (Side(server.url, server.model) for server in scene.both)
    with Replay(requests, production, worse, limit, options.rate, scene.at_once) as replay:
        began, slowest, counted = time.monotonic(), 0.0, False
        while not counted and back is None:
            if replay.wait(options.window):
                time.sleep(options.window)
            if gone := next((why for server in scene.both if (why := server.gone())), None):
                raise ServingRefused(gone, "fix what its log says")
            answered, now = replay.answered, time.monotonic()
            slowest = max([slowest, *(answer.at - answer.sent for answer in answered)])
            wait = slowest + options.label_delay + 2 * options.window + _LATE
            counted = replay.wait(0) and now > max(answer.sent for answer in answered) + wait
            _label(scene.store, _known(answered, scorer, now, options.label_delay), labelled)
            monitor = params.monitor.model_copy(update={"label_hours": wait / 3600})
            asked = params.model_copy(update={"monitor": monitor})
            # The last requests are a batch of their own, as at the end of an hour: no other comes.
            until = datetime.now(UTC) + (timedelta(hours=1) if counted else timedelta())
            report = canary.look(asked, name, scene.sides, scene.store, since, until)
            if report is None:
                continue
            looks.append(Look(
                seconds=round(time.monotonic() - began, 2), requests=len(answered), pairs=report.pairs,
                labelled=report.labelled, decision=report.decision,
            ))  # fmt: skip
            tell(_line(looks[-1]))
            if report.decision == "roll back":
                back = _roll_back(scene, name, report)
        return _Ran(looks, report, back, time.monotonic() if back else None, replay.answered, began)


def _known(answered: Sequence[Answered], scorer: Scorer, now: float, delay: float) -> list[Request]:
    """The requests whose label is known by ``now``: that of a wrong answer at once, of a right one after ``delay``."""
    return [
        answer.request
        for answer in answered
        if answer.request.labelled and answer.at + _LATE + delay * _score(answer, scorer) <= now
    ]


def _score(answered: Answered, scorer: Scorer) -> float:
    return (
        0.0
        if answered.answer is None
        else scoring.score(scorer, answered.answer, answered.request.reference)
    )


def _label(store: Store, requests: Sequence[Request], known: set[str]) -> None:
    if fresh := [request for request in requests if request.id not in known]:
        store.add([Label(request_id=request.id, label=request.reference) for request in fresh])
        known.update(request.id for request in fresh)


def _line(look: Look) -> str:
    return f"{look.seconds:7.1f} s  {look.requests:,} requests, {look.labelled:,} labelled pairs: {look.decision}"


def _roll_back(scene: _Scene, name: str, report: RolloutReport) -> Back:
    began = time.monotonic()
    there = scene.where._replace(tip=scene.where.ledger.tip())
    done = rollback.move(
        there, name, rollback.RollbackOptions(why=canary.why(report), runs=report.candidate)
    )
    seconds = time.monotonic() - began
    scratch.arrived(there, name, done.after)
    if done.after is None or not done.after.model.startswith(f"sha256:{report.production}"):
        raise EvidenceRefused(
            f"the drill: {name} went back to another release", "report this as a bug"
        )
    commit = Git(scene.remote, DEADLINE).line("cat-file", "commit", done.commit or "")
    return Back(
        to=done.after, seconds=round(seconds, 2), signed="\ngpgsig" in commit.partition("\n\n")[0]
    )


def _result(
    name: str,
    before: Pointer,
    worse: tuple[Path, Digest],
    params: Params,
    options: IncidentOptions,
    ran: _Ran,
) -> Incident:
    scorer, monitor = params.evaluate.scorers[0], params.monitor

    def scores(candidate: bool) -> list[float]:
        return [
            _score(answer, scorer)
            for answer in ran.answered
            if answer.request.candidate is candidate
        ]

    ours, theirs = scores(False), scores(True)
    until = max((answer.at for answer in ran.answered), default=ran.began)
    reached = max(len(ran.answered), 1) / max(until - ran.began, 1e-6)
    alpha, labelled_each = (
        1 - monitor.confidence,
        min(options.share, 1 - options.share) * options.labelled,
    )
    right = sum(ours) / len(ours) if ours else None
    smaller: tuple[Expected, ...] = ()
    if ran.report is not None and right and labelled_each:
        smaller = expected(
            right,
            monitor.margin,
            alpha / len(ran.report.findings),
            options.share,
            labelled_each,
            reached,
        )
    return Incident(
        environment=name, production=before, worse=worse[1], worse_from=str(worse[0]), rate=options.rate,
        share=options.share, labelled=options.labelled, label_delay=options.label_delay, window=options.window,
        looks=tuple(ran.looks), detected=ran.looks[-1] if ran.back else None,
        why=canary.why(ran.report) if ran.report and ran.back else None, back=ran.back,
        rolled_back_after=None if ran.back_at is None else round(ran.back_at - ran.began, 2),
        requests=len(ran.answered), reached=round(reached, 2), worse_requests=len(theirs), lost=lost(ours, theirs),
        right=None if right is None else round(right, 4), margin=monitor.margin, false_rollbacks=round(alpha, 6),
        expected=smaller, simulated=SIMULATED,
    )  # fmt: skip
