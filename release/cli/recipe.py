"""The command recipe."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import JSON, TARGET_BRANCH, refusing, show


@click.command()
@TARGET_BRANCH
@JSON
@click.pass_obj
@refusing
def recipe(root: Path, target: str | None, as_json: bool) -> None:
    """Compare the parameters here with those of the target branch, over several seeds of a sweep.

    A verdict is about these weights: another seed gives another model. Reads reports/sweep.json, which `lockstep sweep
    --seed` writes, and trains nothing. Exits with 8 if that file was changed by hand, or measured with other
    parameters, data or another base than the record here.
    """
    from release.record import recipes as verb
    from release.record.records import Records

    steps = verb.claim(Records(root), target)
    spreads = {
        "here": steps.here._asdict(),
        "theirs": steps.theirs._asdict() if steps.theirs else None,
    }
    title = f"{steps.scorer} on {steps.rows} rows of the valid split, by parameters:"
    show(
        steps._asdict() | spreads, as_json, "\n  ".join(map(tables.one_line, (title, *steps.lines)))
    )
