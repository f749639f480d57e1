"""canary: judges a candidate by the captured traffic that it shares with production, since its first request.

Nothing is stored between two looks: each computes everything anew from the captures, so it may be asked at any time and
any number of times.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks import files, layout
from checks.errors import EvidenceRefused
from checks.rollout_report import RolloutReport
from release.monitoring import canary as captured
from release.monitoring import releases, rollout
from release.monitoring.rollout import Asks
from release.monitoring.store import Store
from release.record.records import Records
from release.verbs.history import moment

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
    production, candidate = releases.both(root, params, environment, options.release)
    since = _LONG_AGO if options.since is None else moment(options.since, now).start
    store = Store(options.captures or str(root / layout.CAPTURES))
    traffic = captured.traffic(store.requests(environment, since, now), production, candidate)
    if not traffic.requests:
        raise EvidenceRefused(
            f"{store.shown}: no request to the candidate {candidate} of {environment} (to production: {production})",
            "name the gateway's folder with --captures, or the candidate with --candidate-release",
        )
    monitor = params.monitor
    pairs, scored, evidence = captured.pair(
        traffic.requests, store.first_labels(), candidate, params.evaluate.scorers[0]
    )
    known = None if monitor.labels is None else frozenset(monitor.labels)
    asks = Asks(monitor.margin, 1 - monitor.confidence, known, True, False)
    found = rollout.judge(pairs, scored, asks)
    alone = len(traffic.requests) - 2 * len(pairs)
    notes = [f"{alone:,} requests have no partner in their hour, or repeat a prompt"] if alone else []
    if traffic.others:
        notes.append(f"{traffic.others:,} requests to other releases are left out")
    report = RolloutReport(
        kind="canary", environment=environment, production=production, candidate=candidate,
        since=traffic.requests[0].time, decision=found.decision, margin=asks.margin, alpha=round(asks.alpha, 6),
        evidence=evidence, pairs=len(pairs), labelled=len(scored), agreement=None, findings=found.findings,
        notes=tuple(notes),
    )  # fmt: skip
    files.write_json(root / layout.ROLLOUT / f"{environment}-canary.json", report)
    return report
