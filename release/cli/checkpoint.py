"""The command checkpoint."""

from pathlib import Path

import click

from release.cli.common import FILE, JSON, KEYLESS, TARGET, refusing, show


@click.command()
@click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="The private key of a signer with the role checkpoint.",
)
@KEYLESS
@TARGET
@JSON
@click.pass_obj
@refusing
def checkpoint(
    root: Path, key: Path | None, keyless: bool, target: str | None, as_json: bool
) -> None:
    """Sign which commit the branch of the environments is at, and push the signature.

    Where promote.checkpoint_hours is set, commands refuse a branch that lacks the commit of the last checkpoint, and a
    checkpoint that is too old. Run it on a schedule.
    """
    from release.verbs import checkpoint as verb

    if (key is None) != keyless:
        raise click.UsageError(
            "a checkpoint is signed by a key or by an identity: give one of --key and --keyless"
        )
    made = verb.checkpoint(root, key, keyless=keyless, target=target)
    show(
        made,
        as_json,
        f"checkpoint {made.number} of {made.branch} at {made.head[:12]}, signed by {made.signer}",
    )
