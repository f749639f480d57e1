"""A gateway as a process, as `lockstep gateway` starts it."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from tests import pipeline_repository
from tests.conftest import REPOSITORY
from tests.ports import unused_port


class GatewayProcess:
    """A running gateway. ``log``: its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int, log: Path) -> None:
        self.process, self.log = process, log
        self.url, self.private = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
        self.port = port

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, without the labels environment and release."""
        found: dict[str, float] = {}
        for line in requests.get(f"{self.private}/metrics", timeout=9).text.splitlines():
            if line.startswith("lockstep_"):
                name, _, value = line.rpartition(" ")
                name = re.sub(r',?(environment|release)="[^"]*"', "", name).replace("{,", "{").replace("{}", "")
                found[name] = found.get(name, 0) + float(value)
        return found

    def total(self, name: str) -> float:
        """The sum over all labels of a counter."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def wait(self, path: str = "/ready", status: int = 200, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(self.private + path, timeout=9).status_code == status:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{path} is not {status}: {self.log.read_text()}")

    def stop(self, seconds: float = 60) -> int:
        self.process.terminate()
        return self.process.wait(seconds)


@contextlib.contextmanager
def running(
    upstream: str, folder: Path, *options: str, ready: bool = True, python: str | None = None
) -> Iterator[GatewayProcess]:
    """A gateway before ``upstream``, in ``folder``.

    It is forked from a process that has loaded its libraries (tests/warm.py), unless an interpreter is given.
    """
    port, metrics_port = unused_port(), unused_port()
    log = folder / "gateway.log"
    command = [python or pipeline_repository.interpreter(), "-m", "release.cli", "-C", str(folder), "gateway", upstream]
    command += ["--port", str(port), "--metrics-port", str(metrics_port), *options]
    with log.open("wb") as stream:
        environment = pipeline_repository.environment(PYTHONPATH=str(REPOSITORY))
        process = subprocess.Popen(command, stderr=stream, cwd=folder, env=environment)
    found = GatewayProcess(process, port, metrics_port, log)
    try:
        found.wait(*(("/ready",) if ready else ("/health",)))
        yield found
    finally:
        process.kill()
        process.wait()
