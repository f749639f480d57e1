"""The command projects."""

import json
from pathlib import Path

import click

from release.cli.common import JSON, TARGET_BRANCH, exclusive, refusing


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

    Prints each folder with the model's name; `.` is the top of the repository. With --json and --matrix: the folders
    alone. With --changed all are listed if a file outside every project changed, or nothing did; with --since if git
    has no such commit.
    """
    from release.verbs import projects as verb

    exclusive({"--matrix": as_matrix, "--json": as_json})
    everything = verb.listed(root, target, since)
    listed = [project for project in everything if project.changed or not changed]
    folders = [project.folder for project in listed]
    if as_matrix:
        matrix = [{"folder": folder, "of": f"-{number}"} for number, folder in enumerate(folders)]
        click.echo(f"matrix={json.dumps(matrix)}\nfolders={' '.join(folders)}")
        return
    if as_json:
        click.echo(json.dumps(folders))
        return
    width = max(map(len, folders), default=0)
    for project in listed:
        click.echo(f"{project.folder:<{width}}  {project.model or 'params.yaml cannot be read'}")
