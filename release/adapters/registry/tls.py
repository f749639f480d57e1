"""Which certificates are trusted: always verified, by the usual settings and by Docker's folder of each registry."""

import functools
import os
import ssl
from pathlib import Path
from typing import Any

import certifi
from requests.adapters import HTTPAdapter

from checks.errors import RegistryRefused

POOL = 32  # idle connections that are kept: more than any number of threads that send


class Adapter(HTTPAdapter):
    """Connections by one TLS context. requests would load its own bundle into it anew for each connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_maxsize=POOL, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As the base class; with the context."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """As the base class; with the context."""
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002 - the context says it all
        """Always verified: by the context."""
        conn.cert_reqs = "CERT_REQUIRED"


def context(host: str | None) -> ssl.SSLContext:
    """Trusted authorities: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE alone where set; else SSL_CERT_FILE and SSL_CERT_DIR,
    or the system's and certifi's. For ``host`` (HOST[:PORT]) also what Docker has in certs.d/HOST[:PORT]: authorities
    in *.crt, and this client's own certificate in NAME.cert with NAME.key.

    Source: docs.docker.com/engine/security/certificates. Raises RegistryRefused when a file cannot be read.
    """
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    replaced = os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")
    folders = _docker_folders(host) if host else ()
    authorities = tuple(path for folder in folders for path in sorted(folder.glob("*.crt")))
    ours = tuple(path for folder in folders for path in sorted(folder.glob("*.cert")))
    return _made(bundle, replaced, authorities, ours)


@functools.lru_cache(maxsize=8)  # reading all authorities takes a tenth of a second
def _made(
    bundle: str, replaced: tuple[str, str], authorities: tuple[Path, ...], ours: tuple[Path, ...]
) -> ssl.SSLContext:
    place: str | Path = bundle or " ".join(filter(None, replaced))
    problem = ""
    try:
        is_folder = bool(bundle) and Path(bundle).is_dir()
        made = ssl.create_default_context(
            cafile=bundle if bundle and not is_folder else None, capath=bundle if is_folder else None
        )
        if not bundle and not any(replaced):
            made.load_verify_locations(certifi.where())
        for place in authorities:
            made.load_verify_locations(place)
        for place in ours:
            made.load_cert_chain(place, Path(place).with_suffix(".key"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        problem = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    if problem:
        raise RegistryRefused(f"{place}: cannot be used as a certificate: {problem}", "fix the file, or remove it")
    return made


def _docker_folders(host: str) -> tuple[Path, ...]:
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path("/etc/docker/certs.d") / host, settings / "docker/certs.d" / host  # the second: Docker without root
