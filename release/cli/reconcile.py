"""The command reconcile."""

from pathlib import Path

import click

from release.cli import environment_tables
from release.cli.common import JSON, refuse, refusing, show


@click.command()
@click.option(
    "--fix", is_flag=True, help="Update the mirrors from git. Git is never changed from a mirror."
)
@JSON
@click.pass_obj
@refusing
def reconcile(root: Path, fix: bool, as_json: bool) -> None:
    """Compare git with its mirrors, and with --fix update them.

    Mirrors are MLflow, tags, registries, overlays and, if it can be reached, the cluster.
    """
    from release.verbs import reconcile as verb

    drift = verb.reconcile(root, fix)
    show(drift, as_json, environment_tables.reconciled)
    refuse(verb.refusal(drift))
