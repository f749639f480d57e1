"""The settings of a gateway, and how the options of `lockstep gateway` are read into them.

Every refusal names the option, before anything starts.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from checks.formats import captures
from checks.process.errors import ServingRefused
from release.adapters.registry import addresses

ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SPOOL = Path(".lockstep") / "captures"
# As sha256sum prints it: a digest, and the name of whoever has the key.
_KEY = re.compile(r"([0-9a-f]{64})(?:\s.*)?")
_WEIGHTED = re.compile(r"(.*)=(\d{1,6}(?:\.\d{1,6})?)")
_CANARY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})=(\d{1,2}(?:\.\d{1,6})?)")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SECRET = 32  # bytes at least
_LARGEST = 1 << 20  # bytes of a file of keys or labels
_VARIABLES = "LOCKSTEP_GATEWAY_"

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
    ``canaries``: by the name of an adapter, the share of its requests that its canary on the same server gets.
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
    canaries: Mapping[str, float] = {}
    labels: frozenset[str] = frozenset()
    user_secret: bytes | None = None
    user_header: str | None = None
    seconds: tuple[float, ...] = SECONDS
    token_seconds: tuple[float, ...] = TOKEN_SECONDS


def check_variables(environ: Mapping[str, str], options: Iterable[str]) -> None:
    """Refuse variables that would be ignored: without its file of keys the gateway answers everyone.

    ``options``: the names of the command's options, such as ``max_body``. Raises ServingRefused for a variable of the
    gateway that is empty or is none of theirs.
    """
    known = {f"{_VARIABLES}{option.upper()}" for option in options}
    for name in sorted(name for name in environ if name.startswith(_VARIABLES)):
        if name not in known:
            raise ServingRefused(
                f"{name}: no option of the gateway has this name",
                "unset it, or name an option that `lockstep gateway --help` lists",
            )
        if not environ[name].strip():
            raise ServingRefused(f"{name}: is empty", "give it a value, or unset it")


def read(root: Path, options: Mapping[str, Any]) -> GatewaySettings:
    """Return the settings that the command's options ask for. Raises ServingRefused for one that cannot be.

    ``options``: by the names of ``GatewaySettings``, but ``buckets`` and ``token_buckets``, which are numbers
    separated by commas. ``upstreams``: URL or URL=WEIGHT. ``release``: a digest, or its first 12 digits. ``keys``,
    ``labels``: files with one on each line. ``user_secret``: a file.
    """
    for name in ("environment", "provider"):
        if not ENVIRONMENT.fullmatch(options[name]):
            raise ServingRefused(
                f"--{name}: {options[name]!r}", "use letters, digits, dots and hyphens"
            )
    urls = _upstreams(options["upstreams"])
    for option, header in (
        ("--sticky", options["sticky"]),
        ("--user-header", options["user_header"]),
    ):
        if header is not None and not _HEADER.fullmatch(header):
            raise ServingRefused(
                f"{option}: {header!r} is no name of a header", "write it as X-Session-Id"
            )
    if options["user_header"] is not None and options["user_secret"] is None:
        raise ServingRefused("--user-header: needs --user-secret", "give the file of a secret")
    otlp, release, place = options["otlp"], options["release"], options["captures"]
    keys, secret, labels = options["keys"], options["user_secret"], options["labels"]
    values = dict(options)
    values |= {
        "upstreams": tuple(urls),
        "otlp": None if otlp is None else _address("--otlp", otlp),
        "weights": tuple(weight for weight in urls.values() if weight is not None),
        "release": None if release is None else _release(release),
        "canaries": dict(map(_canary, values.pop("canary"))),
        "spool": root / _SPOOL if place and "://" in place else root,
        "keys": None if keys is None else partial(_keys, keys),
        "user_secret": None if secret is None else user_secret(secret),
        "labels": frozenset(_lines(labels, "--labels") if labels else ()),
        "seconds": _buckets("--buckets", values.pop("buckets"), SECONDS),
        "token_seconds": _buckets("--token-buckets", values.pop("token_buckets"), TOKEN_SECONDS),
    }
    return GatewaySettings(**values)


def _upstreams(words: Sequence[str]) -> dict[str, float | None]:
    """Return the URLs with their weights. Raises ServingRefused unless all have one or none has."""
    urls: dict[str, float | None] = {}
    for word in words:
        match = _WEIGHTED.fullmatch(word)
        # Clients write the address with /v1.
        url = _address("URL", match[1] if match else word).removesuffix("/v1")
        if url in urls:
            raise ServingRefused(f"URL: {url} is there twice", "name each server once")
        urls[url] = float(match[2]) if match else None
    weights = [weight for weight in urls.values() if weight is not None]
    if weights and (len(weights) < len(urls) or not sum(weights)):
        raise ServingRefused(
            f"URL: {' '.join(words)}: some have no weight, or all have 0",
            "write each as URL=WEIGHT, or none",
        )
    return urls


def _canary(text: str) -> tuple[str, float]:
    match = _CANARY.fullmatch(text)
    percent = float(match[2]) if match else 0
    if match is None or not 0 < percent <= 50:
        raise ServingRefused(
            f"--canary: {text!r}", "write it as NAME=PERCENT, above 0 and at most 50: router=5"
        )
    return match[1], percent / 100


def _address(name: str, text: str) -> str:
    url = addresses.http_parts(text)
    if url is None or "=" in url.netloc or url.username or url.query or url.fragment:
        raise ServingRefused(
            f"{name}: {text.rpartition('@')[2]!r} is no address of a server",
            "write it as http://HOST:PORT",
        )
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


def _release(text: str) -> str:
    digest = captures.release_named(text)
    if digest is None:
        raise ServingRefused(
            f"--release: {text!r} is no digest", "write the model's digest, or its first 12 digits"
        )
    return digest


def _keys(path: Path) -> tuple[str, ...]:
    """Return the digests in a file of keys. A file without any is refused: it would lock everybody out."""
    todo = 'write one line for each key: printf %s "$KEY" | sha256sum'
    digests = []
    for number, line in enumerate(_lines(path, "--keys"), 1):
        match = _KEY.fullmatch(line)
        if match is None:
            raise ServingRefused(f"{path}:{number}: does not begin with a SHA-256", todo)
        digests.append(match[1])
    if not digests:
        raise ServingRefused(f"{path}: has no key", todo)
    return tuple(digests)


def user_secret(path: Path) -> bytes:
    """Read the secret that makes keys of users. Raises ServingRefused for a short one: it could be guessed."""
    secret = "\n".join(_lines(path, "--user-secret")).encode()
    if len(secret) < _SECRET:
        raise ServingRefused(
            f"--user-secret: {path}: has {len(secret)} bytes", f"openssl rand -hex 32 > {path}"
        )
    return secret


def _lines(path: Path, option: str) -> Sequence[str]:
    """Return the lines of a file that are not empty."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ServingRefused(
                f"{option}: {path}: has more than {_LARGEST} bytes", "name another file"
            )
        return [line.strip() for line in data.decode().splitlines() if line.strip()]
    except OSError as error:
        raise ServingRefused(
            f"{option}: {path}: {error.strerror or error}", "name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ServingRefused(f"{option}: {path}: is not UTF-8", "name another file") from error


def _buckets(option: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return default
    try:
        bounds = tuple(float(word) for word in text.split(","))
    except ValueError:
        bounds = ()
    if (
        not bounds
        or list(bounds) != sorted(set(bounds))
        or not 0 < bounds[0] <= bounds[-1] < float("inf")
    ):
        raise ServingRefused(f"{option}: {text!r}", "write rising numbers of seconds, as 0.1,0.5,2")
    return bounds
