"""The command approve."""

from pathlib import Path

import click

from release.cli.common import JSON, KEY, TARGET, refusing, show


@click.command()
@click.argument("environment")
@click.option("--why", required=True, metavar="TEXT", help="What you looked at.")
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image. Default: the one that `lockstep promote` would take.",
)
@KEY
@TARGET
@JSON
@click.pass_obj
@refusing
def approve(
    root: Path,
    environment: str,
    why: str,
    image: str | None,
    key: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Approve an image for ENVIRONMENT. The approval is signed and committed."""
    from release.evidence import keys
    from release.verbs import approve as verb

    done = verb.approve(root, environment, key or root / keys.KEY, why, image, target)
    show(
        done,
        as_json,
        f"{environment}: {done.image} is approved by {done.signer}; approvals needed: {done.required}",
    )
