"""Starts an API server of Kubernetes with its etcd on this machine: no node and no controller, so no pod ever runs.

The options are those with which an audit ran 1.36.2, and those of envtest of the project controller-runtime.
"""

import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests import programs
from tests.ports import unused_port

_START = 120.0  # seconds
ADMIN, VIEWER = "admin", "viewer"


class ApiServer(NamedTuple):
    """A running API server. ``folder`` has a kubeconfig for each of its users, ADMIN and VIEWER."""

    folder: Path

    def kubeconfig(self, user: str = ADMIN) -> Path:
        return self.folder / f"{user}.kubeconfig"

    def tried(self, *arguments: str, objects: Sequence[dict[str, Any]] = ()) -> subprocess.CompletedProcess[str]:
        """Run kubectl as ADMIN. ``objects`` are given on its standard input."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        command = ["kubectl", f"--kubeconfig={self.kubeconfig()}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    def kubectl(self, *arguments: str, objects: Sequence[dict[str, Any]] = ()) -> str:
        """The output of kubectl, which must succeed."""
        done = self.tried(*arguments, objects=objects)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """One object as plain values."""
        value: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return value


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Run etcd and kube-apiserver with their files in ``folder``; skip the test where there is no kube-apiserver."""
    program = programs.kube_apiserver()
    client, peer, port = (unused_port() for _ in range(3))
    keys = folder / "keys"
    keys.mkdir(parents=True)
    private, public = str(keys / "sa.key"), str(keys / "sa.pub")
    for command in (["genrsa", "-out", private, "2048"], ["rsa", "-in", private, "-pubout", "-out", public]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    tokens = {ADMIN: secrets.token_hex(16), VIEWER: secrets.token_hex(16)}
    rows = (f'{tokens[ADMIN]},{ADMIN},{ADMIN},"system:masters"', f'{tokens[VIEWER]},{VIEWER},{VIEWER},"viewers"')
    (keys / "tokens.csv").write_text("".join(f"{row}\n" for row in rows))
    for user, token in tokens.items():
        (folder / f"{user}.kubeconfig").write_text(yaml.safe_dump(_kubeconfig(user, token, port)))
    etcd = f"http://127.0.0.1:{client}"
    commands = (
        [
            "etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
        ],
        [
            str(program), "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
            f"--etcd-servers={etcd}", f"--cert-dir={keys}", f"--token-auth-file={keys / 'tokens.csv'}",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}", f"--service-account-signing-key-file={private}",
        ],
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_running(command, folder)) for command in commands]
        server = ApiServer(folder)
        _wait(server, running)
        yield server


def _kubeconfig(user: str, token: str, port: int) -> dict[str, Any]:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
    }


class _Process(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[_Process]:
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL) as process:
        try:
            yield _Process(process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def _wait(server: ApiServer, running: list[_Process]) -> None:
    """Wait until the API server is ready. Fails with the end of a log."""
    began = time.monotonic()
    while server.tried("get", "--raw=/readyz").returncode != 0:
        ended = [one for one in running if one.process.poll() is not None]
        late = [running[-1]] if time.monotonic() - began > _START else []
        for one in ended or late:
            raise AssertionError(f"{one.log.name}: {one.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.5)
