"""A model's server on this machine and `lockstep gateway` before it, as two processes that are ended together."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import release
from checks.config.release_params import Serve
from release import runtimes
from release.runtimes import Runtime
from release.serving import processes
from release.serving.client import Client, NoAnswer
from release.serving.processes import Process
from release.serving.server import wait_until

_DRAIN = 1  # seconds that requests in flight have when the gateway ends
_END = 60.0  # seconds until a gateway that has not ended is killed


class Behind(NamedTuple):
    """``url``: of the gateway. ``model``: what a request calls the model."""

    server: Process
    gateway: Process
    model: str

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self.gateway.url

    def gone(self) -> str | None:
        """None while both run; else what ended, and the reason from its log."""
        for what, process in (("server", self.server), ("gateway", self.gateway)):
            if why := process.gone():
                return f"the {what} of {self.server.model} ended: {why}"
        return None

    def wait(self, seconds: float) -> None:
        """Wait until the gateway says that the server has generated. Raises ServingRefused."""
        with closing(Client(self.gateway.model)) as client:
            wait_until(
                self.server, lambda: self.gateway.gone() is not None or _is_ready(client), seconds
            )
            wait_until(self.gateway, lambda: _is_ready(client), seconds)


@contextmanager
def started(
    runtime: Runtime,
    serve: Serve,
    weights: Path,
    digest: str,
    environment: str,
    captures: Path,
    root: Path,
    options: Sequence[str] = (),
) -> Iterator[Behind]:
    """Start both; ``Behind.wait`` waits for them. The gateway stores every request below ``captures``.

    ``root``: as for ``processes.start``. ``options``: more options of `lockstep gateway`.

    Raises MachineRefused if the server is not installed, ServingRefused if the runtime cannot run as a process.
    """
    with ExitStack() as stack:
        server = stack.enter_context(closing(processes.start(runtime, serve, weights, root)))
        gateway = stack.enter_context(
            closing(_gateway(server.url, digest, environment, captures, options))
        )
        stack.callback(gateway.terminate, _END)  # A gateway that is killed loses captures.
        yield Behind(server, gateway, runtimes.fill(runtime, serve, server.model).model_field)


def _gateway(
    server: str, digest: str, environment: str, captures: Path, options: Sequence[str]
) -> Process:
    """``Process.model`` is the address of its probes."""
    port, probes = processes.free_port(), processes.free_port()
    command = [
        sys.executable, "-m", "release.cli", "-C", str(captures.parent), "gateway", server, "--host", processes.HOST,
        "--port", str(port), "--metrics-port", str(probes), "--environment", environment, "--release", digest,
        "--captures", str(captures), "--drain", str(_DRAIN), *options,
    ]  # fmt: skip
    return processes.launch(
        command, f"http://{processes.HOST}:{port}", f"http://{processes.HOST}:{probes}",
        lambda home: {
            "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(Path(release.__file__).parents[1]),
        },
    )  # fmt: skip


def _is_ready(client: Client) -> bool:
    try:
        return client.get("/ready").status == 200
    except NoAnswer:
        return False
