"""The command render."""

from pathlib import Path

import click

from release.cli.common import refusing
from release.cli.tables import one_line


@click.command()
@click.argument("environment")
@click.pass_obj
@refusing
def render(root: Path, environment: str) -> None:
    """Write the kustomization.yaml of ENVIRONMENT from its environment.yaml. Commit both.

    `lockstep promote`, `rollback` and `status` refuse or report a kustomization.yaml that differs.
    """
    from release.verbs import render as verb

    click.echo(f"wrote {one_line(str(verb.render(root, environment)))}")
