"""Which addresses are spoken to, and how: https everywhere, plain http to this machine alone."""

import ipaddress
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


def http_parts(url: str) -> SplitResult | None:
    """Return the parts of an http or https URL with a host and a valid port; None for anything else."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in _PORTS and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or above 65535
        return None
    return parts if fine else None


def split(url: str) -> SplitResult | None:
    """Return ``http_parts`` of a URL without a user; None for anything else."""
    parts = http_parts(url)
    return parts if parts and "@" not in parts.netloc else None


def origin(url: str) -> Origin | None:
    """Scheme, host and port: what credentials may be sent to. None when ``url`` has none."""
    if (parts := split(url)) is None:
        return None
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def is_loopback(host: str) -> bool:
    """Tell whether HOST[:PORT] is this machine by its name: localhost, 127.0.0.0/8 or ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_private_way(url: str) -> bool:
    """Tell whether nobody between can read along: https, or http within this machine."""
    parts = split(url)
    return parts is not None and (parts.scheme == "https" or is_loopback(parts.netloc))
