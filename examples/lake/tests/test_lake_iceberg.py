"""Snapshots of Iceberg tables, in a real catalog: the same rows are the same bytes, and nothing else is read."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from checks.config.params import Source
from checks.process.errors import DataRefused, MachineRefused, Refusal, SourceRefused
from stages import sources
from stages.loaders import table as table_loader
from stages.sources import parsing

pytestmark = pytest.mark.slow

pytest.importorskip("pyiceberg")
FIELD = "data.uri"
Snapshots = dict[str, int]


def _rows(*numbers: int) -> pa.Table:
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return pa.table(
        {
            "question": [f"Frage {number} ü" for number in numbers],
            "kind": ["even" if number % 2 == 0 else "odd" for number in numbers],
            "at": pa.array([when for _ in numbers], pa.timestamp("us", tz="UTC")),
            "price": pa.array([decimal.Decimal("1.50") for _ in numbers], pa.decimal128(6, 2)),
        }
    )


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warehouse")


@pytest.fixture(scope="module")
def snapshots(warehouse: Path) -> Snapshots:
    """Snapshots of desk.tickets by what was done, the first of which has expired; after all, a column was renamed."""
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=warehouse.as_uri())
    for name in ("desk", "desk.old"):
        catalog.create_namespace(name)
    made: Snapshots = {}
    tickets = catalog.create_table("desk.tickets", schema=_rows(0).schema)
    for name, numbers in (("first", range(2)), ("five", range(2, 5)), ("nine", range(5, 9))):
        tickets.append(_rows(*numbers))
        made[name] = tickets.current_snapshot().snapshot_id
    tickets.delete("question == 'Frage 3 ü'")
    made["eight"] = tickets.current_snapshot().snapshot_id
    with tickets.update_schema() as update:
        update.rename_column("question", "asked")
    tickets.maintenance.expire_snapshots().by_id(made["first"]).commit()
    other = catalog.create_table("desk.old.other", schema=_rows(0).schema)
    other.append(_rows(*range(8, -1, -1)))
    made["other"] = other.current_snapshot().snapshot_id
    catalog.create_table("desk.empty", schema=_rows(0).schema)
    odd = catalog.create_table("desk.bytes", schema=pa.schema({"question": pa.binary()}))
    odd.append(pa.table({"question": [b"x"]}))
    made["bytes"] = odd.current_snapshot().snapshot_id
    lost = catalog.create_table("desk.lost", schema=_rows(0).schema)
    lost.append(_rows(0))
    made["lost"] = lost.current_snapshot().snapshot_id
    for path in warehouse.rglob("lost/data/*.parquet"):
        path.unlink()
    return made


@pytest.fixture(autouse=True)
def _catalog(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{warehouse}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", warehouse.as_uri())


def rows_of(uri: str, work: Path) -> list[dict[str, Any]]:
    work.mkdir(exist_ok=True)
    path, resumed = parsing.parse(uri, FIELD, work).download(work, FIELD)
    assert (path.name, resumed) == ("rows.jsonl", False)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_snapshot_has_its_own_rows_and_column_names(snapshots: Snapshots, tmp_path: Path) -> None:
    found = {
        name: rows_of(f"iceberg://lake/desk.tickets@{snapshots[name]}", tmp_path / "w")
        for name in ("five", "nine", "eight")
    }
    assert {name: len(rows) for name, rows in found.items()} == {"five": 5, "nine": 9, "eight": 8}
    assert found["five"][0] == {"at": "2026-01-01T00:00:00+00:00", "kind": "even", "price": "1.50", "question": "Frage 0 ü"}  # fmt: skip


def test_the_same_rows_are_the_same_bytes_however_the_files_are_cut(snapshots: Snapshots, tmp_path: Path) -> None:
    written = []
    for uri in (f"desk.tickets@{snapshots['nine']}", f"desk.old.other@{snapshots['other']}"):
        rows_of(f"iceberg://lake/{uri}", tmp_path / "w")
        written.append((tmp_path / "w/rows.jsonl").read_bytes())
    assert written[0] == written[1]


def test_a_pinned_snapshot_is_read_once_and_refused_if_it_is_not_as_pinned(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Source(uri=f"iceberg://lake/desk.tickets@{snapshots['five']}", sha256=None, license=None)
    with pytest.raises(SourceRefused, match=r"is not pinned; pin it: sha256: [0-9a-f]{64}$") as refusal:
        sources.bring(asked, "data", tmp_path)
    pin = str(refusal.value)[-64:]
    drifted = Source(uri=f"iceberg://lake/desk.tickets@{snapshots['nine']}", sha256=pin, license=None)
    (tmp_path / ".lockstep/downloads" / pin).rename(tmp_path / "aside")
    with pytest.raises(SourceRefused, match=rf"{pin} is pinned, but iceberg://lake/desk.tickets@\d+ is [0-9a-f]{{64}}"):
        sources.bring(drifted, "data", tmp_path)
    (tmp_path / "aside").rename(tmp_path / ".lockstep/downloads" / pin)
    monkeypatch.delenv("PYICEBERG_CATALOG__LAKE__URI")
    found = sources.bring(asked.model_copy(update={"sha256": pin}), "data", tmp_path)
    columns = table_loader.Columns(prompt="question", reference="kind")
    read = table_loader.Table(kind="table", files="*.jsonl", columns=columns)
    assert read.load(found.path.parent)[0].prompt == "Frage 0 ü"
    absent = read.model_copy(update={"columns": columns.model_copy(update={"prompt": "asked"})})
    with pytest.raises(DataRefused, match=r"rows.jsonl:1: has no column 'asked'; it has at, kind, price, question"):
        absent.load(found.path.parent)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("lake/desk.tickets@FIRST", r"desk.tickets in lake: has no snapshot \d+, or it has expired; name one that it has; the newest is EIGHT$"),
        ("lake/desk.tickets@5", "desk.tickets in lake: has no snapshot 5, or it has expired; name one that it has; the newest is EIGHT$"),
        ("lake/desk.tickets@9999999999999999999", "desk.tickets in lake: has no snapshot 9999999999999999999"),
        ("lake/desk.empty@5", "desk.empty in lake: has no snapshot 5, or it has expired; the table is empty$"),
        ("lake/desk.nope@5", "desk.nope in lake: there is no such table; check the names of namespace and table$"),
        ("lake/nope.tickets@5", "nope.tickets in lake: there is no such table"),
        ("lake/desk.bytes@BYTES", "row 1: a value of type bytes has no form in JSON"),
        ("lake/desk.lost@LOST", "desk.lost in lake: FileNotFoundError: .*; check that catalog and files can be reached"),
        ("lake/desk.tickets", "'iceberg://lake/desk.tickets' is not iceberg://CATALOG/NAMESPACE.TABLE@SNAPSHOT; write the catalog's name"),
        ("lake/tickets@5", "'iceberg://lake/tickets@5' is not iceberg://"),
        ("desk.tickets@5", "'iceberg://.*5' is not iceberg://"),
        ("lake/desk.tickets@main", "'iceberg://lake/desk.tickets@main' is not iceberg://"),
        ("me:hunter2@lake/desk.tickets@5", "'iceberg://lake/desk.tickets@5' is not iceberg://"),
    ],
)  # fmt: skip
def test_what_is_no_snapshot_with_rows_is_refused_on_one_line(
    snapshots: Snapshots, tmp_path: Path, rest: str, said: str
) -> None:
    for name, snapshot in snapshots.items():
        rest, said = rest.replace(name.upper(), str(snapshot)), said.replace(name.upper(), str(snapshot))
    with pytest.raises(SourceRefused, match=f"^params.yaml: data.uri: {said}") as refusal:
        rows_of(f"iceberg://{rest}", tmp_path / "w")
    assert str(refusal.value).isprintable()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        (None, MachineRefused, "catalog lake: is not configured here; set PYICEBERG_CATALOG__LAKE__URI, or write .pyiceberg.yaml$"),
        ("quark://me:hunter2@host/x", MachineRefused, "catalog lake: ValueError: Could not infer the catalog type from the uri: quark://host/x"),
        ("sqlite:////nowhere/x.db", SourceRefused, "desk.tickets in lake: OperationalError: .*unable to open database file"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/x", SourceRefused, "desk.tickets in lake: OperationalError: .*127.0.0.1"),
        ("http://me:hunter2@127.0.0.1:1", MachineRefused, "catalog lake: ConnectionError: "),
    ],
)  # fmt: skip
def test_a_catalog_that_does_not_open_is_refused_and_its_secrets_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, kind: type[Refusal], said: str
) -> None:
    monkeypatch.delenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE")
    monkeypatch.delenv("PYICEBERG_CATALOG__LAKE__URI")
    if address is not None:
        monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", address)
    with pytest.raises(kind, match=f"^params.yaml: data.uri: {said}") as refusal:
        rows_of("iceberg://lake/desk.tickets@5", tmp_path / "w")
    assert "hunter2" not in str(refusal.value)


def test_nothing_is_made_in_a_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(SourceRefused, match="no such table: iceberg_tables"):
        rows_of("iceberg://lake/desk.tickets@5", tmp_path / "w")
    connection = sqlite3.connect(tmp_path / "new.db")
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
