"""The command start."""

from pathlib import Path

import click

from release.cli.common import JSON, TARGET_BRANCH, refusing, show


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
    known = "" if written.changed else ", as before"
    text = f"training starts from the base{known}"
    if written.commit is not None and written.model is not None and written.adapter is not None:
        weights = f"model {written.model[7:19]}, adapter {written.adapter[7:19]}"
        text = f"training starts from commit {written.commit[:12]}{known}: {weights}"
    show(written, as_json, text)
