"""The command sign."""

from pathlib import Path

import click

from release.cli.common import (
    FOLDER,
    KEY,
    KEYLESS,
    exclusive,
    refusing,
    show,
    tell_of_exception,
)


@click.command()
@KEY
@KEYLESS
@click.option(
    "--artifact",
    metavar="FOLDER",
    type=FOLDER,
    help="First take image.json, serving.json and serving.intoto.json, which other jobs wrote, from here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the statement as JSON.")
@click.pass_obj
@refusing
def sign(root: Path, key: Path | None, keyless: bool, artifact: Path | None, as_json: bool) -> None:
    """Sign the built and verified image.

    Attaches the signed statement, the signature of the weights, SLSA provenance, the bill of materials and a ModelPack
    of the weights to it. Prints the digest of the evidence. Signing the same release again changes nothing; another
    signer's signatures are added.
    """
    from checks.storage import layout
    from release.record import hand_over
    from release.verbs import sign as verb

    exclusive({"--key": key, "--keyless": keyless})
    if artifact:
        reports = (layout.IMAGE_REPORT, layout.SERVING_REPORT, layout.SERVING_STATEMENT)
        hand_over.take_reports(root, artifact, *reports)
    signed = verb.of_built(root, key, keyless=keyless)
    show(signed.statement, as_json, signed.evidence)
    tell_of_exception(root)
