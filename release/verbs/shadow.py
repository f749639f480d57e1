"""shadow: sends captured prompts to production's server and to a candidate's, and judges the pairs of answers.

Clients get nothing of it. It stops at the first decision, or when every prompt was sent.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from checks.config.params import Params
from checks.data import detectors
from checks.formats.rollout_report import RolloutReport
from checks.process.errors import EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import files, layout
from release.monitoring import releases
from release.monitoring import shadow as shadowed
from release.monitoring.store import CaptureStore
from release.record.records import Records
from release.serving.traffic import Endpoint, Said

_LOOK = 20  # pairs between two looks


def shadow(
    root: Path,
    environment: str,
    production: str,
    candidate: str,
    release: str | None = None,
    most: int = 1000,
    captures: str | None = None,
    tell: Callable[[RolloutReport], None] = lambda _: None,
    now: datetime | None = None,
) -> RolloutReport:
    """Send the prompts of the last window_days, call ``tell`` at each look, write reports/rollout/ENV-shadow.json.

    ``production``, ``candidate``: addresses of the servers. ``release``: see ``releases.both``. ``most``: prompts at
    most. ``captures``: the gateway's folder or address; None: that of this machine. Raises ParamsRefused,
    EvidenceRefused (no release, no prompt, an unreadable file), MachineRefused if such a run is under way,
    ServingRefused if a server is another release or does not answer; the pairs so far are kept. ``refusal`` says how a
    decision ends.
    """
    params = Records(root).work_tree.params
    sides = releases.both(root, params, environment, release)
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    prompts, notes = _prompts(store, environment, params, sides, now or datetime.now(UTC))
    kept = shadowed.PairFile(
        root / layout.SHADOW / environment / f"{sides.production}-{sides.candidate}.jsonl"
    )
    servers = (
        Endpoint(production, sides.production, "production"),
        Endpoint(candidate, sides.candidate, "the candidate"),
    )

    def look() -> RolloutReport:
        at = now or datetime.now(UTC)
        labels = store.first_labels()
        return shadowed.report(environment, sides, params, kept.pairs, labels, notes, at)

    with closing(kept), closing(servers[0]), closing(servers[1]), ThreadPoolExecutor(2) as threads:
        for server in servers:
            server.identify()
        waiting = [prompt for prompt in prompts if prompt.digest not in kept.asked][
            : max(0, most - len(kept.pairs))
        ]
        for number, prompt in enumerate(waiting):
            if number % _LOOK == 0 and kept.pairs:
                report = look()
                tell(report)
                if report.decision != "go on":
                    break
            kept.add(_pair(threads, servers, prompt, params.evaluate.max_new_tokens))
    report = look()
    files.write_json(root / layout.ROLLOUT / f"{environment}-shadow.json", report)
    return report


def refusal(report: RolloutReport) -> Refusal | None:
    """Return the refusal for a candidate that is not kept; None for ``keep``."""
    path = layout.ROLLOUT / f"{report.environment}-{report.kind}.json"
    what = f"{report.environment}: {report.decision}: candidate {report.candidate} against {report.production}"
    if report.decision == "keep":
        return None
    if report.decision == "go on":
        return VerdictInconclusive(
            what, f"send more requests, or labels by `lockstep feedback`; figures in {path}"
        )
    names = ", ".join(finding.name for finding in report.findings if finding.status == "fail")
    todo = (
        "do not promote it"
        if report.runs_in is None
        else f"`lockstep rollback {report.runs_in} --why …`"
    )
    todo += f"; figures in {path}"
    return VerdictFailed(f"{what}: {names}", todo)


def _prompts(
    store: CaptureStore, environment: str, params: Params, sides: releases.Sides, now: datetime
) -> tuple[list[shadowed.Prompt], list[str]]:
    since = now - timedelta(days=params.monitor.window_days)
    requests = store.requests(environment, since, now)
    if params.merge.form == "adapter":
        requests = shadowed.of_adapter(requests, params.serve.name, sides)
    prompts, left_out = shadowed.prompts(requests)
    notes = (
        [f"{left_out:,} requests are left out: no chat of texts alone, or a client's mistake"]
        if left_out
        else []
    )
    if not prompts:
        raise EvidenceRefused(
            f"{store.shown}: no chat with {environment} since {since:%Y-%m-%d %H:%M} UTC that can be sent again"
            + (f" ({notes[0]})" if notes else ""),
            "name the gateway's folder with --captures",
        )
    return prompts, notes


def _pair(
    threads: ThreadPoolExecutor,
    servers: tuple[Endpoint, Endpoint],
    prompt: shadowed.Prompt,
    limit: int,
) -> shadowed.ShadowPair:
    """Ask both at the same time. Raises ServingRefused if one is gone: that says nothing about its answers."""
    answers = tuple(threads.map(lambda server: server.ask(prompt.messages, limit), servers))
    if any(answer.lost for answer in answers):
        for server in servers:
            server.identify()
    return shadowed.ShadowPair(
        time=datetime.now(UTC), arrived=prompt.arrived, request_id=prompt.request_id, prompt=prompt.digest,
        production=_redacted(answers[0]), candidate=_redacted(answers[1]),
    )  # fmt: skip


def _redacted(said: Said) -> shadowed.ShadowAnswer:
    answer, error = (
        None if text is None else detectors.redact(text)[0] for text in (said.answer, said.error)
    )
    return shadowed.ShadowAnswer(answer=answer, error=error, seconds=round(said.seconds, 4))
