"""Artifacts of MLflow runs as sources, from a real tracking server."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.config.params import Source
from checks.process.errors import MachineRefused, Refusal, SourceRefused
from checks.storage import digest
from stages import sources
from stages.sources import parsing
from tests import mlflow_service as service

pytestmark = pytest.mark.slow
tables = service.tables
FIELD = "data.uri"
ROWS = b'{"question": "Where is my invoice?", "team": "billing"}\n'


class Server(NamedTuple):
    """A tracking server, its database, the id of an experiment in it, and that of the run whose artifacts it has."""

    address: str
    store: Path
    experiment: str
    run: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    logged = folder / "logged"
    (logged / "parts/deep").mkdir(parents=True)
    (logged / "rows.jsonl").write_bytes(ROWS)
    (logged / "parts/one.jsonl").write_bytes(ROWS)
    (logged / "parts/deep/two ü.jsonl").write_bytes(ROWS * 2)
    with service.server(folder / "server", tables) as address:
        client: Any = service.client(address)
        experiment = client.create_experiment("rows")  # its artifacts are behind the server
        run = client.create_run(experiment).info.run_id
        client.log_artifacts(run, str(logged))
        yield Server(address, folder / "server/mlflow.db", experiment, run)


@pytest.fixture
def uri(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    return f"mlflow://{server.run}"


def test_a_file_and_a_folder_of_a_run_are_pinned_and_downloaded_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_parts = {
        "one.jsonl": digest.FileDigest(digest.of_bytes(ROWS), len(ROWS)),
        "deep/two ü.jsonl": digest.FileDigest(digest.of_bytes(ROWS * 2), len(ROWS) * 2),
    }
    for path, pin in (("rows.jsonl", digest.of_bytes(ROWS)), ("parts", digest.of_manifest(of_parts))):
        asked = Source(uri=f"{uri}/{path}", sha256=None, license=None)
        with pytest.raises(SourceRefused, match=r"is not pinned; pin it: sha256: [0-9a-f]{64}$") as refusal:
            sources.bring(asked, "data", tmp_path)
        assert str(refusal.value).endswith(pin.removeprefix("sha256:"))
        with monkeypatch.context() as here:
            here.delenv("MLFLOW_TRACKING_URI")
            found = sources.bring(asked.model_copy(update={"sha256": pin.removeprefix("sha256:")}), "data", tmp_path)
        assert found.name == path


def test_an_artifact_that_was_overwritten_is_refused(server: Server, uri: str, tmp_path: Path) -> None:
    client = service.client(server.address)
    run = client.create_run(server.experiment).info.run_id
    pin = digest.of_bytes(b"old").removeprefix("sha256:")
    asked = Source(uri=f"mlflow://{run}/rows.jsonl", sha256=pin, license=None)
    for text in ("old", "new"):
        client.log_text(run, text, "rows.jsonl")
        if text == "old":
            assert sources.bring(asked, "data", tmp_path / text).sha256 == pin
    with pytest.raises(
        SourceRefused, match=f"{pin} is pinned, but mlflow://{run}/rows.jsonl is [0-9a-f]{{64}}; nothing of it"
    ):
        sources.bring(asked, "data", tmp_path / "new")  # fmt: skip


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("rows.json", "run RUN: has no artifact rows.json; there, it has parts, rows.jsonl$"),
        ("parts/two.jsonl", "run RUN: has no artifact parts/two.jsonl; there, it has deep, one.jsonl$"),
        ("nowhere/rows.jsonl", "run RUN: has no artifact nowhere/rows.jsonl; there, it has nothing$"),
        ("", "'mlflow://RUN/' is not mlflow://RUN/PATH; write the id of a run and the path of one of its artifacts"),
        ("../other", "'mlflow://RUN/../other' is not mlflow://RUN/PATH"),
        ("rows.jsonl?token=hunter2", r"'mlflow://RUN/rows.jsonl\?token=\*\*\*' is not mlflow://"),
    ],
)
def test_what_a_run_does_not_have_is_refused_with_what_it_has(
    server: Server, uri: str, tmp_path: Path, path: str, said: str
) -> None:
    with pytest.raises(SourceRefused, match=f"^params.yaml: data.uri: {said.replace('RUN', server.run, 1)}"):
        parsing.parse(f"{uri}/{path}", FIELD, tmp_path).download(tmp_path, FIELD)


@pytest.mark.parametrize(
    ("address", "run", "kind", "said"),
    [
        ("", "RUN", MachineRefused, "params.yaml: data.uri: run RUN: the variable MLFLOW_TRACKING_URI is not set; set it to an address, such as http"),
        ("ADDRESS", "0" * 32, SourceRefused, "params.yaml: data.uri: run 0{32}: ADDRESS has no such run; check its id, and that"),
        ("http://me:hunter2@127.0.0.1:1", "RUN", MachineRefused, "MLflow at http://127.0.0.1:1 does not answer: "),
        ("quark://me:hunter2@host/x", "RUN", MachineRefused, "MLflow at quark://host/x does not answer: "),
    ],
)  # fmt: skip
def test_a_server_that_does_not_answer_or_lacks_the_run_is_refused(
    server: Server, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    address: str, run: str, kind: type[Refusal], said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("ADDRESS", server.address))
    said = said.replace("RUN", server.run, 1).replace("ADDRESS", server.address)
    with pytest.raises(kind, match=f"^{said}") as refusal:
        parsing.parse(f"mlflow://{run.replace('RUN', server.run)}/rows.jsonl", FIELD, tmp_path).download(
            tmp_path, FIELD
        )
    assert "hunter2" not in str(refusal.value)


def test_a_store_of_artifacts_that_does_not_open_is_refused(server: Server, uri: str, tmp_path: Path) -> None:
    run = service.client(server.address).create_run(server.experiment).info.run_id
    with sqlite3.connect(server.store) as connection:
        connection.execute("UPDATE runs SET artifact_uri = 'quark://me:hunter2@host/x' WHERE run_uuid = ?", (run,))
    connection.close()
    with pytest.raises(
        SourceRefused, match=f"^params.yaml: data.uri: run {run}: rows.jsonl: MlflowException: "
    ) as refusal:
        parsing.parse(f"mlflow://{run}/rows.jsonl", FIELD, tmp_path).download(tmp_path, FIELD)
    assert "hunter2" not in str(refusal.value)
