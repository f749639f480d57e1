"""The command compare: two records side by side, as text, JSON, or a page."""

from pathlib import Path

import click

from release.cli import terminal
from release.cli.common import FILE, JSON, refusing, show
from release.cli.tables import one_line


@click.command()
@click.argument("a")
@click.argument("b", default=".")
@click.option(
    "--search",
    metavar="TEXT",
    help="List only answers whose prompt, reference, answer, slice or id contains TEXT.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=FILE,
    help="Write a page of it to FILE.",
)
@JSON
@click.pass_obj
@refusing
def compare(
    root: Path, a: str, b: str, search: str | None, page: Path | None, as_json: bool
) -> None:
    """Compare two models and how they were made: A, the earlier, with B (default: the work tree).

    A and B are each a commit, branch or tag, an environment, a version such as v1.4.0, the digest of a released image,
    or `.` for the work tree. Shows metrics, slices and suites on the rows that both answered, parameters, data, cost,
    and the answers that differ; a page also lists what B gets wrong, by slice and kind of mistake. It changes nothing
    and decides nothing. Exits with 0 whatever it finds, and with 8 if A or B is not known here or has no record.
    """
    from release.pages import html
    from release.review import comparison
    from release.verbs import compare as verb

    compared = verb.compare(root, a, b, search)
    if page is not None:
        html.write(page, comparison.render(compared))
        show(compared, as_json, f"{one_line(compared.headline)}\n{one_line(str(page))}")
        return
    sections = comparison.text_sections(compared, all_answers=search is not None)
    lines = [
        click.style(one_line(compared.headline), bold=True),
        *(f"note: {one_line(note)}" for note in compared.notes),
        *terminal.sections(sections),
    ]
    show(compared, as_json, "\n".join(lines))
