"""The command watch, and its report as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import environment_tables
from release.cli.common import CAPTURES, FILE, OTLP, exclusive, refuse, refusing, show
from release.cli.tables import COLOURS, mark, one_line

if TYPE_CHECKING:
    from checks.formats.watch_report import WatchReport
    from checks.stats.drift import Separation


_LONGEST_PROMPT = 200  # characters
_ORDER = ("fail", "inconclusive", "pass")  # The order of findings.
_PROPOSED = {
    "opened": "opened {}",
    "updated": "updated {}",
    "closed": "none, because people closed {}",
}


@click.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Start of the window: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
@click.option("--to", "until", metavar="TIME", help="End of the window, which is not part of it.")
@CAPTURES
@click.option(
    "--evidently", metavar="PYTHON", type=FILE,
    help="Python of an environment with Evidently: also write its page, .lockstep/watch/ENV.html.",
)  # fmt: skip
@click.option(
    "--key", metavar="FILE", type=FILE,
    help="The private key that signs the report. Default: .lockstep/keys/lockstep.key, if it exists.",
)  # fmt: skip
@click.option(
    "--keyless",
    is_flag=True,
    help="Sign the report with the identity of this CI job, certified by Sigstore.",
)
@OTLP
@click.option(
    "--prompts", is_flag=True,
    help="Also print prompts that are least like the release's data, and those of it, test rows too, that are missed. "
    "No file has them.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print reports/watch/ENV.json.")
@click.option(
    "--pr", is_flag=True, help="Propose retraining in a pull request where the traffic changed."
)
@click.option(
    "--rows", type=click.IntRange(0, 10_000), default=50, show_default=True,
    help="With --pr: requests to queue for labelling, at most. Their redacted text is then in git.",
)  # fmt: skip
@click.pass_obj
@refusing
def watch(
    root: Path, environment: str, since: str | None, until: str | None, captures: str | None, evidently: Path | None,
    key: Path | None, keyless: bool, otlp: str | None, prompts: bool, as_json: bool, pr: bool, rows: int,
) -> None:  # fmt: skip
    """Judge a window of captured traffic of ENV: the last whole one (monitor.window_days), or from --from to --to.

    Compares the requests to the release that ENV runs with its training data and with its answers before release:
    objectives, drift of prompts and answers, refusals and other signals, and quality if there are labels. Drift is
    compared with earlier windows of the release once there are three. By chance alone, at most
    monitor.false_alarms_a_year windows a year fail. Writes reports/watch/ENV.json and a picture of it, and with a key
    whose owner may verify, the signed report into a file of its own: commit it, and pages and REPORT.md show it.
    Exit codes: 0 pass, 10 fail, 11 inconclusive (too few requests to tell), 19 the release runs on an exception that
    expired, or without one.

    With --pr a failing finding about prompts, answers or quality opens a pull request on GitHub, or updates the open
    one. It has the report, requests to label, and the parameters to change. It needs GITHUB_TOKEN. Nothing is trained
    or merged. The exit code is then 0 whatever the verdict is.
    """
    from release.evidence import verification
    from release.monitoring import evaluation_events
    from release.verbs import watch as verb

    exclusive({"--key": key, "--keyless": keyless})
    exclusive({"--prompts": prompts, "--json": as_json})
    signer, _ = verification.verifier(root, key, keyless=keyless)
    queued = rows if pr else None
    watched = verb.watch(
        root, environment, since, until, captures, evidently, queued, signer, prompts
    )
    report, proposal = watched.report, watched.proposal
    show(report, as_json, lambda report: "\n".join(_shown(report)))
    if prompts:
        click.echo("\n".join(_prompts(watched.prompts)))
    if otlp:
        evaluation_events.send(otlp, evaluation_events.of_window(report))
    if pr:
        done = _PROPOSED[proposal.done].format(one_line(proposal.url)) if proposal else "none"
        click.echo(f"pull request: {done}", err=as_json)
    refuse(watched.lapsed)
    if not pr:
        refuse(verb.refusal(report))


def _shown(report: "WatchReport") -> Iterator[str]:
    from release.monitoring import advice

    when = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    advised = advice.advise(report)
    title = f"{report.environment} {report.version}: {advised.headline}"
    yield click.style(one_line(title), bold=True, fg=COLOURS[report.status])
    yield f"{when}, {report.requests:,} requests, {report.prompts:,} different prompts, {report.labelled:,} labels"
    width = max((len(finding.name) for finding in report.findings), default=0)
    passed = [finding.name for finding in report.findings if finding.status == "pass"]
    for finding in sorted(report.findings, key=lambda finding: _ORDER.index(finding.status)):
        if finding.status != "pass":
            yield f"  {mark(finding.status)} {finding.name:<{width}}  {one_line(finding.reason)}"
            if finding.detectable is not None and finding.kind in ("objective", "quality"):
                than = "the objective" if finding.kind == "objective" else "that before release"
                share = f"a share {finding.detectable:.3g} below {than}"
                yield f"    {'':<{width}}  {share} would be seen with 80% power"
    if passed:
        others = "" if len(passed) == len(report.findings) else " other"
        plural = "s" if len(passed) > 1 else ""
        yield f"  {mark('pass')} {len(passed)}{others} check{plural} pass{'' if plural else 'es'}: {', '.join(passed)}"
    if costs := report.costs:
        yield f"  {environment_tables.cost(costs)} ({costs.device_hours:,.4g} device hours)"
    for note in report.notes:
        yield f"note: {one_line(note)}"
    yield f"at most {report.alpha:.2%} of such windows fail by chance; bounds are one-sided at {report.confidence:.0%}"
    if advised.step:
        yield click.style(f"What to do: {one_line(advised.step)}.", bold=True)


def _prompts(beside: "Separation | None") -> Iterator[str]:
    if beside is None:
        yield "prompts now and in the release's data: too few different ones to compare"
        return
    yield f"prompts now and in the release's data: AUC {beside.auc:.3f} (0.5: nothing tells them apart)"
    for title, texts in zip(
        ("least like the data", "of the data, missed now"), beside.typical, strict=True
    ):
        yield click.style(f"  {title}:", bold=True)
        yield from (f"    {one_line(text[:_LONGEST_PROMPT])}" for text in texts)
