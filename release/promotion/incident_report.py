"""`lockstep drill --incident`: replays the test split to both servers, and asks for a decision after each window.

Its report says when a worse model was detected and rolled back, and at what cost. Times are of the machine that it ran
on.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from checks.config.monitor import Monitor
from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats import thinking
from checks.formats.pointer import Pointer
from checks.formats.rollout_report import RolloutReport
from checks.formats.serving import Seconds
from checks.kinds.scorer import Scorer
from checks.process.errors import EvidenceRefused, ServingRefused
from checks.records.record import Digest
from checks.records.rows import Record, Row
from checks.storage import files, layout
from release.monitoring import canary, detection
from release.monitoring.releases import Sides
from release.monitoring.store import CaptureStore, Label
from release.serving.behind_gateway import Behind
from release.serving.traffic import Answered, Replay, Request, Side

SIMULATED = (
    "the worse model was promoted without checks, image, signature or approval: only its commit is as promote makes it",
    "this command was the load balancer, and labels came within seconds",
    "no cluster followed the rollback, and no mirror was updated",
)


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


class IncidentLook(Record):
    """One decision. ``requests``: answered before it; ``seconds``: since the first request."""

    seconds: Seconds
    requests: int
    pairs: int
    labelled: int
    decision: str

    @property
    def line(self) -> str:
        """Return the decision in one line."""
        count = f"{self.requests:,} requests, {self.labelled:,} labelled pairs"
        return f"{self.seconds:7.1f} s  {count}: {self.decision}"


class Back(Record):
    """The rollback in the scratch clone. ``seconds``: of the commit alone, from the decision to the scratch remote."""

    to: Pointer
    seconds: Seconds
    signed: bool  # git's signature of the commit


class ExpectedDetection(detection.Detection):
    """``requests`` and ``seconds``: what ``pairs`` take at this drill's share, labels and rate."""

    requests: int | None
    seconds: float | None


class Incident(Record):
    """The course of an incident. ``detected``: the look that decided to roll back; None: no look did.

    ``worse_requests``: the requests that the worse model answered until the rollback, or until the end. ``lost``: how
    many more of these production would have answered right, by the first scorer. ``right``: production's score.
    ``reached``: requests a second. ``false_rollbacks``: the largest share of good candidates that such a canary rolls
    back.
    """

    environment: str
    production: Pointer
    worse: Digest
    worse_from: str
    rate: float
    share: float
    labelled: float
    label_delay: float
    window: float
    looks: tuple[IncidentLook, ...]
    detected: IncidentLook | None
    why: str | None
    back: Back | None
    rolled_back_after: Seconds | None  # since the first request
    requests: int
    reached: float
    worse_requests: int
    lost: float
    right: float | None
    margin: float
    false_rollbacks: float
    expected: tuple[ExpectedDetection, ...]
    simulated: tuple[str, ...]


class Replayed(NamedTuple):
    """``looks``: the decisions. ``report``: of the last one. ``back``: the rollback, which ended at ``back_at``.

    ``began``, ``back_at``: seconds of ``time.monotonic``. ``scored``: each answer with its score by the first scorer.
    """

    looks: list[IncidentLook]
    report: RolloutReport | None
    back: Back | None
    back_at: float | None
    scored: list[tuple[Answered, float]]
    began: float


def report(
    environment: str,
    production: Pointer,
    worse: tuple[Path, Digest],
    monitor: Monitor,
    options: IncidentOptions,
    replayed: Replayed,
) -> Incident:
    """Return what happened. ``worse``: the folder of the worse model, and its digest."""
    scored, rollout = replayed.scored, replayed.report
    ours = [score for answer, score in scored if not answer.request.candidate]
    theirs = [score for answer, score in scored if answer.request.candidate]
    right = sum(ours) / len(ours) if ours else None
    until = max((answer.at for answer, _ in scored), default=replayed.began)
    reached = max(len(scored), 1) / max(until - replayed.began, 1e-6)
    alpha = 1 - monitor.confidence
    labelled_each = min(options.share, 1 - options.share) * options.labelled
    smaller: tuple[ExpectedDetection, ...] = ()
    if rollout and right and labelled_each:
        level = alpha / len(rollout.findings)
        cases = detection.expected(right, monitor.margin, level, options.share)
        smaller = tuple(_expected(case, labelled_each, reached) for case in cases)
    back, back_at = replayed.back, replayed.back_at
    return Incident(
        environment=environment, production=production, worse=worse[1], worse_from=str(worse[0]), rate=options.rate,
        share=options.share, labelled=options.labelled, label_delay=options.label_delay, window=options.window,
        looks=tuple(replayed.looks), detected=replayed.looks[-1] if back else None,
        why=canary.why(rollout) if rollout and back else None, back=back,
        rolled_back_after=None if back_at is None else round(back_at - replayed.began, 2),
        requests=len(scored), reached=round(reached, 2), worse_requests=len(theirs), lost=_lost(ours, theirs),
        right=None if right is None else round(right, 4), margin=monitor.margin, false_rollbacks=round(alpha, 6),
        expected=smaller, simulated=SIMULATED,
    )  # fmt: skip


def _expected(case: detection.Detection, labelled_each: float, reached: float) -> ExpectedDetection:
    """Return how soon a smaller loss would be found. ``labelled_each``: labelled pairs that a request makes."""
    requests = None if case.pairs is None else round(case.pairs / labelled_each)
    seconds = None if requests is None else round(requests / reached, 1)
    return ExpectedDetection(**case.model_dump(), requests=requests, seconds=seconds)


def _lost(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how many more of the candidate's answers (scores ``theirs``) would have been right from production."""
    return round(max(0.0, len(theirs) * sum(ours) / len(ours) - sum(theirs)), 1) if ours else 0.0


_LATE = 1.0  # After so many seconds an answer is surely in the captures.
_SEED = 17


class Scene(NamedTuple):
    """The parts of a drill. ``servers``: of production, and of the worse model. ``at_once``: requests in flight."""

    environment: str
    sides: Sides
    servers: Sequence[Behind]
    store: CaptureStore
    at_once: int


def draw_requests(root: Path, options: IncidentOptions) -> list[Request]:
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
    marked = thinking.of_model(root / layout.MERGED)
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    return [
        Request(
            f"drill-{row.id}", row.messages, thinking.answer_in(row.reference, marked), chance.random() < options.share,
            chance.random() < options.labelled,
        )
        for row in chance.sample(rows, count)
    ]  # fmt: skip


def replay_requests(
    scene: Scene,
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
            # People report a wrong answer at once, and a right one after the delay of labels.
            known = [
                answer.request
                for answer in answered
                if answer.request.labelled
                and answer.at + _LATE + options.label_delay * _score(answer, scorer) <= now
            ]
            _label(scene.store, known, labelled)
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


def _score(answered: Answered, scorer: Scorer) -> float:
    if answered.answer is None:
        return 0.0
    return scoring.score(scorer, answered.answer, answered.request.reference)


def _label(store: CaptureStore, requests: Sequence[Request], known: set[str]) -> None:
    if fresh := [request for request in requests if request.id not in known]:
        store.add([Label(request_id=request.id, label=request.reference) for request in fresh])
        known.update(request.id for request in fresh)
