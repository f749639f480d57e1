"""The command gateway."""

from pathlib import Path
from typing import Any

import click

from release.cli.common import Number, refusing

_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(1, 65535)


@click.command()
@click.argument("upstreams", metavar="URL...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 in a container.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Port for clients.")
@click.option(
    "--metrics-port", type=_PORT, default=9464, show_default=True, help="Port of /metrics, /ready and /health."
)
@click.option(
    "--environment", default="local", show_default=True, help="Name of the environment, for metrics and rows."
)
@click.option(
    "--release", metavar="DIGEST", help="The model's digest, where the server does not serve a folder NAME-DIGEST."
)
@click.option(
    "--captures", metavar="FOLDER", help="Where to store requests: a folder, s3://… or gs://…. Default: nowhere."
)
@click.option(
    "--sample", type=Number(0, 1, min_open=True), default=1.0, show_default=True,
    help="Share of the requests to store, chosen by their ids.",
)  # fmt: skip
@click.option(
    "--max-body", type=click.IntRange(1), default=4 << 20, show_default=True, help="Bytes of a request; more gets 413."
)
@click.option(
    "--max-concurrent", type=click.IntRange(1), default=256, show_default=True,
    help="Requests at a time; one more gets 429.",
)  # fmt: skip
@click.option(
    "--deadline", type=Number(0, 3600, min_open=True), default=600.0, show_default=True,
    help="Seconds for a whole answer; then 504, or a stream is broken off.",
)  # fmt: skip
@click.option(
    "--drain", type=Number(0, 3600), default=30.0, show_default=True,
    help="Seconds that requests in flight have after SIGTERM.",
)  # fmt: skip
@click.option(
    "--keys", type=_FILE, metavar="FILE",
    help='API keys, one a line, as `printf %s "$KEY" | sha256sum` prints it. Default: anyone may ask.',
)  # fmt: skip
@click.option(
    "--labels", type=_FILE, metavar="FILE", help="Known answers, one a line: how many answers are one is counted."
)
@click.option("--buckets", metavar="SECONDS", help="Bounds of the histograms of requests and first tokens: 0.1,0.5,2.")
@click.option("--token-buckets", metavar="SECONDS", help="Bounds of the histogram of seconds between tokens.")
@click.pass_obj
@refusing
def gateway(root: Path, /, **options: Any) -> None:
    """Run a gateway before the OpenAI-compatible servers at each URL.

    Passes chat, completions and the list of models on, byte for byte. Adds a request id and the release that answered
    to each answer. Counts requests for Prometheus. Stores a redacted sample, if --captures is given. Ends on SIGTERM
    after the requests in flight. Each option can be given as a variable too, such as LOCKSTEP_GATEWAY_SAMPLE.
    """
    from checks.text import escape
    from release.verbs import gateway as verb

    verb.gateway(root, verb.Options(**options), lambda line: click.echo(escape(line), err=True))
