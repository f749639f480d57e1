"""Commands about an image: build, verify."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import refusing, to_json


@click.command()
@click.option("--push", metavar="IMAGE", help="Send it to a registry, as HOST/NAME[:TAG], instead of a folder.")
@click.option(
    "--output", metavar="FOLDER", type=click.Path(path_type=Path), help="The OCI layout to write; else .lockstep/image."
)
@click.option("--runtime", metavar="NAME", help="Another runtime than serve.runtime.")
@click.option(
    "--base", metavar="IMAGE", help="Another base than serve.base: HOST/NAME[:TAG]@sha256:… or oci:FOLDER@sha256:…"
)
@click.option("--dry-run", is_flag=True, help="Print the plan, with sizes, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/image.json, or the plan, as JSON.")
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
    """Add the merged weights to a serving image, if the verdict is `pass` and is about these weights.

    Needs no Docker. Prints the image's digest and nothing else; what it is made of is in reports/image.json. The same
    record gives the same digest on every machine.
    """
    from release.verbs import build as verb

    if push is not None and output is not None:
        raise click.UsageError("--push and --output are two places: name one")
    options = verb.Options(push=push, output=output, runtime=runtime, base=base)
    if dry_run:
        plan = verb.plan(root, options)
        click.echo(to_json(plan.model_dump(mode="json")) if as_json else tables.plan(plan))
        return
    report = verb.build(root, options)
    click.echo(to_json(report.model_dump(mode="json")) if as_json else report.image)


@click.command()
@click.option(
    "--image", metavar="IMAGE", help="The built image in a registry, HOST/NAME@sha256:…; else where it was built to."
)
@click.option("--url", metavar="URL", help="Ask a server that runs already.")
@click.option(
    "--runtime",
    metavar="NAME",
    help="Serve the image's weights with this runtime in a process, without Docker; with --url, which server that is.",
)
@click.option("--gpus", metavar="WHICH", help="GPUs for the container: all, or their numbers with commas.")
@click.option(
    "--server",
    metavar="IMAGE",
    help="For weights without a server: the server's image NAME@sha256:…; else the one that the environments name.",
)
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key that signs the report; else .lockstep/keys/lockstep.key, where it is there.",
)
@click.option("--keyless", is_flag=True, help="Sign the report by the identity of this job, which Sigstore certifies.")
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
    """Start the image, ask it, and hold it to the offline model; exits with 14 when it is another or fails.

    Writes reports/serving.json, whatever is found, and signs it. Everything that was started is ended and removed.
    """
    from checks.text import escape
    from release.evidence import verification
    from release.verbs import verify as verb

    if key is not None and keyless:
        raise click.UsageError("--key and --keyless are two signers: name one")
    signer, why = verification.verifier(root, key, keyless=keyless)
    if signer is None:
        click.echo(escape(f"the report will not be signed, and `lockstep sign` will refuse it: {why}"), err=True)
    options = verb.Options(image=image, url=url, runtime=runtime, gpus=gpus, server=server, signer=signer)
    report = verb.verify(root, options)
    click.echo(to_json(report.model_dump(mode="json")) if as_json else tables.serving(report))
    if refusal := verb.refusal(report):
        raise refusal
