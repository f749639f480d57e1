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
@click.option(
    "--since",
    metavar="COMMIT",
    help="With --changed: those whose dvc.lock or params.yaml differs from this commit's.",
)
@click.option(
    "--matrix",
    "as_matrix",
    is_flag=True,
    help="Print the outputs of a workflow's step: `matrix` and `folders`.",
)
@JSON
@click.pass_obj
@refusing
def projects(
    root: Path,
    changed: bool,
    target: str | None,
    since: str | None,
    as_matrix: bool,
    as_json: bool,
) -> None:
    """List the projects of this repository: folders with params.yaml and dvc.yaml.

    With --changed all are listed if a file outside every project changed, or nothing did; with --since if git has no
    such commit.
    """
    from release.verbs import projects as verb

    folders = [
        project.folder
        for project in verb.listed(root, target, since)
        if project.changed or not changed
    ]
    if as_matrix:
        matrix = [{"folder": folder, "of": f"-{number}"} for number, folder in enumerate(folders)]
        click.echo(f"matrix={json.dumps(matrix)}\nfolders={' '.join(folders)}")
        return
    click.echo(json.dumps(folders) if as_json else "\n".join(folders))
