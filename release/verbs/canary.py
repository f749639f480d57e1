"""canary: judges a candidate by the captured traffic that it shares with production, since its first request.

Nothing is stored between two looks: each computes everything anew from the captures, so it may be asked at any time and
any number of times.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks import files, layout
from checks.captures import LONGEST_REQUEST
from checks.errors import EvidenceRefused, PromotionRefused
from checks.rollout_report import RolloutReport
from release.monitoring import canary as captured
from release.monitoring import releases, rollout
from release.monitoring.rollout import Asks
from release.monitoring.store import Store
from release.record.records import Records
from release.verbs import rollback
from release.verbs.history import moment
from release.verbs.rollback import RolledBack

_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Options(NamedTuple):
    """``release``: see ``releases.both``. ``since``: older captures are not read; the first request to the candidate
    counts from there on. ``captures``: the gateway's folder or address; None: that of this machine.
    """

    release: str | None = None
    since: str | None = None
    captures: str | None = None


def canary(root: Path, environment: str, options: Options | None = None, now: datetime | None = None) -> RolloutReport:
    """Judge, and write reports/rollout/ENV-canary.json. ``shadow.refusal`` says how a decision ends.

    Raises ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing, the candidate is not
    known or got no request; MachineRefused.
    """
    options = options or Options()
    now = now or datetime.now(UTC)
    params = Records(root).work_tree.params
    production, candidate, runs_in = releases.both(root, params, environment, options.release)
    since = _LONG_AGO if options.since is None else moment(options.since, now).start
    store = Store(options.captures or str(root / layout.CAPTURES))
    traffic = captured.traffic(store.requests(environment, since, now), production, candidate)
    if not traffic.requests:
        raise EvidenceRefused(
            f"{store.shown}: no request to the candidate {candidate} of {environment}, which runs {production}",
            "name the gateway's folder with --captures, or the candidate with --candidate-release",
        )
    asks = Asks.of(params.monitor, same_prompts=False)
    labels, scorer = store.first_labels(), params.evaluate.scorers[0]
    pairs, scored, evidence = captured.pair(traffic.requests, labels, candidate, scorer)
    found = rollout.judge(pairs, scored, asks)
    ended = [each for each in traffic.requests if each.time < now - LONGEST_REQUEST]
    settled = rollout.judge(*captured.pair(ended, labels, candidate, scorer)[:2], asks)
    alone = len(traffic.requests) - 2 * len(pairs)
    notes = [f"{alone:,} requests have no partner in their hour, or repeat a prompt"] if alone else []
    if traffic.others:
        notes.append(f"{traffic.others:,} requests to other releases are left out")
    decision = found.decision
    if decision == "keep" != settled.decision:
        decision = "go on"
        notes.append("not kept yet: requests of the last hour may still run, and one that hangs is captured at its end")
    report = RolloutReport(
        kind="canary", environment=environment, production=production, candidate=candidate, runs_in=runs_in,
        since=traffic.requests[0].time, decision=decision, margin=asks.margin, alpha=round(asks.alpha, 6),
        evidence=evidence, pairs=len(pairs), labelled=len(scored), agreement=None, findings=found.findings,
        notes=tuple(notes),
    )  # fmt: skip
    files.write_json(root / layout.ROLLOUT / f"{environment}-canary.json", report)
    return report


def roll_back(root: Path, report: RolloutReport) -> RolledBack | None:
    """If ``report`` decides so, roll the environment back that runs the candidate, with the findings as the reason.

    Raises as ``rollback.rollback``, and PromotionRefused if no environment is known to run it, or runs another by now.
    """
    if report.runs_in is None:
        raise PromotionRefused(
            f"no environment is known that runs {report.candidate}",
            "name it with --candidate-release, or roll back by hand",
        )
    if report.decision != "roll back":
        return None
    reasons = [f"{each.name}: {each.reason}" for each in report.findings if each.status == "fail"]
    why = f"canary of {report.environment} against {report.production}, {report.evidence[:19]}…: {'; '.join(reasons)}"
    return rollback.rollback(root, report.runs_in, rollback.Options(why=why, runs=report.candidate))
