"""Commands that capture requests: gateway, and capture for those that other tools recorded."""

import os
from pathlib import Path
from typing import Any

import click

from release.cli.common import Number, refusing
from release.cli.tables import one_line

_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(1, 65535)


@click.command()
@click.argument("upstreams", metavar="URL...", nargs=-1, required=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0 in a container.",
)
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Port for clients.")
@click.option(
    "--metrics-port",
    type=_PORT,
    default=9464,
    show_default=True,
    help="Port of /metrics, /ready and /health.",
)
@click.option(
    "--scrape-interval", type=Number(0, 300), default=60.0, show_default=True,
    help="Longest seconds between two scrapes: counters of a new release stay 0 until they were scraped once.",
)  # fmt: skip
@click.option(
    "--otlp",
    metavar="URL",
    help="An OpenTelemetry collector that gets metrics by OTLP over HTTP too. Default: none.",
)
@click.option(
    "--provider", default="lockstep", show_default=True,
    help="What runs the model, such as vllm: gen_ai.provider.name in rows and OTLP.",
)  # fmt: skip
@click.option(
    "--environment",
    default="local",
    show_default=True,
    help="Name of the environment, for metrics and rows.",
)
@click.option(
    "--release",
    metavar="DIGEST",
    help="The model's digest, where the server does not serve a folder NAME-DIGEST.",
)
@click.option(
    "--captures",
    metavar="FOLDER",
    help="Where to store requests: a folder, s3://… or gs://…. Default: nowhere.",
)
@click.option(
    "--sample", type=Number(0, 1, min_open=True), default=1.0, show_default=True,
    help="Share of the requests to store, chosen by their ids.",
)  # fmt: skip
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=4 << 20,
    show_default=True,
    help="Bytes of a request; more gets 413.",
)
@click.option(
    "--max-concurrent", type=click.IntRange(1), default=256, show_default=True,
    help="Whole requests at a time; one more gets 429.",
)  # fmt: skip
@click.option(
    "--deadline", type=Number(0, 3600, min_open=True), default=600.0, show_default=True,
    help="Seconds for a whole answer; then 504, or a stream is broken off.",
)  # fmt: skip
@click.option(
    "--first-token", type=Number(0, 3600, min_open=True), default=120.0, show_default=True,
    help="Seconds for the first text of a stream that the server has begun; then it is broken off.",
)  # fmt: skip
@click.option(
    "--stall", type=Number(0, 3600, min_open=True), default=60.0, show_default=True,
    help="A server with requests that sends no text for so long must generate a token as fast, or gets no more.",
)  # fmt: skip
@click.option(
    "--drain", type=Number(0, 3600), default=30.0, show_default=True,
    help="Seconds that requests in flight have after SIGTERM; then they get 503, and streams are broken off.",
)  # fmt: skip
@click.option(
    "--keys", type=_FILE, metavar="FILE",
    help='API keys, one a line, as `printf %s "$KEY" | sha256sum` prints it. SIGHUP reads them again. '
    "Default: anyone may ask.",
)  # fmt: skip
@click.option(
    "--sticky", metavar="HEADER",
    help="With weights: requests with one value of this header go to one URL. Default: drawn for each request.",
)  # fmt: skip
@click.option(
    "--labels",
    type=_FILE,
    metavar="FILE",
    help="Known answers, one a line: how many answers are one is counted.",
)
@click.option(
    "--user-secret", type=_FILE, metavar="FILE",
    help="A secret of 32 bytes or more, by which stored rows get a key of their user. Default: they have none.",
)  # fmt: skip
@click.option(
    "--user-header", metavar="HEADER",
    help="Header that names a request's user. Default: safety_identifier or user of the request.",
)  # fmt: skip
@click.option(
    "--buckets",
    metavar="SECONDS",
    help="Bounds of the histograms of requests and first tokens: 0.1,0.5,2.",
)
@click.option(
    "--token-buckets", metavar="SECONDS", help="Bounds of the histogram of seconds between tokens."
)
@click.pass_obj
@refusing
def gateway(root: Path, /, **options: Any) -> None:
    """Run a gateway before the OpenAI-compatible servers at each URL, or URL=WEIGHT.

    Passes chat, completions and the list of models on, byte for byte. Adds a request id and the release that answered
    to each answer. With weights (http://a:8000=95 http://b:8000=5) it draws the URL of each request. Counts requests
    for Prometheus. Stores a redacted sample, if --captures is given. Ends on SIGTERM after the requests in flight. Each
    option can be given as a variable too, such as LOCKSTEP_GATEWAY_SAMPLE. A variable with this prefix that is empty or
    names no option is refused.
    """
    from checks.text import escape
    from release.verbs import gateway as verb

    verb.check_variables(os.environ, options.keys() - {"upstreams"})
    verb.gateway(
        root, verb.GatewayOptions(**options), lambda line: click.echo(escape(line), err=True)
    )


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
@click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Only requests from this time on: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
@click.option("--to", "until", metavar="TIME", help="Only requests before this time.")
@click.option(
    "--user-secret", type=_FILE, metavar="FILE",
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
    logger, `mlflow` for traces of MLflow, or a kind that a package adds. SOURCE is a file, a folder or an address such
    as s3://…; for `mlflow` it is an experiment of the server that MLFLOW_TRACKING_URI names. If a line is malformed,
    nothing is stored. Importing the same log again adds nothing.
    """
    from release.verbs import capture as verb

    captured = verb.capture(root, environment, kind, source, verb.CaptureOptions(**options))
    for reason, count in captured.left_out.most_common():
        click.echo(f"left out: {count:,}: {one_line(reason)}", err=True)
    click.echo(
        f"stored {captured.new:,} of {captured.requests:,} requests in {len(captured.files):,} files; "
        "the others were there"
    )
