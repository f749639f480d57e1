"""Commands that compare a candidate with production on its traffic: shadow, canary."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import environment_tables
from release.cli.common import refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from checks.formats.rollout_report import RolloutReport

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_DECISIONS = {"keep": "green", "roll back": "red", "go on": "yellow"}
_CAPTURES = "Folder or address (s3://…) of the gateway's captures. Default: .lockstep/captures."
_RELEASE = (
    "The candidate: an environment that runs it, or the digest of its model. "
    "Default: the environment before ENV."
)


@click.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--production",
    metavar="URL",
    required=True,
    help="Address of the server that runs ENV's release.",
)
@click.option(
    "--candidate", metavar="URL", required=True, help="Address of the candidate's server."
)
@click.option("--candidate-release", "release", metavar="RELEASE", help=_RELEASE)
@click.option(
    "--most",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Prompts to send, at most.",
)
@click.option("--captures", metavar="FOLDER", help=_CAPTURES)
@click.option("--json", "as_json", is_flag=True, help="Print reports/rollout/ENV-shadow.json.")
@click.pass_obj
@refusing
def shadow(
    root: Path,
    environment: str,
    production: str,
    candidate: str,
    release: str | None,
    most: int,
    captures: str | None,
    as_json: bool,
) -> None:
    """Send captured prompts of ENV to production's server and to a candidate's, and compare the answers in pairs.

    Each server must say which release it is, by the header Lockstep-Release or the name of the folder that it serves.
    Prompts are those of the last monitor.window_days, each once, in an order drawn by chance. Stops at the first
    decision: by chance alone, at most 5 % (1 - monitor.confidence) of the candidates that lose no more than
    monitor.margin are rolled back. Run it again to go on after an interruption. Exit codes: 0 keep, 10 roll back, 11
    go on (too few pairs to tell).
    """
    from release.verbs import shadow as verb

    def tell(report: "RolloutReport") -> None:
        click.echo(f"{report.pairs:,} pairs: {report.decision}", err=True)

    report = verb.shadow(
        root, environment, verb.ShadowOptions(production, candidate, release, most, captures), tell
    )
    _end(report, as_json)


@click.command()
@click.argument("environment", metavar="ENV")
@click.option("--candidate-release", "release", metavar="RELEASE", help=_RELEASE)
@click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Read no older captures: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
@click.option("--captures", metavar="FOLDER", help=_CAPTURES)
@click.option("--json", "as_json", is_flag=True, help="Print reports/rollout/ENV-canary.json.")
@click.option(
    "--rollback",
    is_flag=True,
    help="If it decides so, roll back the environment that runs the candidate, in one commit.",
)
@click.option(
    "--serve",
    metavar="HOST:PORT",
    help="Keep running: answer GET /decision with the report, computed anew each time. "
    "With ?candidate=sha256:… it answers only if the candidate is that model.",
)
@click.pass_obj
@refusing
def canary(
    root: Path,
    environment: str,
    release: str | None,
    since: str | None,
    captures: str | None,
    as_json: bool,
    rollback: bool,
    serve: str | None,
) -> None:
    """Judge a candidate by the traffic that it shares with ENV's release, since the first request to it.

    Reads what the gateway captured of both releases with --environment ENV, and the labels of `lockstep feedback`.
    Requests of the same hour are paired in their order. A label counts monitor.label_hours after its request.

    Run it at any time, any number of times: by chance alone, at most 5 % (1 - monitor.confidence) of the candidates
    that lose no more than monitor.margin are ever rolled back. Writes only its report, unless --rollback is given. Exit
    codes: 0 keep, 10 roll back, 11 go on (too few pairs to tell).
    """
    from release.verbs import canary as verb

    options = verb.CanaryOptions(release, since, captures)
    if serve is None:
        report = verb.canary(root, environment, options)
        if rollback and (done := verb.roll_back(root, report)):
            click.echo(hanging(environment_tables.moved(done), sys.stderr), err=True)
        _end(report, as_json)
        return
    from checks.errors import ServingRefused
    from release.monitoring import decision_server

    if rollback:
        raise ServingRefused(
            "--serve with --rollback: a server only answers",
            "run the command again without --serve",
        )
    host, _, port = serve.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ServingRefused(f"--serve {one_line(serve)}", "write it as 127.0.0.1:8099")
    with decision_server.server(
        host, int(port), lambda: verb.canary(root, environment, options)
    ) as server:
        click.echo(f"http://{one_line(serve)}{decision_server.PATH}", err=True)
        server.serve_forever()


def _end(report: "RolloutReport", as_json: bool) -> None:
    from release.verbs.shadow import refusal

    click.echo(
        to_json(report.model_dump(mode="json")) if as_json else hanging("\n".join(_shown(report)))
    )
    if refused := refusal(report):
        raise refused


def _shown(report: "RolloutReport") -> Iterator[str]:
    title = f"{report.environment}: {report.decision}: candidate {report.candidate} against {report.production}"
    yield click.style(one_line(title), bold=True, fg=_DECISIONS[report.decision])
    same = "" if report.agreement is None else f", {report.agreement:.1%} of the answers are equal"
    since = f"since {report.since:%Y-%m-%d %H:%M} UTC"
    yield f"{report.kind}, {since}: {report.pairs:,} pairs, {report.labelled:,} with labels{same}"
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        status = click.style(f"{finding.status:<12}", fg=_COLOURS[finding.status])
        yield f"  {finding.name:<{width}}  {status}  {one_line(finding.reason)}"
    for note in report.notes:
        yield f"note: {one_line(note)}"
    yield f"at any number of looks, at most {report.alpha:.2%} of candidates within the margin are rolled back"
