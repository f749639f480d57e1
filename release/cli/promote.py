"""The command promote."""

from pathlib import Path
from typing import Literal

import click

from release.cli import environment_tables
from release.cli.common import FILE, JSON, TARGET, refuse, refusing, show


@click.command()
@click.argument("environment")
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image, as HOST/NAME@sha256:…. Default: what the previous environment runs, else the built image.",
)
@click.option(
    "--why",
    metavar="TEXT",
    help="The reason, for the history. Default: the subject of the record's commit; with --emergency, the reason "
    "that another signer gave.",
)
@click.option(
    "--version", metavar="vX.Y.Z", help="The version of the release. Default: the next one."
)
@click.option(
    "--bump",
    type=click.Choice(["major", "minor"]),
    default="minor",
    show_default=True,
    help="Which part of the version a new model increases.",
)
@click.option(
    "--dry-run", is_flag=True, help="Run all checks and show the change, but write nothing."
)
@click.option(
    "--pr", is_flag=True, help="Open a pull request with the commit instead of pushing it."
)
@click.option(
    "--emergency", is_flag=True,
    help="Sign an exception from gates that do not pass, as promote.environments.ENVIRONMENT.emergency allows. Moves "
    "once enough people signed it.",
)  # fmt: skip
@click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="With --emergency: the private key. Default: .lockstep/keys/lockstep.key.",
)
@click.option(
    "--adapters", is_flag=True,
    help="Also move the projects that ENVIRONMENT lists in `adapters`, each to its own image, in the same commit.",
)  # fmt: skip
@TARGET
@JSON
@click.pass_obj
@refusing
def promote(
    root: Path,
    environment: str,
    image: str | None,
    why: str | None,
    version: str | None,
    bump: Literal["major", "minor"],
    dry_run: bool,
    pr: bool,
    emergency: bool,
    key: Path | None,
    adapters: bool,
    target: str | None,
    as_json: bool,
) -> None:
    """Move ENVIRONMENT to an image by one commit.

    If a check fails, nothing moves, and all failures are listed. Checks layers, evidence, signatures, record,
    policy, soak time, approvals and quarantine. The verdict is judged again before the first environment, and
    before later ones if the policy became stricter.
    """
    from release.promotion import together
    from release.verbs import promote as verb

    if key is not None and not emergency:
        raise click.UsageError("--key signs an exception: add --emergency")
    if adapters:
        if image or version or emergency:
            raise click.UsageError(
                "--adapters moves several projects: leave out --image, --version, --emergency"
            )
        moves = verb.promote_together(
            root, environment, why=why, bump=bump, dry_run=dry_run, pr=pr, target=target
        )
        show(moves, as_json, environment_tables.moved_together)
        if dry_run:
            refuse(together.refusal(moves))
        return
    done = verb.promote(
        root, environment, image=image, why=why, version=version, bump=bump, dry_run=dry_run, pr=pr,
        emergency=emergency, key=key, target=target,
    )  # fmt: skip
    show(done, as_json, environment_tables.moved)
    if dry_run:
        refuse(verb.refusal(done))
