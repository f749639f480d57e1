"""The command start."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import JSON, TARGET_BRANCH, refusing, show

if TYPE_CHECKING:
    from release.verbs.start import StartWritten


@click.command()
@click.argument("name")
@TARGET_BRANCH
@JSON
@click.pass_obj
@refusing
def start(root: Path, name: str, target: str | None, as_json: bool) -> None:
    """Start the next training from the adapter of NAME: main, production, best, a version, a commit; or from base.

    Writes the commit that NAME means now into params.yaml, as train.start. `lockstep run` then trains on from there.
    """
    from release.verbs import start as verb

    written = verb.start(root, name, target)
    show(written, as_json, _text(written))


def _text(written: "StartWritten") -> str:
    known = "" if written.changed else ", as before"
    if written.commit is None or written.model is None or written.adapter is None:
        return f"training starts from the base{known}"
    return (
        f"training starts from commit {written.commit[:12]}{known}: model {written.model[7:19]}, adapter "
        f"{written.adapter[7:19]}"
    )
