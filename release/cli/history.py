"""The command history."""

from pathlib import Path

import click

from release.cli import environment_tables
from release.cli.common import JSON, refusing, show


@click.command()
@click.argument("environment", required=False)
@click.option(
    "--on", metavar="DATE", help="Show what ran on 2026-03-14, or at 2026-03-14T09:30 (UTC)."
)
@JSON
@click.pass_obj
@refusing
def history(root: Path, environment: str | None, on: str | None, as_json: bool) -> None:
    """List every move of ENVIRONMENT, or of all environments.

    Each with who moved it, when, from which release to which, and why.
    """
    from release.verbs import history as verb

    show(verb.history(root, environment, on), as_json, environment_tables.history)
