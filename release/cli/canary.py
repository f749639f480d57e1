"""The command canary."""

import sys
from functools import partial
from pathlib import Path

import click

from release.cli import environment_tables, rollout
from release.cli.common import CAPTURES, refusing
from release.cli.tables import one_line
from release.cli.wrapping import hanging


@click.command()
@click.argument("environment", metavar="ENV")
@rollout.CANDIDATE_RELEASE
@click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Read no older captures: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
@CAPTURES
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

    decide = partial(verb.canary, root, environment, release, since, captures)
    if serve is None:
        report = decide()
        if rollback and (done := verb.roll_back(root, report)):
            click.echo(hanging(environment_tables.moved(done), sys.stderr), err=True)
        rollout.end(report, as_json)
        return
    from checks.process.errors import ServingRefused
    from release.monitoring import decision_server

    if rollback:
        raise ServingRefused(
            "--serve with --rollback: a server only answers",
            "run the command again without --serve",
        )
    host, _, port = serve.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ServingRefused(f"--serve {one_line(serve)}", "write it as 127.0.0.1:8099")
    with decision_server.server(host, int(port), decide) as server:
        click.echo(f"http://{one_line(serve)}{decision_server.PATH}", err=True)
        server.serve_forever()
