"""Renders the results of verbs as text: lines and tables. Prints nothing itself."""

import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from checks.process.text import escape

if TYPE_CHECKING:
    from checks.decision.policy_judgement import PolicyJudgement
    from checks.formats.evaluation_reports import EvaluationReport
    from checks.formats.serving import ServingReport
    from checks.formats.verdict import Status, Verdict
    from release.review.advice import Situation
    from release.verbs.build import Plan
    from release.verbs.evidence import Walk
    from release.verbs.recheck import Rechecked

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unavailable": "-"}
COLOURS = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "unavailable": "yellow",
    "ok": "green",
    "missing": "red",
    "optional": "yellow",
    "unknown": "yellow",
}

# What decides stands last, where a terminal shows it.
_LAST = ("pass", "inconclusive", "fail")

CHECKED = {
    "store": "checked in the store", "here": "checked here", "commit": "checked in the commit",
    "follows": "follows from what was checked", "signed": "only signed",
}  # fmt: skip


def mark(status: str) -> str:
    """The sign of a status, in its colour."""
    return click.style(MARKS[status], fg=COLOURS[status])


def verdict(found: "Verdict", whole: bool = True) -> str:
    """The verdict, a line for each finding, those that fail last, and what to do. ``whole``: as of ``findings``."""
    from release.review import situations

    return "\n".join([findings(found, whole), "", advised(situations.of_verdict(found))])


def advised(situation: "Situation") -> str:
    """Mark, headline and next step of a situation."""
    from release.review import advice

    advised_so = advice.advise(situation)
    return f"{click.style(one_line(advised_so.title), bold=True)}\nDo: {one_line(advised_so.todo.plain)}"


def findings(found: "Verdict", whole: bool = True) -> str:
    """The verdict, and a line for each finding, those that fail last.

    ``whole``: with every reason in full; else a gate that passes has one line of the terminal, and none has a p-value.
    """
    from release.pages.figures import typeset, without_p

    head = f"verdict: {found.status}"
    if found.model:
        head += f"   of these weights, model {found.model.removeprefix('sha256:')[:12]}"
    lines = [click.style(head, fg=COLOURS[found.status], bold=True)]
    gates = max((len(f.gate) for f in found.findings), default=0)
    kinds = max((len(f.kind) for f in found.findings), default=0)
    write = typeset if whole else without_p
    room = None if whole else shutil.get_terminal_size().columns
    for finding in sorted(found.findings, key=lambda finding: _LAST.index(finding.status)):
        text = (
            f"{finding.gate:<{gates}}  {finding.kind:<{kinds}}  {one_line(write(finding.reason))}"
        )
        if room and finding.status == "pass" and len(text) > room - 4:
            text = f"{text[: room - 5].rstrip()}…"
        lines.append(f"  {mark(finding.status)} {text}")
    return "\n".join(lines)


def policy(judgement: "PolicyJudgement") -> str:
    """The verdict under both policies, every change of the policy, and how to approve it."""
    from checks.storage import layout
    from release.review import situations

    target = f"{judgement.ref} ({judgement.commit[:12]})"
    parts = [click.style(judgement.headline, fg=COLOURS[judgement.status], bold=True)]
    parts.append(f"under its own policy, {findings(judgement.own)}")
    if judgement.target is None:
        parts.append(f"under the policy of {target}: not judged")
    elif judgement.target != judgement.own:
        parts.append(f"under the policy of {target}, {findings(judgement.target)}")
    changes = [
        f"  {'!' if c.needs_approval else ' '} {c.kind:<9}{c.text}" for c in judgement.changes
    ]
    if changes:
        parts.append(
            "\n".join(
                [
                    f"changes of policy against {target}; ! needs the approval of code owners:",
                    *changes,
                ]
            )
        )
    parts += judgement.notes
    if judgement.approval:
        parts.append(f"approved by {judgement.approval.by}: {judgement.approval.why}")
    elif any(change.needs_approval for change in judgement.changes):
        entry = f"  - policy: {judgement.policy}\n    by: NAME\n    why: REASON"
        parts.append(f"to approve this policy, code owners add to {layout.APPROVALS}:\n{entry}")
    parts.append(advised(situations.of_judgement(judgement)))
    return "\n\n".join(parts)


def figures(values: dict[str, float]) -> str:
    """Each metric with its value."""
    return ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())


def figures_of_run(
    before: "EvaluationReport | None", now: "EvaluationReport | None"
) -> list[tuple[str, str]]:
    """Pairs of a label and a line: the candidate beside all others, then its change since ``before``, the last run."""
    if now is None or "candidate" not in now.models:
        return []
    beside = {
        scorer: ", ".join(
            f"{name} {model.metrics[scorer].value:.3f}"
            for name, model in now.models.items()
            if name != "candidate" and scorer in model.metrics
        )
        for scorer in now.models["candidate"].metrics
    }
    lines = [
        (
            scorer,
            f"{own.value:.3f} [{own.low:.3f}, {own.high:.3f}] of {now.rows:,} rows; {beside[scorer]}",
        )
        for scorer, own in now.models["candidate"].metrics.items()
    ]
    return [*lines, ("last run", _since(before, now))]


def _since(before: "EvaluationReport | None", now: "EvaluationReport") -> str:
    if before is None or "candidate" not in before.models:
        return "none: this is the first"
    if before.merged == now.merged:
        return "the same model"
    if (before.test, before.scorers) != (now.test, now.scorers):
        return f"model {short(before.merged)}, scored on other rows or otherwise"
    new, old = now.models["candidate"].metrics, before.models["candidate"].metrics
    changes = ", ".join(
        f"{name} {new[name].value - score.value:+.3f}" for name, score in old.items() if name in new
    )
    return (
        f"model {short(before.merged)}: {changes} since; more than noise? ./lockstep compare HEAD"
    )


def plan(found: "Plan") -> str:
    """Return what `lockstep build` would do, one line for each blob."""
    base = (
        f"{found.base.name} ({found.base.platform})"
        if found.base
        else "none: the weights alone, as a volume"
    )
    lines = [
        f"model     {short(found.model)} at {found.path}",
        f"record    commit {found.commit[:12]}",
        f"runtime   {found.runtime}",
        f"base      {base}",
        f"target    {found.target}, tag {found.tag}",
        "",
    ]
    width = max(len(blob.title) for blob in found.blobs)
    for blob in found.blobs:
        known = short(blob.digest) if blob.digest else "not yet known"
        there = "there already" if blob.there else "to send"
        lines.append(f"  {blob.title:<{width}}  {size(blob.size):>9}  {known:<13}  {there}")
    lines.append(f"  {'in all':<{width}}  {size(found.total):>9}  {size(found.to_send)} to send")
    return "\n".join(lines)


def serving(report: "ServingReport") -> str:
    """One line for each check of a served model, then its latency."""
    from checks.formats import energy

    head = f"serving: {report.status}   model {short(report.model)}, {report.runtime} as a {report.how}"
    lines = [
        click.style(
            head + (f" of {report.server}" if report.server else ""),
            fg=COLOURS[report.status],
            bold=True,
        )
    ]
    lines += [
        f"  {mark(check.status)} {check.name:<9}  {one_line(check.reason)}"
        for check in report.checks
    ]
    if compared := report.against:
        what = f"{mark(compared.status)} against {compared.environment} ({compared.version})"
        lines.append(f"  {what}: {one_line(compared.reason)}")
    for load in report.load:
        first = (
            "" if load.first_token_p50 is None else f", first token {load.first_token_p50:.3f} s"
        )
        lines.append(
            f"    {load.concurrency:>2} at a time: p50 {load.p50:.3f} s, p95 {load.p95:.3f} s{first}, "
            f"{load.tokens_per_second:.0f} tokens/s"
        )
    if throughput := report.throughput:
        hours = throughput.watt_hours
        missing = (
            "; ".join(throughput.energy.missing)
            or f"it took {throughput.seconds:g} s, too short for the counters"
        )
        taken = (
            f"energy not measured: {missing}"
            if hours is None
            else f"1,000 requests take {energy.watt_hours(hours)}"
        )
        lines.append(
            f"    {one_line(throughput.machine or 'machine not known')}: {one_line(taken)}"
        )
    return "\n".join(lines)


def size(count: int) -> str:
    """A number of bytes in decimal units, such as 1.5 MB."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def walk(found: "Walk") -> str:
    """The provenance of an image down to its training rows, one line for each step."""
    width = max(len(step.what) for step in found.steps)
    lines = [
        found.image,
        f"signed by {found.signer}, evidence {found.evidence}",
        "",
        *(
            f"{step.what:{width}}  {short(step.digest or ''):12}  {step.note} ({CHECKED[step.checked]})"
            for step in found.steps
        ),
    ]
    return "\n".join(map(escape, lines))


def rechecked(checked: "Iterable[Rechecked]") -> str:
    """Return a line for each commit, and one below it for everything that is wrong or unknown there."""
    lines = []
    for result in checked:
        status: Status = "fail" if result.unsafe else "inconclusive" if result.unknown else "pass"
        ran = f"  {', '.join(result.releases)}" if result.releases else ""
        lines.append(f"{MARKS[status]} {result.commit[:12]}{ran}")
        lines += [f"    {line}" for line in (*result.unsafe, *result.unknown)]
    return "\n".join(map(escape, lines)) or "nothing was released yet"


def short(digest: str) -> str:
    """The first 12 hex digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def one_line(text: str) -> str:
    """Untrusted text on one line, with unprintable characters escaped."""
    return escape(" ".join(text.split()))
