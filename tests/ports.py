"""Ports of loopback that nobody listens at."""

import contextlib
import secrets
import socket


def unused_port() -> int:
    """A port that the kernel will not give to another connection before a server listens there, as it does from 32768."""
    while True:
        port = 20_000 + secrets.randbelow(12_768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
