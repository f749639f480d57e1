"""The command capture."""

from pathlib import Path
from typing import Any

import click

from release.cli.common import FILE, SINCE, UNTIL, Number, refusing
from release.cli.tables import one_line


@click.command()
@click.argument("environment", metavar="ENV")
@click.argument("kind", metavar="KIND")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--release",
    metavar="DIGEST",
    help="Digest of the model that answered, if the log does not have it.",
)
@click.option(
    "--sample", type=Number(0, 1, min_open=True), default=1.0, show_default=True,
    help="Share of the requests that the other tool recorded.",
)  # fmt: skip
@SINCE
@UNTIL
@click.option(
    "--user-secret", type=FILE, metavar="FILE",
    help="The gateway's secret, by which stored rows get a key of their user. Default: they have none.",
)  # fmt: skip
@click.option(
    "--captures",
    metavar="FOLDER",
    help="Where to store them; also s3://… Default: .lockstep/captures.",
)
@click.pass_obj
@refusing
def capture(root: Path, /, environment: str, kind: str, source: str, **options: Any) -> None:
    """Import requests to ENV that another tool recorded, redacted as the gateway does.

    KIND is the tool: `jsonl` for an access log with requests and answers, `kserve` for events of KServe's inference
    logger, `otlp` for OpenTelemetry's spans as JSON, `mlflow` for traces of MLflow, or a kind that a package adds.
    SOURCE is a file, a folder or an address such as s3://…; for `mlflow` it is an experiment of the server that
    MLFLOW_TRACKING_URI names. If a line is malformed, nothing is stored. Importing the same log again adds nothing.
    """
    from release.verbs import capture as verb

    captured = verb.capture(root, environment, kind, source, **options)
    for reason, count in captured.left_out.most_common():
        click.echo(f"left out: {count:,}: {one_line(reason)}", err=True)
    click.echo(
        f"stored {captured.new:,} of {captured.requests:,} requests in {len(captured.files):,} files; "
        "the others were there"
    )
