"""MLflow for tests: a store with its tables, a real tracking server, and a stand-in that hangs, lies or fails."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import requests

from tests.http_standin import Handler, StandIn
from tests.once import once
from tests.ports import unused_port

Fault = Literal["hang", "drip", "fail", "lie", "garbage", "redirect", "endless"]

# Jobs are what no test asks for: their processes would idle at the expense of the tests.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with its tables: making them takes seconds."""
    return tables_of_this_run(tmp_path_factory)


def tables_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the empty store that all workers of a run of pytest share. Copy it before anything is written."""
    return once(tmp_path_factory, "tables", _make_tables) / "mlflow.db"


def _make_tables(folder: Path) -> None:
    folder.mkdir()
    client(f"sqlite:///{folder / 'mlflow.db'}").search_registered_models()


def client(uri: str) -> Any:
    """MLflow's own client: what others see, and how they change it by hand."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def add_run(database: Path, run: str, artifacts: str) -> None:
    """A training run with this id in a store, and artifacts below ``artifacts``, a folder or an address.

    MLflow chooses ids itself, so it is given another one afterwards.
    """
    uri = f"sqlite:///{database}"
    made = client(uri).create_run("0").info.run_id
    with sqlite3.connect(database) as connection:
        for table in ("runs", "tags"):
            connection.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (run, made))
        at = f"{artifacts}/{run}/artifacts"
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (at, run))
    connection.close()


@contextmanager
def server(folder: Path, tables: Path) -> Iterator[str]:
    """A real tracking server on a store of its own; its address. ``folder / "mlflow.db"`` is the store."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tables, folder / "mlflow.db")
    port = unused_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts")],
            stdout=log, stderr=log, env=os.environ | QUIET, start_new_session=True,
        )  # fmt: skip
    try:
        _await(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# Without these its gateway refuses an upstream on this machine. Set them where the server is started.
LOCAL_UPSTREAMS = {
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
}


def add_endpoint(uri: str, name: str, upstream: str) -> str:
    """Put MLflow's gateway before the server at ``upstream``; the address that has /v1/chat/completions of ``name``."""

    def made(path: str, what: str, **value: Any) -> Any:
        answer = requests.post(f"{uri}/api/3.0/mlflow/gateway/{path}/create", json={"name": name} | value, timeout=60)
        assert answer.ok, answer.text
        return answer.json()[what]

    secret = made(
        "secrets", "secret", secret_name=name, secret_value={"api_key": "x"}, provider="openai",
        auth_config={"api_base": f"{upstream}/v1"},
    )  # fmt: skip
    model = made(
        "model-definitions", "model_definition", secret_id=secret["secret_id"], provider="openai", model_name=name
    )
    used = {"model_definition_id": model["model_definition_id"], "linkage_type": "PRIMARY", "weight": 1.0}
    made("endpoints", "endpoint", model_configs=[used])
    return f"{uri}/gateway/openai"


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"mlflow server does not start: {log.read_text()}")


class FaultyServer(StandIn):
    """A stand-in for a tracking server that goes wrong: no answer, an endless slow one, errors, other words.

    ``lie``: it says that everything was done, and does nothing.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(_Handler)
        self.fault: Fault = fault
        self.asked: list[tuple[str, str]] = []  # path, Authorization


class _Handler(Handler):
    server: FaultyServer

    def serve(self) -> None:
        standin, path = self.server, self.path.partition("?")[0].rpartition("mlflow/")[2]
        standin.asked.append((path, self.headers.get("Authorization", "")))
        match standin.fault:
            case "hang":
                standin.ending.wait(120)
            case "drip":
                self.send_response(200)
                self.end_headers()
                while not standin.ending.wait(0.5):
                    self.wfile.write(b" ")
                    self.wfile.flush()
            case "fail":
                self.reply(500, {"error_code": "INTERNAL_ERROR", "message": "out of\n\x1b[31morder"})
            case "garbage":
                self.reply(200, [1, 2])
            case "redirect":
                self.reply(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
            case "lie" if path == "registered-models/get":
                self.reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"})
            case "lie":
                self.reply(200, {"model_version": {"version": "1"}})
            case "endless":
                self.reply(200, {"registered_model": {}, "model_versions": [], "next_page_token": "more"})

    do_GET = do_POST = do_DELETE = serve
