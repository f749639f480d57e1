"""The command shadow."""

from pathlib import Path

import click

from release.cli import rollout
from release.cli.common import CAPTURES, refusing


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
@rollout.CANDIDATE_RELEASE
@click.option(
    "--most",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Prompts to send, at most.",
)
@CAPTURES
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

    report = verb.shadow(
        root, environment, production, candidate, release, most, captures,
        lambda report: click.echo(f"{report.pairs:,} pairs: {report.decision}", err=True),
    )  # fmt: skip
    rollout.end(report, as_json)
