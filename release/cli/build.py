"""The command build."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import FILE, exclusive, refusing, show, tell_of_exception


@click.command()
@click.option(
    "--push",
    metavar="IMAGE",
    help="Push the image to a registry, as HOST/NAME[:TAG], not to a folder.",
)
@click.option(
    "--output",
    metavar="FOLDER",
    type=FILE,
    help="The OCI layout to write. Default: .lockstep/image.",
)
@click.option("--runtime", metavar="NAME", help="The runtime. Default: serve.runtime.")
@click.option(
    "--base",
    metavar="IMAGE",
    help="The base image, HOST/NAME[:TAG]@sha256:… or oci:FOLDER@sha256:…. Default: serve.base.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be built, with sizes, and write nothing."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print reports/image.json, or the plan, as JSON."
)
@click.pass_obj
@refusing
def build(
    root: Path,
    push: str | None,
    output: Path | None,
    runtime: str | None,
    base: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the serving image with the merged weights.

    The verdict must be about these weights, and `pass` or one that an emergency may except. Needs no Docker. Prints
    only the image's digest; reports/image.json lists its parts. The same record gives the same digest on every machine.
    """
    from release.verbs import build as verb

    exclusive({"--push": push, "--output": output})
    options = verb.BuildOptions(push=push, output=output, runtime=runtime, base=base)
    if dry_run:
        show(verb.plan(root, options), as_json, tables.plan)
    else:
        show(verb.build(root, options), as_json, lambda report: report.image)
    tell_of_exception(root)
    if judged := verb.decoding(root):
        click.echo(
            f"The gates judged answers at {judged.named}: the image sets neither. "
            "Each request must, or write serve.decoding.",
            err=True,
        )
