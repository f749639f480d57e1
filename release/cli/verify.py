"""The command verify."""

import sys
from pathlib import Path

import click

from release.cli import tables
from release.cli.common import FILE, FOLDER, exclusive, refuse, refusing, show
from release.cli.wrapping import hanging


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
    help="The server for an image without one, NAME@sha256:…. Default: serve.server, else the environments' server.",
)
@click.option(
    "--against",
    metavar="ENV",
    help="Then start the server that this environment runs with the same weights, and compare row by row.",
)
@click.option(
    "--against-python",
    metavar="PYTHON",
    help="With --runtime and --against: a Python with the version that ENV runs. Its process stands for that server.",
)
@click.option(
    "--beside",
    metavar="ENV",
    help="Load the other adapters that share a server with this one in ENV, and ask them, too.",
)
@click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="The private key that signs the report. Default: .lockstep/keys/lockstep.key, if it exists.",
)
@click.option(
    "--keyless",
    is_flag=True,
    help="Sign the report with the identity of this CI job, certified by Sigstore.",
)
@click.option(
    "--artifact",
    metavar="FOLDER",
    type=FOLDER,
    help="First take image.json, which another job's `lockstep build` wrote, from here.",
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
    against: str | None,
    against_python: str | None,
    beside: str | None,
    key: Path | None,
    keyless: bool,
    artifact: Path | None,
    as_json: bool,
) -> None:
    """Start the image and compare it with the evaluated model.

    Exits with 14 if a check fails. Writes and signs reports/serving.json, whatever the result. Stops and removes
    everything that it started.
    """
    from checks.process.text import escape
    from checks.storage import layout
    from release.evidence import verification
    from release.record import hand_over
    from release.verbs import verify as verb

    exclusive({"--key": key, "--keyless": keyless})
    if artifact:
        hand_over.take_reports(root, artifact, layout.IMAGE_REPORT)
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
        image=image,
        url=url,
        runtime=runtime,
        gpus=gpus,
        server=server,
        against=against,
        against_python=against_python,
        beside=beside,
    )
    report = verb.verify(root, options, signer)
    show(report, as_json, tables.serving)
    refuse(verb.refusal(report))
