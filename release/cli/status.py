"""The command status."""

from pathlib import Path

import click

from release.cli import environment_tables
from release.cli.common import JSON, refuse, refusing, show


@click.command()
@JSON
@click.pass_obj
@refusing
def status(root: Path, as_json: bool) -> None:
    """Print what each environment runs.

    Also since when, by which verdict, and what would be promoted next. Exits with 19 if git contradicts itself or
    an environment runs a quarantined release.
    """
    from release.verbs import status as verb

    state = verb.status(root)
    show(state, as_json, environment_tables.status)
    refuse(verb.refusal(state))
