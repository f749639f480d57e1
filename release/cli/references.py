"""The command references."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import TARGET_BRANCH, refusing, to_json
from release.cli.wrapping import hanging


@click.command()
@TARGET_BRANCH
@click.option("--json", "as_json", is_flag=True, help="Print reports/references.json.")
@click.pass_obj
@refusing
def references(root: Path, target: str | None, as_json: bool) -> None:
    """Find the earlier models that this one is compared with, and those that each test split judged.

    Writes reports/references.json and reports/looks.json. `lockstep run` does this first. A verdict no longer holds
    once the reference models in git are others.
    """
    from checks.storage import layout
    from release.record import looks
    from release.record import references as verb
    from release.record.records import Records

    written = verb.write(Records(root), target)
    counted = looks.write(Records(root))
    if as_json:
        click.echo(to_json(written.report))
        return
    for name, reference in written.now.found.items():
        click.echo(
            f"{name:<12}model {reference.merged.removeprefix('sha256:')[:12]} of commit {reference.commit[:12]}"
        )
        then = written.report.found.get(name)
        if (then.merged if then else None) != reference.merged:
            what = f"model {then.merged.removeprefix('sha256:')[:12]}" if then else "none"
            click.echo(
                f"{'':<12}which is this record's own model; it was compared with the one before it: {what}"
            )
    for name, why in written.now.absent.items():
        click.echo(hanging(f"{name:<12}none: {why}"))
    files = f"{tables.recorded(layout.REFERENCES, written.changed)}; {tables.recorded(layout.LOOKS, counted)}"
    click.echo(hanging(f"target branch {written.target}; {files}"))
