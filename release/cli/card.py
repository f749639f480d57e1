"""The command card: the model card, the dataset card, its metadata and the write-up."""

from pathlib import Path

import click

from release.cli.common import refusing, show
from release.cli.tables import one_line


@click.command()
@click.argument("name", metavar="[ENVIRONMENT|VERSION]", required=False)
@click.option(
    "--out",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the cards. Default: reports/cards of the repository.",
)
@click.option(
    "--check", is_flag=True, help="Write nothing; refuse if a file is older than its record."
)
@click.option("--json", "as_json", is_flag=True, help="Print the paths as JSON.")
@click.pass_obj
@refusing
def card(root: Path, name: str | None, folder: Path | None, check: bool, as_json: bool) -> None:
    """Write the model card, the dataset card and a report.

    model.md and data.md are cards for the Hugging Face Hub, and REPORT.md is a write-up. croissant.json describes the
    data for catalogues and loaders, by MLCommons Croissant 1.0. Every figure comes from the record, which is named by
    digest: of the work tree, if its verdict still holds, or of a release. Prose comes from docs/cards/model.md and
    docs/cards/data.md, which people own. With --check, a file that the record and the prose do not make is refused
    with 8.
    """
    from release.cards import writing
    from release.verbs import card as verb

    files = verb.card(root, root / writing.FOLDER if folder is None else folder, name, check=check)
    shown = [
        path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        for path in files
    ]
    show(
        {"files": shown, "checked": check},
        as_json,
        "\n".join([f"{one_line(path)}{': is current' if check else ''}" for path in shown]),
    )
