"""The command record."""

from pathlib import Path

import click

from release.cli.common import (
    ARTIFACT,
    JSON,
    PROJECTS,
    TARGET_BRANCH,
    checked_projects,
    refuse,
    refusing,
    show,
)


@click.command()
@TARGET_BRANCH
@click.option(
    "--push",
    metavar="BRANCH",
    help="Push the commit to this branch of origin, if that is still at HEAD.",
)
@click.option(
    "--remote",
    is_flag=True,
    help="First fetch what the gates are asked with from the DVC remote, as far as it has it.",
)
@ARTIFACT
@PROJECTS
@JSON
@click.pass_obj
@refusing
def record(
    root: Path,
    target: str | None,
    push: str | None,
    remote: bool,
    artifact: Path | None,
    projects: tuple[str, ...],
    as_json: bool,
) -> None:
    """Commit the record of a run, and print the commit.

    The commit contains code.lock, dvc.lock and reports/, and nothing else. The record is committed whatever the
    verdict. With --push the look at the test split is counted first, on the branch lockstep/looks. Several projects are
    one commit. Exits with 8 if there is no record, with 16 if the branch moved.
    """
    from release.verbs import record as verb

    folders = checked_projects(root, projects)
    if artifact:
        verb.take(root, artifact, folders)
    if remote:
        verb.fetch(root, folders)
    made = verb.commit_record(root, push, target, folders)
    show(made, as_json, made.commit)
    refuse(verb.refusal(made))
