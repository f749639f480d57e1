"""Commands about signing keys: keys new, keys workflows."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import FILE, Group, refusing

if TYPE_CHECKING:
    from checks.formats.signers import Role


@click.group(cls=Group)
def keys() -> None:
    """Manage signing keys."""


@keys.command("new")
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    help="The signer's name in release/policy/signers.yaml.",
)
@click.option(
    "--may",
    "roles",
    type=click.Choice(["verify", "release", "approve", "checkpoint", "sealed", "harvest"]),
    multiple=True,
    default=("verify", "release"),
    show_default=True,
    help="What the key may sign. Can be repeated.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=FILE,
    help="Where to write the private key. Default: .lockstep/keys/lockstep.key.",
)
@click.option(
    "--add",
    is_flag=True,
    help="Add the signer to release/policy/signers.yaml. It counts once that is on the target branch.",
)
@click.pass_obj
@refusing
def new(root: Path, name: str, roles: "tuple[Role, ...]", output: Path | None, add: bool) -> None:
    """Create a signing key, which is encrypted if LOCKSTEP_KEY_PASSWORD is set.

    Refuses a place that git does not ignore (exit code 9), and says the line for .gitignore.
    """
    from release.verbs import keys as verb

    made = verb.new(root, name, roles, output)
    click.echo(f"private   {made.private}\npublic    {made.public}")
    if add:
        path = verb.add_signer(root, name, roles, made.public)
        click.echo(f"{path} has the signer: commit it; code owners approve the change")
    else:
        click.echo(
            f"\nto let it sign, code owners add this to release/policy/signers.yaml:\n{made.entry}"
        )


@keys.command("workflows")
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--branch", default="main", show_default=True, help="The branch from which releases are made."
)
@click.pass_obj
@refusing
def workflows(root: Path, repository: str, branch: str) -> None:
    """Let the workflows of OWNER/NAME on GitHub sign releases and verifications, without a key.

    Adds them to release/policy/signers.yaml, where they count once that is on the target branch.
    """
    from release.verbs import keys as verb

    path = verb.add_workflows(root, repository, branch)
    click.echo(f"{path} has the workflows: commit it; code owners approve the change")
