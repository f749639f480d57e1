"""Which certificates are trusted: always verified, by the usual settings and by Docker's folder of each registry."""

import functools
import os
import ssl
from pathlib import Path

import certifi

from checks.process.errors import RegistryRefused

_SETTINGS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
Certificate = tuple[str, str]  # This client's own certificate and its key.


def trust(host: str | None) -> tuple[str, Certificate | None]:
    """Return the trust in a registry (HOST[:PORT]), or in any other host for None: requests' ``verify`` and ``cert``.

    Docker's certs.d/HOST[:PORT] has the authorities of one registry in a *.crt, and this client's own certificate in
    NAME.cert with NAME.key. For all others REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or SSL_CERT_DIR counts,
    then the system's authorities, then certifi's.

    Source: docs.docker.com/engine/security/certificates. Raises RegistryRefused if a file cannot be read, or if one
    folder has several *.crt.
    """
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    # The second folder is that of an engine without root.
    folders = (Path("/etc/docker/certs.d"), settings / "docker/certs.d") if host else ()
    files = [path for folder in folders for path in sorted((folder / str(host)).glob("*"))]
    authorities = [path for path in files if path.suffix == ".crt"]
    if len({path.parent for path in authorities}) < len(authorities):
        raise RegistryRefused(
            f"{authorities[-1].parent}: has more than one *.crt, and only one would count",
            "put all authorities into one of them, such as ca.crt",
        )
    certificates = [
        (str(path), str(path.with_suffix(".key"))) for path in files if path.suffix == ".cert"
    ]
    given = [os.environ[name] for name in _SETTINGS if os.environ.get(name)]
    usual = Path(given[0] if given else _of_the_system())
    trusted = str((authorities or [usual])[-1])
    certificate = certificates[-1] if certificates else None
    _check(trusted, certificate)
    return trusted, certificate


@functools.cache
def _of_the_system() -> str:
    """Return the system's authorities, or certifi's where OpenSSL would find none.

    OpenSSL finds an authority in a folder by the file's name, its hash such as 4a6481c9.0. Some systems have a folder
    without such names.
    """
    system = ssl.get_default_verify_paths()
    if system.cafile:
        return system.cafile
    if system.capath and any(Path(system.capath).glob("*.[0-9]")):
        return system.capath
    return certifi.where()


@functools.lru_cache(maxsize=8)  # Reading all authorities takes a tenth of a second.
def _check(authorities: str, certificate: Certificate | None) -> None:
    place = authorities
    folder = Path(place).is_dir()
    try:
        context = ssl.create_default_context(
            cafile=None if folder else place, capath=place if folder else None
        )
        if certificate:
            place = certificate[0]
            context.load_cert_chain(*certificate)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError.
        words = [getattr(error, name, None) for name in ("reason", "strerror")]
        problem = next(filter(None, words), type(error).__name__)
        raise RegistryRefused(
            f"{place}: cannot be used as a certificate: {problem}", "fix the file, or remove it"
        ) from error
