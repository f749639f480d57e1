"""Compares a server with the one that an environment runs: the same weights, asked the same rows, in pairs.

The new server has passed the checks of `lockstep verify` before. Then the server that runs is started on this machine
and asked the same test rows. The difference of the scores is judged by the test of the gate ``non_inferior``, so that a
small loss at each upgrade is seen where it is shown, not where it adds up. Times count only with a bound, and are then
measured by turns (``pace``).
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checks.config.release_params import Verify
from checks.evaluation import scoring
from checks.formats.serving import ServerComparison
from checks.formats.thinking import answer_in
from checks.process.errors import ServingRefused
from checks.stats import paired
from release.runtimes import Runtime
from release.serving.expected import Expected
from release.serving.options import VerifyOptions
from release.serving.pace import CONFIDENCE as PACE_CONFIDENCE
from release.serving.pace import Pace
from release.serving.probes import life
from release.serving.probes.context import ProbeContext
from release.serving.probes.load import LEVELS, latency
from release.serving.probes.score import ROWS, score

CONFIDENCE = 0.95


class RunningServer(NamedTuple):
    """The server that an environment runs, and how to start it here.

    ``shown``: the server of weights alone, else the image. ``server_image``: as ``starting.started`` takes it.
    ``process``: the package and version of a process that stands for it, which ``python`` runs; None: it runs itself.
    """

    environment: str
    version: str
    shown: str
    expected: Expected
    runtime: Runtime
    options: VerifyOptions
    server_image: str | None
    process: str | None = None
    python: Path | None = None


def compare(running: RunningServer, new: ProbeContext, old: ProbeContext) -> ServerComparison:
    """Ask the old server what the new one was asked, and judge the differences.

    Raises ServingRefused if it does not answer every row.
    """
    asked = life.start(old, time.monotonic())
    if asked.status == "pass":
        asked = score(old)
    if not old.served or not new.served:
        raise ServingRefused(
            f"--against: the server of {running.environment} does not answer here: {asked.reason}",
            "verify on a machine where it runs, or without --against",
        )
    latency(old)
    references = [answer_in(row.reference, new.thinking) for row in new.rows]
    ours, theirs = (
        np.array([scoring.score(new.scorer, *pair) for pair in zip(texts, references, strict=True)])
        for texts in (new.served, old.served)
    )
    differ = sum(
        text.strip() != before.strip() for text, before in zip(new.served, old.served, strict=True)
    )
    codes: dict[str, int] = {}
    groups = np.array([codes.setdefault(row.group, len(codes)) for row in new.rows], np.intp)
    margin = new.serve.verify.margin and max(new.serve.verify.margin, ROWS / len(new.rows))
    comparison = paired.compare(ours, theirs, groups, -min(margin, 0.99), CONFIDENCE)
    slower = _slower(new, old)
    kept = not differ or comparison.low >= -margin
    times = "were not measured" if slower is None else f"take {slower:.2f} times as long"
    return ServerComparison(
        environment=running.environment,
        version=running.version,
        server=running.shown,
        process=running.process,
        metric=new.scorer.kind,
        rows=len(new.rows),
        differ=differ,
        mean=round(float(ours.mean()), 6),
        mean_before=round(float(theirs.mean()), 6),
        lower=round(0.0 if not differ else comparison.low, 6),
        margin=margin,
        confidence=CONFIDENCE,
        slower=slower,
        slower_bound=None,
        status="pass" if kept else "fail",
        reason=(
            f"{new.scorer.kind} {ours.mean():.4f}, before {theirs.mean():.4f}, on {len(new.rows)} rows; {differ} texts "
            f"differ; {_judged(kept, differ, comparison.low, margin)}; the slowest requests {times}"
            + (f"; a process of {running.process} stood for it" if running.process else "")
        ),
    )


def timed(
    comparison: ServerComparison, pace: Pace | None, machine: str | None, verify: Verify
) -> ServerComparison:
    """Return the comparison with the times that were measured by turns, which must keep to ``serve.verify.slower``.

    ``pace``: None if a request was not answered. It fails only if its whole interval lies above the bound, so that a
    busy machine refuses no server. Figures of another class of machines than the policy names do not count.
    """
    bound, counts = verify.slower, verify.slower_machine
    assert bound is not None
    machine_name = machine or "a machine that is not known"
    in_time = False
    if pace is None:
        judged = "a request was not answered while both servers were timed by turns"
    elif counts not in (None, machine):
        judged = (
            f"both servers were timed on {machine_name}, and serve.verify.slower counts on {counts}"
        )
    else:
        in_time = pace.low <= bound
        judged = (
            f"timed by turns on {machine_name}, requests take {pace.ratio:.2f} times as long at {pace.level} at a "
            f"time, {PACE_CONFIDENCE:.0%} interval {pace.low:.2f} to {pace.high:.2f}: at most {bound:g} "
            f"{'are' if in_time else 'were'} allowed"
        )
    figures = {} if pace is None else {"slower_low": pace.low, "slower_high": pace.high}
    return comparison.model_copy(
        update=figures
        | {
            "slower": pace and pace.ratio, "slower_bound": bound, "slower_on": machine,
            "status": "pass" if in_time and comparison.status == "pass" else "fail",
            "reason": f"{comparison.reason}; {judged}",
        }
    )  # fmt: skip


def _judged(kept: bool, differ: int, low: float, margin: float) -> str:
    if not differ:
        return "no worse"
    whether = "no worse by" if kept else "this does not rule out a loss of"
    return f"lower {CONFIDENCE:.0%} bound {low:+.4f}: {whether} {margin:.4g}"


def _slower(new: ProbeContext, old: ProbeContext) -> float | None:
    """The largest ratio of the 95th percentiles, over all levels; None if a level was not measured for both."""
    before = {load.concurrency: load.p95 for load in old.load}
    ratios = [
        load.p95 / before[load.concurrency] for load in new.load if before.get(load.concurrency)
    ]
    return round(max(ratios), 4) if len(ratios) == len(LEVELS) else None
