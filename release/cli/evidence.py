"""Commands about who signed what: keys, sign, evidence."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import tables
from release.cli.common import refusing, to_json

if TYPE_CHECKING:
    from checks.signers import Role


@click.group()
def keys() -> None:
    """Keys to sign releases and approvals with."""


@keys.command("new")
@click.option("--name", required=True, metavar="NAME", help="Of the signer, as release/policy/signers.yaml has it.")
@click.option(
    "--may",
    "roles",
    type=click.Choice(["verify", "release", "approve"]),
    multiple=True,
    default=("verify", "release"),
    show_default=True,
    help="What the key may sign; may be given several times.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key; else .lockstep/keys/lockstep.key.",
)
@click.option("--add", is_flag=True, help="Add it to release/policy/signers.yaml here; it counts on the target branch.")
@click.pass_obj
@refusing
def new(root: Path, name: str, roles: "tuple[Role, ...]", output: Path | None, add: bool) -> None:
    """Make a key; encrypted when LOCKSTEP_KEY_PASSWORD is set."""
    from release.verbs import keys as verb

    made = verb.new(root, name, roles, output)
    click.echo(f"private   {made.private}\npublic    {made.public}")
    if add:
        path = verb.add_signer(root, name, roles, made.public)
        click.echo(f"{path} names it: commit that, and its owners approve it")
    else:
        click.echo(f"\nto let it sign, code owners add to release/policy/signers.yaml:\n{made.entry}")


@click.command()
@click.option(
    "--key", metavar="FILE", type=click.Path(path_type=Path), help="The private key; else .lockstep/keys/lockstep.key."
)
@click.option("--keyless", is_flag=True, help="By the identity of this job, which Sigstore certifies.")
@click.option("--json", "as_json", is_flag=True, help="Print the statement as JSON.")
@click.pass_obj
@refusing
def sign(root: Path, key: Path | None, keyless: bool, as_json: bool) -> None:
    """Sign what was built and verified, and attach it to the image: statement, weights' signature, bill of materials.

    Prints the evidence's digest. Signing again adds nothing.
    """
    from release.verbs import sign as verb

    if key is not None and keyless:
        raise click.UsageError("--key and --keyless are two signers: name one")
    signed = verb.of_built(root, key, keyless=keyless)
    click.echo(to_json(signed.statement.model_dump(mode="json")) if as_json else signed.evidence)


@click.group()
def evidence() -> None:
    """The signed evidence of a release."""


@evidence.command("show")
@click.argument("image")
@click.option("--target", metavar="REF", help="The branch whose signers count; else origin's default.")
@click.option("--json", "as_json", is_flag=True, help="Print the walk as JSON.")
@click.pass_obj
@refusing
def show(root: Path, image: str, target: str | None, as_json: bool) -> None:
    """Walk from IMAGE (HOST/NAME@sha256:…, oci:FOLDER@sha256:…, or the digest alone) to the rows it was trained on."""
    from release.verbs import evidence as verb

    walk = verb.show(root, image, target)
    click.echo(to_json(walk.model_dump(mode="json")) if as_json else tables.walk(walk))
