"""Commands about the sealed split: sealed new, sealed ask."""

from pathlib import Path

import click

from release.cli.common import (
    FILE,
    JSON,
    KEYLESS,
    TARGET,
    VERBOSE,
    Group,
    listener,
    refuse,
    refusing,
    show,
)


@click.group(cls=Group)
def sealed() -> None:
    """Make an encrypted test split that nobody reads, and ask it about a model.

    docs/how-to/sealed.md
    """


@sealed.command("new")
@click.argument("rows", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="Where to write the key of the rows. Default: .lockstep/keys/sealed.key.",
)
@click.pass_obj
@refusing
def new(root: Path, rows: Path, key: Path | None) -> None:
    """Encrypt ROWS into release/policy/sealed.bin.

    ROWS is a file of JSON lines like data/splits/test.jsonl: messages and reference, and slice and group if there are
    any. Rows that are near-duplicates of train, valid or test rows are refused. Prints what params.yaml must say.
    """
    from checks.config.sealed import VARIABLE
    from checks.storage import layout
    from release.promotion import sealed_split

    made = sealed_split.make(root, rows, key)
    click.echo(
        f"rows   {layout.SEALED}: commit it\nkey    {made.key}: a line of the secret {VARIABLE} of the job that asks"
    )
    click.echo(
        f"\nparams.yaml, beside your own max_looks and gates (docs/how-to/sealed.md):\n\n"
        f"sealed:\n  sha256: {made.sha256}\n  rows: {made.rows}"
    )


@sealed.command("ask")
@click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="The private key of a signer with the role sealed.",
)
@KEYLESS
@TARGET
@VERBOSE
@JSON
@click.pass_obj
@refusing
def ask(
    root: Path, key: Path | None, keyless: bool, target: str | None, verbose: bool, as_json: bool
) -> None:
    """Ask the sealed split whether the model of this record passes. The answer is one bit, counted and signed.

    The record must be merged, with a verdict that passes. The variable LOCKSTEP_SEALED_KEY has the key of the rows, or
    those of all projects, a line each. For a model that was asked before, prints the first answer. Exits with 10 if it
    does not pass, with 11 if all looks are used.
    """
    from release.verbs import sealed as verb

    if (key is None) != keyless:
        raise click.UsageError(
            "a look is signed by a key or by an identity: give one of --key and --keyless"
        )
    lines = listener(root, "sealed", verbose)
    asked = verb.ask(root, key, target=target, listener=lines)
    which = "no look left" if asked.done == "refused" else f"look {asked.number} of {asked.looks}"
    text = f"{asked.status}: {asked.model}, {which}{', asked before' if asked.done == 'already' else ''}"
    show(asked, as_json, text)
    refuse(verb.refusal(asked))
