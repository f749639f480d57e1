"""gateway: stands before a model's server, passes requests on, and stores a redacted sample of them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from checks.formats import captures
from checks.process.errors import MachineRefused, ServingRefused
from release.monitoring.gateway.settings import SECONDS, TOKEN_SECONDS, Settings

_SPOOL = Path(".lockstep") / "captures"
ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# As sha256sum prints it: a digest, and the name of whoever has the key.
_KEY = re.compile(r"([0-9a-f]{64})(?:\s.*)?")
_WEIGHTED = re.compile(r"(.*)=(\d{1,6}(?:\.\d{1,6})?)")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SECRET = 32  # bytes at least
_LARGEST = 1 << 20  # bytes of a file of keys or labels
_VARIABLES = "LOCKSTEP_GATEWAY_"


class GatewayOptions(NamedTuple):
    """As ``settings.Settings``, but for what is read here.

    ``upstreams``: URL or URL=WEIGHT. ``release``: a digest, or its first 12 digits. ``keys``, ``labels``: files with
    one on each line. ``user_secret``: a file. ``buckets``, ``token_buckets``: numbers separated by commas.
    """

    upstreams: tuple[str, ...]
    host: str
    port: int
    metrics_port: int
    environment: str
    scrape_interval: float
    otlp: str | None
    provider: str
    release: str | None
    captures: str | None
    sample: float
    max_body: int
    max_concurrent: int
    deadline: float
    first_token: float
    stall: float
    drain: float
    keys: Path | None
    sticky: str | None
    labels: Path | None
    user_secret: Path | None
    user_header: str | None
    buckets: str | None
    token_buckets: str | None


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


def gateway(root: Path, options: GatewayOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``say`` gets a line now and then.

    Raises ServingRefused for options that cannot be, MachineRefused if a package is missing, a port is taken or the
    captures cannot be written.
    """
    settings = _settings(root, options)
    if settings.otlp is not None:
        _has_exporter()
    try:
        from release.monitoring.gateway import run
    except ModuleNotFoundError as error:
        raise _without(error.name) from error
    if settings.captures and "://" in settings.captures:
        _has_file_system(settings.captures)
    run.run(settings, say)


def _settings(root: Path, options: GatewayOptions) -> Settings:
    for option, text in (("--environment", options.environment), ("--provider", options.provider)):
        if not ENVIRONMENT.fullmatch(text):
            raise ServingRefused(f"{option}: {text!r}", "use letters, digits, dots and hyphens")
    urls = _upstreams(options.upstreams)
    for option, header in (("--sticky", options.sticky), ("--user-header", options.user_header)):
        if header is not None and not _HEADER.fullmatch(header):
            raise ServingRefused(
                f"{option}: {header!r} is no name of a header", "write it as X-Session-Id"
            )
    if options.user_header is not None and options.user_secret is None:
        raise ServingRefused("--user-header: needs --user-secret", "give the file of a secret")
    given = options._asdict()
    given |= {
        "upstreams": tuple(urls),
        "otlp": None if options.otlp is None else _address("--otlp", options.otlp),
        "weights": tuple(weight for weight in urls.values() if weight is not None),
        "release": None if options.release is None else _release(options.release),
        "spool": root / _SPOOL if options.captures and "://" in options.captures else root,
        "keys": None if options.keys is None else partial(_keys, options.keys),
        "user_secret": None if options.user_secret is None else user_secret(options.user_secret),
        "labels": frozenset(_lines(options.labels, "--labels") if options.labels else ()),
        "seconds": _buckets("--buckets", given.pop("buckets"), SECONDS),
        "token_seconds": _buckets("--token-buckets", given.pop("token_buckets"), TOKEN_SECONDS),
    }
    return Settings(**given)


def _upstreams(words: Sequence[str]) -> dict[str, float | None]:
    """The URLs with their weights. Raises ServingRefused unless all have one or none has."""
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


def _address(name: str, text: str) -> str:
    url = urlsplit(text)
    try:
        is_one = (
            url.scheme in ("http", "https")
            and bool(url.hostname)
            and "=" not in url.netloc
            and url.port != 0
        )
    except ValueError:  # a port that is no number, or above 65535
        is_one = False
    if not is_one or url.username or url.query or url.fragment:
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
    """The digests in a file of keys. A file without any is refused: it would lock everybody out."""
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
    """The lines of a file that are not empty."""
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


def _has_exporter() -> None:
    """Refuse before anything starts if OpenTelemetry's exporter is missing."""
    try:
        import opentelemetry.exporter.otlp.proto.http.metric_exporter  # noqa: F401
    except ModuleNotFoundError as error:
        raise MachineRefused(
            f"--otlp: the package {error.name} is not installed",
            "pip install -c constraints.txt -e '.[gateway,otel]'",
        ) from error


def _has_file_system(url: str) -> None:
    """Refuse before anything starts if fsspec, or its package for this kind of store, is missing."""
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(url.partition("://")[0])
    except ImportError as error:
        kind = url.partition("://")[0].replace("gcs", "gs")
        extra = f"gateway,{kind}" if kind in ("s3", "gs") else "gateway"
        raise MachineRefused(
            f"{kind}://: a package is missing", f"pip install -c constraints.txt -e '.[{extra}]'"
        ) from error
    except ValueError as error:
        raise ServingRefused(
            f"--captures: {url}: no such kind of store", "name a folder, s3://… or gs://…"
        ) from error


def _without(name: Any) -> MachineRefused:
    return MachineRefused(
        f"the package {name} is not installed", "pip install -c constraints.txt -e '.[gateway]'"
    )
