"""The command gateway."""

import os
from pathlib import Path
from typing import Any

import click

from release.cli.common import FILE, PORT, Number, refusing


@click.command()
@click.argument("upstreams", metavar="URL...", nargs=-1, required=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0 in a container.",
)
@click.option("--port", type=PORT, default=8080, show_default=True, help="Port for clients.")
@click.option(
    "--metrics-port",
    type=PORT,
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
    "--keys", type=FILE, metavar="FILE",
    help='API keys, one a line, as `printf %s "$KEY" | sha256sum` prints it. SIGHUP reads them again. '
    "Default: anyone may ask.",
)  # fmt: skip
@click.option(
    "--sticky", metavar="HEADER",
    help="With weights or --canary: requests with one value of this header stay together. Default: each is drawn.",
)  # fmt: skip
@click.option(
    "--canary", metavar="NAME=PERCENT", multiple=True,
    help="Give so many of the requests for the adapter NAME to NAME-canary, if the server has it. May be repeated.",
)  # fmt: skip
@click.option(
    "--labels",
    type=FILE,
    metavar="FILE",
    help="Known answers, one a line: how many answers are one is counted.",
)
@click.option(
    "--user-secret", type=FILE, metavar="FILE",
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
    from checks.process.text import escape
    from release.monitoring.gateway.options import check_variables
    from release.verbs import gateway as verb

    check_variables(os.environ, options.keys() - {"upstreams"})
    verb.gateway(root, options, lambda line: click.echo(escape(line), err=True))
