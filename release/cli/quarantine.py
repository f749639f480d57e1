"""The command quarantine."""

from pathlib import Path

import click

from release.cli import environment_tables
from release.cli.common import JSON, KEY, TARGET, refusing, show


@click.command()
@click.argument("name", required=False)
@click.option(
    "--release", metavar="RELEASE", help="Remove this version, image or model from quarantine."
)
@click.option(
    "--why", metavar="TEXT", help="What is wrong with it, or why it may be promoted again."
)
@KEY
@TARGET
@JSON
@click.pass_obj
@refusing
def quarantine(
    root: Path,
    name: str | None,
    release: str | None,
    why: str | None,
    key: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """List the releases in quarantine, add NAME, or remove one.

    No promotion may deploy a release in quarantine. NAME is a version, or the digest of an image or model. If any
    environment requires approvals, only a signer with the role `approve` can remove an entry.
    """
    from release.verbs import quarantine as verb

    if name is not None and release is not None:
        raise click.UsageError(
            "NAME adds to the quarantine and --release removes from it: give one of them"
        )
    if (name is None and release is None) != (why is None):
        raise click.UsageError("NAME and --release need --why, and --why needs one of them")
    notes = list[str]()
    if name is not None and why is not None:
        added = verb.add(root, name, why, target)
        left = added.left
        notes = [
            f"note: {environment} runs it: `lockstep rollback {environment} --why …`"
            for environment in added.runs
        ]
    elif release is not None and why is not None:
        left = verb.release(root, release, why, key, target).left
    else:
        left, note = verb.held(root, target)
        notes = [f"note: {note}"] if note else []
    show(left, as_json, lambda left: "\n".join([*environment_tables.held(left), *notes]))
