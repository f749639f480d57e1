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
    """Write the kustomization.yaml of ENVIRONMENT from its environment.yaml, and the base that it builds on.

    Commit all of them. `lockstep promote`, `rollback` and `status` refuse or report files that differ.
    """
    from release.verbs import render as verb

    lines = [f"wrote {one_line(str(path))}" for path in verb.render(root, environment)]
    click.echo("\n".join(lines) or "nothing to write: all files are as environment.yaml gives them")
