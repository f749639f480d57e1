"""canary: judges a candidate by the captured traffic that it shares with production, since its first request.

Nothing is stored between two looks: each computes everything anew from the captures, so it may be asked at any time and
any number of times.
"""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from checks.formats.rollout_report import RolloutReport
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.storage import files, layout
from release.ledger.message import NONE
from release.monitoring import canary as captured
from release.monitoring import releases
from release.monitoring.store import CaptureStore
from release.overlay import environment_file
from release.promotion.rollback_plan import RolledBack
from release.promotion.rollback_targets import NoEarlierRelease
from release.record.records import Records
from release.verbs import rollback
from release.verbs.history import moment

_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def canary(
    root: Path,
    environment: str,
    release: str | None = None,
    since: str | None = None,
    captures: str | None = None,
    now: datetime | None = None,
) -> RolloutReport:
    """Judge, and write reports/rollout/ENV-canary.json. ``shadow.refusal`` says how a decision ends.

    ``release``: see ``releases.both``. ``since``: older captures are not read; the first request to the candidate
    counts from there on. ``captures``: the gateway's folder or address; None: that of this machine. Raises
    ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing, the candidate is not known or got
    no request; MachineRefused.
    """
    now = now or datetime.now(UTC)
    params = Records(root).work_tree.params
    sides = releases.both(root, params, environment, release)
    begin = _LONG_AGO if since is None else moment(since, now).start
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    report = captured.look(params, environment, sides, store, begin, now)
    if report is None:
        raise EvidenceRefused(
            f"{store.shown}: no request to the candidate {sides.candidate} of {environment}, "
            f"which runs {sides.production}",
            "name the gateway's folder with --captures, or the candidate with --candidate-release",
        )
    files.write_json(root / layout.ROLLOUT / f"{environment}-canary.json", report)
    return report


def roll_back(root: Path, report: RolloutReport) -> RolledBack | None:
    """If ``report`` decides so, roll the environment back that runs the candidate, with the findings as the reason.

    The first canary of an adapter on its own server is rolled back to nothing.

    Raises as ``rollback.rollback``, and PromotionRefused if no environment is known to run it, or runs another by now.
    """
    if report.runs_in is None:
        raise PromotionRefused(
            f"no environment is known that runs {report.candidate}",
            "name it with --candidate-release, or roll back by hand",
        )
    if report.decision != "roll back":
        return None
    move = partial(
        rollback.rollback, root, report.runs_in, why=captured.why(report), runs=report.candidate
    )
    try:
        return move()
    except NoEarlierRelease:
        source = environment_file.path(report.environment)
        committed = {source: (root / source).read_bytes()}
        file = environment_file.readable(report.environment, committed)
        if file is None or file.canary != report.runs_in:
            raise
        # The server goes on with the adapter that production runs.
        return move(to=NONE)
