"""Replays the test split of an incident drill to both servers, and asks for a decision after each window."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.rollout_report import RolloutReport
from checks.kinds.scorer import Scorer
from checks.process.errors import EvidenceRefused, ServingRefused
from checks.records.rows import Row
from checks.storage import files, layout
from release.monitoring import canary
from release.monitoring.releases import Sides
from release.monitoring.store import CaptureStore, Label
from release.promotion.incident_report import Back, IncidentLook, IncidentOptions, Replayed
from release.serving.behind_gateway import Behind
from release.serving.traffic import Answered, Replay, Request, Side

_LATE = 1.0  # seconds until an answer is surely in the captures
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
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    return [
        Request(
            f"drill-{row.id}", row.messages, row.reference, chance.random() < options.share,
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
    """Return the requests whose label has come by ``now``.

    People report a wrong answer at once, and a right one after ``delay`` seconds.
    """
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
