"""Runs Prometheus and Alertmanager on this machine until a signal comes: what `lockstep monitor up` starts.

Both listen on loopback alone and keep everything below one folder. Each has a session of its own, so that Ctrl-C
reaches only the command, which then ends them. The rules are those of a cluster; only the intervals are shorter, so
that an alert reaches the webhook some seconds after its expression holds.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests

from checks.process.errors import MachineRefused
from checks.process.text import redact
from checks.storage import files, plain_yaml
from release.adapters.children import handling
from release.monitoring import rules, templates
from release.monitoring.objectives import Scope

HOST = "127.0.0.1"
INSTALL = "apt-get install prometheus prometheus-alertmanager"
# Debian's package starts a service at once, at the same port.
_TAKEN = "choose another port, or end what listens there: systemctl disable --now prometheus prometheus-alertmanager"
_PATIENCE = 60.0  # seconds until both are ready
_GRACE = 10.0  # seconds after SIGTERM
_PAUSE = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LocalOptions(NamedTuple):
    """``targets``: HOST:PORT of each gateway's /metrics, ``servers``: of each server's. ``environment``: as the gateway
    was told.

    ``webhook``: where alerts are sent; None: they are only shown. ``interval``: seconds between two scrapes.
    """

    targets: tuple[str, ...]
    servers: tuple[str, ...]
    environment: str
    webhook: str | None
    port: int
    alertmanager_port: int
    interval: int


class _Program(NamedTuple):
    """``names``: of the command, in Debian and elsewhere."""

    names: tuple[str, ...]
    port: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[-1]


def run(folder: Path, scope: Scope, options: LocalOptions, say: Callable[[str], None]) -> None:
    """Run both until SIGINT, SIGTERM or SIGHUP, and end them. Everything is in ``folder``, which has the rules.

    Raises MachineRefused if one is not installed, its port is taken, or it ends by itself.
    """
    programs = (
        # Alertmanager without a cluster, for which it would listen everywhere.
        _Program(
            ("prometheus-alertmanager", "alertmanager"),
            options.alertmanager_port,
            ("--storage.path=alertmanager", "--cluster.listen-address="),
        ),
        _Program(("prometheus",), options.port, ("--storage.tsdb.path=prometheus",)),
    )
    paths = [_path(program) for program in programs]
    for program in programs:
        _is_free(program.port)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # the address of a webhook is often a secret
    values = options._asdict() | {"model": scope.model, "rules": rules.RULES}
    with _signals() as ended, ExitStack() as stack:
        running = {
            program.name: stack.enter_context(_running(program, path, folder, values))
            for program, path in zip(programs, paths, strict=True)
        }
        for program in programs:
            if not _is_ready(program, running, folder, ended):
                return
        say(
            f"prometheus: http://{HOST}:{options.port}/alerts, of {', '.join((*options.targets, *options.servers))}"
        )
        sent = "sends alerts nowhere: no --webhook"
        if options.webhook:
            # The host alone: the path is often a secret.
            sent = f"sends alerts to {redact(urlsplit(options.webhook).hostname or '')}"
        say(f"alertmanager: http://{HOST}:{options.alertmanager_port}, {sent}")
        while not ended.wait(_PAUSE):
            _live(running, folder)
        say("monitor: ending")


def _path(program: _Program) -> str:
    path = next(filter(None, map(shutil.which, program.names)), None)
    if path is None:
        raise MachineRefused(f"{program.name} is not installed", INSTALL)
    return path


def _is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise MachineRefused(f"{HOST}:{port}: {error.strerror or error}", _TAKEN) from error


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Return an event that a signal sets. Nothing is interrupted, so no process is started that nobody knows."""
    ended = threading.Event()
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup
    with handling((*_SIGNALS, *hangup), lambda *_: ended.set()):
        yield ended


@contextmanager
def _running(
    program: _Program, path: str, folder: Path, values: Mapping[str, object]
) -> "Iterator[subprocess.Popen[bytes]]":
    config = folder / f"{program.name}.yaml"
    files.write_text(config, plain_yaml.dump(templates.fill(f"{config.name}.jinja", **values)))
    with _log(program.name, folder).open("wb") as log:
        process = subprocess.Popen(
            [path, f"--config.file={config.name}", f"--web.listen-address={HOST}:{program.port}", *program.options],
            cwd=folder, env={"PATH": os.environ.get("PATH", os.defpath)}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(
    program: _Program,
    running: "dict[str, subprocess.Popen[bytes]]",
    folder: Path,
    ended: threading.Event,
) -> bool:
    """Wait until the program answers; False if a signal came first. Raises MachineRefused."""
    for _ in range(int(_PATIENCE / _PAUSE)):
        _live(running, folder)
        try:
            if (
                requests.get(f"http://{HOST}:{program.port}/-/ready", timeout=5).status_code
                == requests.codes.ok
            ):
                return True
        except requests.RequestException:
            pass  # it does not listen yet
        if ended.wait(_PAUSE):
            return False
    raise MachineRefused(
        f"{program.name}: is not ready after {_PATIENCE:g} s", f"read {_log(program.name, folder)}"
    )


def _live(running: "dict[str, subprocess.Popen[bytes]]", folder: Path) -> None:
    for name, process in running.items():
        if process.poll() is not None:
            log = _log(name, folder)
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise MachineRefused(
                f"{name}: ended with {process.returncode}: {redact(last, 300)}", f"read {log}"
            )


def _log(name: str, folder: Path) -> Path:
    return folder / f"{name}.log"
