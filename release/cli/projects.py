"""The command projects."""

import json
from pathlib import Path

import click

from release.cli.common import JSON, TARGET_BRANCH, refusing


@click.command()
@click.option(
    "--changed",
    is_flag=True,
    help="Only those that HEAD changes since it left the target branch.",
)
@TARGET_BRANCH
@JSON
@click.pass_obj
@refusing
def projects(root: Path, changed: bool, target: str | None, as_json: bool) -> None:
    """List the projects of this repository: folders with params.yaml and dvc.yaml.

    With --changed all are listed if a file outside every project changed, or nothing did. With --json it is a list of
    folders, as a workflow's matrix takes it.
    """
    from release.verbs import projects as verb

    folders = [
        project.folder for project in verb.listed(root, target) if project.changed or not changed
    ]
    click.echo(json.dumps(folders) if as_json else "\n".join(folders))
