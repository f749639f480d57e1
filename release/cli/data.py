"""The command data: what was checked of the data, as text, JSON, or a page."""

from pathlib import Path

import click

from release.cli import terminal
from release.cli.common import FILE, JSON, refusing, show
from release.cli.tables import one_line


@click.command()
@click.argument("record", default=".")
@click.option(
    "--html",
    "file",
    metavar="FILE",
    type=FILE,
    help="Write a page of it to FILE.",
)
@JSON
@click.pass_obj
@refusing
def data(root: Path, record: str, file: Path | None, as_json: bool) -> None:
    """Show what was checked of the data, what failed, and what was dropped.

    RECORD is a commit, branch or tag, an environment, a version, or `.` for the work tree. Shows the same results as
    Great Expectations' Data Docs; the page loads nothing, so it works without a network. Exits with 0 whatever it
    finds, and with 8 if the record has no results for these splits.
    """
    from release.cards import data_page
    from release.pages import html

    page = data_page.gather(root, record)
    if file is not None:
        html.write(file, data_page.render(page))
        show(page, as_json, f"{one_line(page.headline)}\n{one_line(str(file))}")
        return
    headline = click.style(page.headline, fg="red" if page.failed else "green", bold=True)
    lines = (headline, *terminal.sections(data_page.text_sections(page)))
    show(page, as_json, "\n".join(lines))
