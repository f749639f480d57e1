"""How answers are shown to a person: lines and tables of what verbs return. Prints nothing itself."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from checks.quarantine import Entries
    from checks.serving import ServingReport
    from checks.verdict import Finding, Verdict
    from release.record.target_policy import PolicyJudgement
    from release.verbs.build import Plan
    from release.verbs.promote import Promoted
    from release.verbs.rollback import RolledBack

LONGEST = 140  # of a passing gate's reason in the table
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


def verdict(found: "Verdict") -> str:
    """The findings, a line each, under the verdict."""
    head = f"verdict: {found.status}"
    if found.model:
        head += f"   model {found.model.removeprefix('sha256:')[:12]}"
    lines = [click.style(head, fg=COLOURS[found.status], bold=True)]
    gates = max((len(f.gate) for f in found.findings), default=0)
    kinds = max((len(f.kind) for f in found.findings), default=0)
    for finding in found.findings:
        mark = click.style(MARKS[finding.status], fg=COLOURS[finding.status])
        lines.append(f"  {mark} {finding.gate:<{gates}}  {finding.kind:<{kinds}}  {_shown(finding)}")
    return "\n".join(lines)


def _shown(finding: "Finding") -> str:
    """The reason on one printable line; that of a pass is cut, --explain has it whole."""
    reason = _line(finding.reason)
    if finding.status != "pass" or len(reason) <= LONGEST:
        return reason
    return f"{reason[: LONGEST - 1]}…"


def policy(judgement: "PolicyJudgement") -> str:
    """What happened to the policy, the verdict under each, every change, and what may be done."""
    from checks import layout

    target = f"{judgement.ref} ({judgement.commit[:12]})"
    parts = [click.style(judgement.headline, fg=COLOURS[judgement.status], bold=True)]
    parts.append(f"under its own policy, {verdict(judgement.own)}")
    if judgement.target is None:
        parts.append(f"under the policy of {target}: not judged")
    elif judgement.target != judgement.own:
        parts.append(f"under the policy of {target}, {verdict(judgement.target)}")
    changes = [f"  {'!' if c.needs_approval else ' '} {c.kind:<9}{c.text}" for c in judgement.changes]
    if changes:
        parts.append(
            "\n".join([f"changes of policy against {target}; ! needs approval or a pass under both:", *changes])
        )
    parts += judgement.notes
    if judgement.approval:
        parts.append(f"approved by {judgement.approval.by}: {judgement.approval.why}")
    elif any(change.needs_approval for change in judgement.changes):
        entry = f"  - policy: {judgement.policy}\n    by: NAME\n    why: REASON"
        parts.append(f"to approve this policy, code owners add to {layout.APPROVALS}:\n{entry}")
    return "\n\n".join(parts)


def figures(values: dict[str, float]) -> str:
    return ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())


def recorded(changed: bool) -> str:
    from checks import layout

    return f"{layout.REFERENCES} {'is written' if changed else 'says so already'}"


def plan(found: "Plan") -> str:
    """What `lockstep build` would do, a line for each blob."""
    base = f"{found.base.name} ({found.base.platform})" if found.base else "none: the weights alone, as a volume"
    lines = [
        f"model     {_short(found.model)} at {found.path}",
        f"record    commit {found.commit[:12]}",
        f"runtime   {found.runtime}",
        f"base      {base}",
        f"target    {found.target}, tag {found.tag}",
        "",
    ]
    width = max(len(blob.title) for blob in found.blobs)
    for blob in found.blobs:
        known = _short(blob.digest) if blob.digest else "not yet known"
        there = "there already" if blob.there else "to send"
        lines.append(f"  {blob.title:<{width}}  {size(blob.size):>9}  {known:<13}  {there}")
    lines.append(f"  {'in all':<{width}}  {size(found.total):>9}  {size(found.to_send)} to send")
    return "\n".join(lines)


def serving(report: "ServingReport") -> str:
    """What a server was seen to do: a line for each check, then how fast it answered."""
    head = f"serving: {report.status}   model {_short(report.model)}, {report.runtime} as a {report.how}"
    lines = [
        click.style(head + (f" of {report.server}" if report.server else ""), fg=COLOURS[report.status], bold=True)
    ]
    for check in report.checks:
        mark = click.style(MARKS[check.status], fg=COLOURS[check.status])
        lines.append(f"  {mark} {check.name:<9}  {_line(check.reason)}")
    for load in report.load:
        first = "" if load.first_token_p50 is None else f", first token {load.first_token_p50:.3f} s"
        lines.append(
            f"    {load.concurrency:>2} at a time: p50 {load.p50:.3f} s, p95 {load.p95:.3f} s{first}, "
            f"{load.tokens_per_second:.0f} tokens/s"
        )
    return "\n".join(lines)


DONE = {
    "moved": "runs {after} now",
    "already": "runs {after} already",
    "mended": "runs {after}, and its files were written again",
    "proposed": "would run {after}: a pull request waits",
    "planned": "would run {after}",
}


def moved(done: "Promoted | RolledBack") -> str:
    """What was asked, a line each, what changed, and what became of it."""
    lines = []
    for check in done.checks:
        status = "fail" if check.gaps else "unavailable" if check.unasked else "pass"
        mark = click.style(MARKS[status], fg=COLOURS[status])
        told = [gap.line for gap in check.gaps] or [check.note]
        lines += [f"  {mark} {check.about}: {_line(line)}" if line else f"  {mark} {check.about}" for line in told]
    if done.done == "planned" and done.diff:
        lines += ["", done.diff.rstrip(), ""]
    nothing = "nothing that is known" if hasattr(done, "url") else "nothing"  # a rollback may empty an environment
    after = done.after.version if done.after else nothing
    before = f", it ran {done.before.version}" if done.before and done.done == "moved" else ""
    lines.append(click.style(f"{done.environment} {DONE[done.done].replace('{after}', after)}{before}", bold=True))
    if done.commit:
        lines.append(f"  commit {done.commit[:12]}  {'  '.join(done.tags)}".rstrip())
    if url := getattr(done, "url", None):
        lines.append(f"  {url}")
    return "\n".join([*lines, *(f"  note: {_line(note)}" for note in done.notes)])


def held(entries: "Entries") -> list[str]:
    """The quarantine, an entry a line."""
    return [f"{e.version or '-'}  {_short(e.image)}  {_line(e.why)} ({_line(e.by)})" for e in entries] or [
        "nothing is held back"
    ]


def size(count: int) -> str:
    """Bytes for a person, in decimal units."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _line(text: str) -> str:
    """Text on one printable line."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text).split())
