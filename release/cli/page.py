"""The command page: the pages of releases."""

import sys
from pathlib import Path

import click

from release.cli.common import PROJECTS, checked_projects, refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging


@click.command()
@click.argument("name", metavar="[ENVIRONMENT|VERSION]", required=False)
@click.option(
    "--out",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the pages, which is made. Pages of the same name are replaced.",
)
@click.option(
    "--attach",
    "attached",
    is_flag=True,
    help="Also attach the page to the image of the release, in its registry or folder.",
)
@PROJECTS
@click.option("--json", "as_json", is_flag=True, help="Print what the pages say as JSON.")
@click.pass_obj
@refusing
def page(
    root: Path,
    name: str | None,
    folder: Path,
    attached: bool,
    projects: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a page of HTML for each release, and an index.

    A page says what a release is, where it runs, how it does beside other models, what changed, how to try and to
    verify it, and how to roll it back. What it says comes from files that the signed statement of the release names
    by digest. Nothing is loaded from elsewhere: a page can be sent, kept and read offline. With ENVIRONMENT, VERSION or
    the digest of an image: the page of this release alone. A release whose evidence does not hold gets no page, and the
    index says why; asked for by name it refuses with 8. Each --project gets a folder of its own in DIR, with an index
    over all models.
    """
    if projects and name is not None:
        raise click.UsageError("--project writes the pages of all releases: give no name of one")
    if attached and name is None:
        raise click.UsageError(
            "--attach is for one page: name an environment, a version, or the digest of an image"
        )
    from release.verbs import page as verb

    if projects := checked_projects(root, projects):
        sites, files = verb.of_projects(root, folder, projects)
        click.echo(to_json(sites) if as_json else "\n".join(one_line(str(path)) for path in files))
        return
    made = verb.page(root, folder, name, attached=attached)
    if made.attached:
        click.echo(f"attached to {made.site.pages[0].pointer.image} as {made.attached}", err=True)
    if as_json:
        click.echo(to_json(made.site))
        return
    for path in made.files:
        click.echo(one_line(str(path)))
    for release in made.site.left_out:
        click.echo(
            hanging(
                f"note: no page of {one_line(release.version)}: {one_line(release.why)}", sys.stderr
            ),
            err=True,
        )
