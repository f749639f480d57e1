"""Commands about signatures: keys, sign, evidence."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import tables
from release.cli.common import Group, refusing, to_json
from release.cli.wrapping import hanging

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
    type=click.Choice(["verify", "release", "approve", "checkpoint", "sealed"]),
    multiple=True,
    default=("verify", "release"),
    show_default=True,
    help="What the key may sign. Can be repeated.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
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
    """Create a signing key. It is encrypted if LOCKSTEP_KEY_PASSWORD is set."""
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


@click.command()
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key. Default: .lockstep/keys/lockstep.key.",
)
@click.option(
    "--keyless", is_flag=True, help="Sign with the identity of this CI job, certified by Sigstore."
)
@click.option("--json", "as_json", is_flag=True, help="Print the statement as JSON.")
@click.pass_obj
@refusing
def sign(root: Path, key: Path | None, keyless: bool, as_json: bool) -> None:
    """Sign the built and verified image.

    Attaches the signed statement, the signature of the weights, SLSA provenance and the bill of materials to it.
    Prints the digest of the evidence. Signing the same release again changes nothing; another signer's signatures are
    added.
    """
    from release.verbs import sign as verb

    if key is not None and keyless:
        raise click.UsageError("--key and --keyless exclude each other: give one of them")
    signed = verb.of_built(root, key, keyless=keyless)
    click.echo(to_json(signed.statement.model_dump(mode="json")) if as_json else signed.evidence)


@click.group(cls=Group)
def evidence() -> None:
    """Inspect the signed evidence of a release."""


@evidence.command("recheck")
@click.argument("names", metavar="[COMMIT]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def recheck(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Check whether fetching the data of a release could have written files beside data and models.

    Checks all releases that ever ran in an environment, or the commits given. For releases that were signed before
    Lockstep limited what DVC may write: docs/explanation/advisory-2026-11.md.
    """
    from release.verbs import recheck as verb

    checked = verb.recheck(root, names)
    if as_json:
        click.echo(to_json([result.model_dump(mode="json") for result in checked]))
    else:
        click.echo(hanging(tables.rechecked(checked)))
    if refused := verb.refusal(checked):
        raise refused


@evidence.command("show")
@click.argument("image")
@click.option(
    "--target",
    metavar="REF",
    help="The branch whose signers count. Default: origin's default branch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the provenance as JSON.")
@click.pass_obj
@refusing
def show(root: Path, image: str, target: str | None, as_json: bool) -> None:
    """Trace IMAGE back to the rows it was trained on, and say of each step how it was checked.

    IMAGE is HOST/NAME@sha256:…, oci:FOLDER@sha256:… or a digest alone.
    """
    from release.verbs import evidence as verb

    walk = verb.show(root, image, target)
    click.echo(to_json(walk.model_dump(mode="json")) if as_json else hanging(tables.walk(walk)))
