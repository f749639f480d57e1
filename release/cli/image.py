"""Commands about an image: build, verify."""

import sys
from pathlib import Path

import click

from release.cli import tables
from release.cli.common import refusing, to_json
from release.cli.wrapping import hanging


@click.command()
@click.option(
    "--push",
    metavar="IMAGE",
    help="Push the image to a registry, as HOST/NAME[:TAG], not to a folder.",
)
@click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
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

    The verdict must be `pass` and about these weights. Needs no Docker. Prints only the image's digest;
    reports/image.json lists its parts. The same record gives the same digest on every machine.
    """
    from release.verbs import build as verb

    if push is not None and output is not None:
        raise click.UsageError("--push and --output exclude each other: give one of them")
    options = verb.BuildOptions(push=push, output=output, runtime=runtime, base=base)
    if dry_run:
        plan = verb.plan(root, options)
        click.echo(to_json(plan.model_dump(mode="json")) if as_json else hanging(tables.plan(plan)))
        return
    report = verb.build(root, options)
    click.echo(to_json(report.model_dump(mode="json")) if as_json else report.image)


@click.command()
@click.option(
    "--image",
    metavar="IMAGE",
    help="The built image in a registry, HOST/NAME@sha256:…. Default: where `lockstep build` put it.",
)
@click.option("--url", metavar="URL", help="Check a server that is already running.")
@click.option(
    "--runtime",
    metavar="NAME",
    help="Serve the weights with this runtime in a process, without Docker. With --url: the runtime of that server.",
)
@click.option(
    "--gpus", metavar="WHICH", help="GPUs for the container: `all`, or numbers separated by commas."
)
@click.option(
    "--server",
    metavar="IMAGE",
    help="For an image without a server: the server image, NAME@sha256:…. Default: the one that the environments name.",
)
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key that signs the report. Default: .lockstep/keys/lockstep.key, if it exists.",
)
@click.option(
    "--keyless",
    is_flag=True,
    help="Sign the report with the identity of this CI job, certified by Sigstore.",
)
@click.option("--json", "as_json", is_flag=True, help="Print reports/serving.json.")
@click.pass_obj
@refusing
def verify(
    root: Path,
    image: str | None,
    url: str | None,
    runtime: str | None,
    gpus: str | None,
    server: str | None,
    key: Path | None,
    keyless: bool,
    as_json: bool,
) -> None:
    """Start the image and compare it with the evaluated model.

    Exits with 14 if a check fails. Writes and signs reports/serving.json, whatever the result. Stops and removes
    everything that it started.
    """
    from checks.text import escape
    from release.evidence import verification
    from release.verbs import verify as verb

    if key is not None and keyless:
        raise click.UsageError("--key and --keyless exclude each other: give one of them")
    signer, why = verification.verifier(root, key, keyless=keyless)
    if signer is None:
        click.echo(
            hanging(
                escape(f"the report will not be signed, and `lockstep sign` will refuse it: {why}"),
                sys.stderr,
            ),
            err=True,
        )
    options = verb.VerifyOptions(
        image=image, url=url, runtime=runtime, gpus=gpus, server=server, signer=signer
    )
    report = verb.verify(root, options)
    click.echo(
        to_json(report.model_dump(mode="json")) if as_json else hanging(tables.serving(report))
    )
    if refusal := verb.refusal(report):
        raise refusal
