"""The settings of a gateway."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Upper bounds of histograms, in seconds. An objective of `monitor:` must be one of them.
SECONDS = (
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    7.5,
    10.0,
    15.0,
    20.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class GatewaySettings(NamedTuple):
    """``upstreams``: URLs of servers, without /v1. Each address that a name has is a server of its own.

    ``release``: of a server that does not say what it serves. ``captures``: a folder, or a URL of fsspec such as
    s3://bucket/captures; None: nothing is stored. ``spool``: the folder where files lie until they are at that URL.
    ``sample``: the share of requests that is stored. ``max_body``: bytes of a request. ``max_concurrent``: requests
    in flight. ``deadline``: seconds for a whole answer. ``first_token``: seconds for the first text of a stream that
    the server has begun. ``stall``: seconds without any text from a server with requests, after which it must generate
    a token to get more. ``scrape_interval``: longest seconds between two scrapes of the metrics. ``otlp``: URL of an
    OpenTelemetry collector that gets metrics too. ``provider``: what runs the model. ``drain``: seconds that requests
    in flight have after SIGTERM. ``keys``: reads the SHA-256 of each API key; None: anyone may ask. ``weights``: the
    share of the requests that each of the upstreams gets, drawn by a hash of the request's id, or of the header
    ``sticky``; empty: the server with the fewest requests in flight gets each. ``labels``: valid answers, to count.
    ``user_secret``: makes keys of users; None: none is stored. ``user_header``: the header that names a request's user.
    """

    upstreams: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9464
    environment: str = "local"
    release: str | None = None
    captures: str | None = None
    spool: Path = Path()
    sample: float = 1.0
    max_body: int = 4 << 20
    max_concurrent: int = 256
    deadline: float = 600.0
    scrape_interval: float = 60.0
    otlp: str | None = None
    provider: str = "lockstep"
    first_token: float = 120.0
    stall: float = 60.0
    drain: float = 30.0
    keys: Callable[[], tuple[str, ...]] | None = None
    weights: tuple[float, ...] = ()
    sticky: str | None = None
    labels: frozenset[str] = frozenset()
    user_secret: bytes | None = None
    user_header: str | None = None
    seconds: tuple[float, ...] = SECONDS
    token_seconds: tuple[float, ...] = TOKEN_SECONDS
