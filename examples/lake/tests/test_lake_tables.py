"""Rows of a database and of a table: the same rows are the same bytes, and nothing but rows is read."""

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy
from deltalake import DeltaTable, write_deltalake
from lockstep_lake import canonical

from checks.config.params import Source
from checks.process.errors import MachineRefused, Refusal, SourceRefused
from checks.storage import digest
from stages import sources
from stages.loaders.table import Columns, Table
from stages.sources import parsing, uris
from tests import postgres_service

pytestmark = pytest.mark.slow

FIELD = "data.uri"


def rows_of(uri: str, work: Path) -> list[dict[str, Any]]:
    work.mkdir(exist_ok=True)
    path, resumed = parsing.parse(uri, FIELD, work).download(work, FIELD)
    assert (path.name, resumed) == ("rows.jsonl", False)
    return [json.loads(line) for line in path.read_text().splitlines()]


def pin(uri: str, work: Path) -> str:
    rows_of(uri, work)
    return digest.of_file(work / "rows.jsonl").sha256


# --- the form of rows ---


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Zähle “1”\n", '"Zähle “1”\\n"'),
        (True, "true"),
        (7, "7"),
        (0.5, "0.5"),
        (None, "null"),
        (decimal.Decimal("1.50"), '"1.50"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (datetime.datetime(2026, 1, 2, 3), '"2026-01-02T03:00:00"'),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), '"2026-01-02T01:00:00+00:00"'),
        ({"b": [1, {"d": 1, "c": None}], "a": ""}, '{"a":"","b":[1,{"c":null,"d":1}]}'),
    ],
)  # fmt: skip
def test_each_value_has_one_form(tmp_path: Path, value: object, written: str) -> None:
    canonical.write([{"z": value, "a": 1}], None, tmp_path / "r", FIELD)
    assert (tmp_path / "r").read_text() == f'{{"a":1,"z":{written}}}\n'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"x", "row 1: a value of type bytes has no form in JSON; make it text or a number"),
        (float("nan"), "row 1: nan is no number of JSON"),
        ([float("inf")], "row 1: inf is no number of JSON"),
        (datetime.timedelta(1), "row 1: a value of type timedelta"),
        ({1: 2}, "row 1: 1 names no column"),
        ("\ud800", "row 1: .*surrogates not allowed"),
    ],
)
def test_a_value_without_a_form_is_refused_with_its_row(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(SourceRefused, match=f"^params.yaml: data.uri: {said}"):
        canonical.write([{"z": value}], None, tmp_path / "r", FIELD)


# --- sql:// ---


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server with two tables of the same rows, written in different orders."""
    with postgres_service.server() as address:
        engine = sqlalchemy.create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            for table, order in (("tickets", "i"), ("copies", "-i")):
                connection.exec_driver_sql(
                    f"CREATE TABLE {table} (id int, half int, question text, price numeric(6,2), at timestamptz, about jsonb, tags text[])"
                )
                connection.exec_driver_sql(
                    f"INSERT INTO {table} SELECT i, nullif(i / 2, 7), 'Frage ' || i || ' ü', i + 0.5, '2026-01-01 00:00+02', "
                    f"""'{{"b": 1, "a": [1]}}', ARRAY['x'] FROM generate_series(1, 2500) i ORDER BY {order}"""
                )
            connection.exec_driver_sql("CREATE SEQUENCE counter")
        yield address
        engine.dispose()


@pytest.fixture
def tickets(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TICKETS", database)
    return database


@pytest.mark.usefixtures("tickets")
def test_the_same_rows_of_a_database_are_the_same_bytes_in_any_order_and_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_, last = rows_of("sql://TICKETS/id SELECT * FROM tickets", tmp_path / "w")
    assert first == {
        "id": 1, "half": 0, "question": "Frage 1 ü", "price": "1.50", "at": "2025-12-31T22:00:00+00:00", "about": {"a": [1], "b": 1}, "tags": ["x"],
    }  # fmt: skip
    assert last["id"] == 2500  # by number, not by text
    same = {pin(f"sql://TICKETS/id SELECT * FROM {table}", tmp_path / "w") for table in ("tickets", "copies")}
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    assert same == {pin("sql://TICKETS/id WITH all_of AS (SELECT * FROM copies) SELECT * FROM all_of", tmp_path / "w")}
    assert [
        row["id"] for row in rows_of("sql://TICKETS/half,id SELECT id, half FROM copies WHERE id < 4", tmp_path / "w")
    ] == [1, 2, 3]
    assert (
        len(rows_of("sql://TICKETS/id SELECT id, price::text FROM tickets WHERE question LIKE '%7%'", tmp_path / "w"))
        == 637
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nope FROM tickets", 'TICKETS: UndefinedColumn: column "nope" does not exist.*; check the query'),
        ("SELECT id, 1 / (id - 3) FROM tickets", "TICKETS: DivisionByZero: division by zero"),
        ("SELECT question FROM tickets", "the query gives no column id, only question; select the key columns too"),
        ("SELECT half AS id FROM tickets WHERE half < 7", r"two rows have the key \(1,\); name key columns that tell all rows apart"),
        ("SELECT half AS id FROM tickets", "keys are null or of several types; name key columns that each row has"),
        ("SELECT id, id FROM tickets", "the query names a column twice: id, id; name each once, by AS"),
        ("SELECT id FROM tickets WHERE id < 0", "gives no row; fix the query"),
        ("SELECT id, '\\x00'::bytea AS b FROM tickets", "row 1: a value of type bytes has no form"),
        ("SELECT id FROM tickets FOR UPDATE", "TICKETS: ReadOnlySqlTransaction: cannot execute SELECT FOR UPDATE"),
        ("SELECT nextval('counter') AS id", r"TICKETS: ReadOnlySqlTransaction: cannot execute nextval\(\)"),
        ("WITH gone AS (DELETE FROM tickets RETURNING id) SELECT id FROM gone", "TICKETS: FeatureNotSupported: .*data-modifying"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("tickets")
def test_a_query_that_gives_no_rows_to_pin_or_writes_is_refused(tmp_path: Path, query: str, said: str) -> None:
    with pytest.raises(SourceRefused, match=f"^params.yaml: data.uri: {said}"):
        rows_of(f"sql://TICKETS/id {query}", tmp_path / "w")


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        (None, MachineRefused, r"the variable TICKETS is not set; set it to an address, such as postgresql://user:password@host/database"),
        ("my password is hunter2", MachineRefused, "TICKETS is no address of a database; write one"),
        ("postgresql://me:hunter2@[::/x", MachineRefused, "TICKETS is no address of a database; write one"),
        ("postgresql://me:hunter2@127.0.0.1:1/x", SourceRefused, "TICKETS: OperationalError: .*127.0.0.1.*; check the query, the address"),
        ("oracle://me:hunter2@host/x", MachineRefused, "TICKETS: ModuleNotFoundError: No module named '.*'; pip install .*, or the driver"),
        ("sqlite:////nowhere/x.db", SourceRefused, "TICKETS: OperationalError: unable to open database file"),
    ],
)  # fmt: skip
def test_an_address_that_does_not_open_is_refused_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, kind: type[Refusal], said: str
) -> None:
    monkeypatch.delenv("TICKETS", raising=False)
    if address is not None:
        monkeypatch.setenv("TICKETS", address)
    with pytest.raises(kind, match=f"^params.yaml: data.uri: {said}") as refusal:
        rows_of("sql://TICKETS/id SELECT 1 AS id", tmp_path / "w")
    assert "hunter2" not in str(refusal.value)


def test_a_wrong_password_is_not_shown(tmp_path: Path, tickets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS", tickets.replace("s3cr3t", "hunter2"))
    with pytest.raises(SourceRefused, match='password authentication failed for user "') as refusal:
        rows_of("sql://TICKETS/id SELECT 1 AS id", tmp_path / "w")
    assert "hunter2" not in str(refusal.value)


def test_another_kind_of_database_gives_the_same_bytes(
    tmp_path: Path, tickets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/x.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tickets (id int, question text)")
        for number in range(9, 0, -1):
            connection.exec_driver_sql("INSERT INTO tickets VALUES (?, ?)", (number, f"Frage {number} ü"))
    query = "SELECT id, question FROM tickets WHERE id < 10"
    there = pin(f"sql://TICKETS/id {query}", tmp_path / "w")
    monkeypatch.setenv("TICKETS", f"sqlite:///{tmp_path}/x.db")
    assert pin(f"sql://TICKETS/id {query}", tmp_path / "w") == there


def test_pinned_rows_are_asked_for_once(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS", database)
    asked = Source(uri="sql://TICKETS/id SELECT id, question FROM tickets", sha256=None, license=None)
    with pytest.raises(SourceRefused, match=r"is not pinned; pin it: sha256: [0-9a-f]{64}$") as refusal:
        sources.bring(asked, "data", tmp_path)
    asked = asked.model_copy(update={"sha256": str(refusal.value)[-64:]})
    monkeypatch.delenv("TICKETS")
    found = sources.bring(asked, "data", tmp_path)
    (draft, *_) = Table(
        kind="table", files="*.jsonl", columns=Columns(prompt="question", reference="question", id="id")
    ).load(found.path.parent)
    assert (draft.id, draft.prompt, draft.source) == ("1", "Frage 1 ü", "rows.jsonl:1")
    monkeypatch.setenv("TICKETS", database)
    other = asked.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(
        SourceRefused, match=r"0{64} is pinned, but sql://TICKETS/id SELECT id, question FROM tickets is [0-9a-f]{64}"
    ):
        sources.bring(other, "data", tmp_path)


# --- delta:// ---


def _table(*numbers: int) -> pa.Table:
    kinds = ["even" if number % 2 == 0 else "odd" for number in numbers]
    return pa.table({"question": [f"Frage {number} ü" for number in numbers], "kind": kinds})


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of a table: 0 has five rows, 1 nine, 2 the same in fewer files, 3 one less. Others are not to be read."""
    root = tmp_path_factory.mktemp("lake")
    write_deltalake(root / "t", _table(*range(5)), partition_by=["kind"])
    write_deltalake(root / "t", _table(*range(5, 9)), mode="append")
    DeltaTable(root / "t").optimize.compact()
    DeltaTable(root / "t").delete("question = 'Frage 3 ü'")
    write_deltalake(root / "other", _table(*range(8, -1, -1)))
    write_deltalake(root / "bytes", pa.table({"question": [b"x"]}))
    write_deltalake(root / "empty", _table(1))
    DeltaTable(root / "empty").delete()
    write_deltalake(root / "lost", _table(1))
    for path in (root / "lost").glob("*.parquet"):
        path.unlink()
    return root


def test_a_version_of_a_table_is_the_same_bytes_however_its_files_are_cut(lake: Path, tmp_path: Path) -> None:
    counts = [len(rows_of(f"delta://{lake}/t@{version}", tmp_path / "w")) for version in range(4)]
    assert counts == [5, 9, 9, 8]
    assert rows_of(f"delta://{lake}/t@3", tmp_path / "w")[0] == {"kind": "even", "question": "Frage 0 ü"}
    pins = [pin(f"delta://{lake}/{version}", tmp_path / "w") for version in ("t@1", "t@2", "other@0")]
    assert len(set(pins)) == 1
    assert parsing.parse("delta://tables/t@3", FIELD, lake) == parsing.parse(
        f"delta://{lake}/tables/t@3", FIELD, Path("/")
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("delta://LAKE/t@4", "LAKE/t: has no version 4; name one up to 3"),
        ("delta://LAKE/t@99999999999999999", "LAKE/t: has no version 99999999999999999; name one up to 3"),
        ("delta://LAKE/none@0", "LAKE/none@0: TableNotFoundError: "),
        ("delta://quark://x/y@0", "quark://x/y@0: TableNotFoundError: "),
        ("delta://LAKE/lost@0", "LAKE/lost@0: FileNotFoundError: "),
        ("delta://LAKE/empty@1", "gives no row; .*name the table's version that has rows"),
        ("delta://LAKE/bytes@0", "row 1: a value of type bytes has no form"),
        ("delta://LAKE/t", "'delta://LAKE/t' is not delta://TABLE@VERSION; write the table's path or URL, @ and its version"),
        ("delta://LAKE/t@-1", "'delta://LAKE/t@-1' is not delta://TABLE@VERSION"),
        ("delta://s3://key:hunter2@bucket/t@1", "'delta://s3://bucket/t@1' holds a user, a password or a query; leave the credentials to the environment"),
        ("delta://s3://bucket/t?key=hunter2@1", r"'delta://s3://bucket/t\?key=\*\*\*' holds a user"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused_on_one_line(lake: Path, tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(SourceRefused, match=f"^params.yaml: data.uri: {said.replace('LAKE', str(lake))}") as refusal:
        rows_of(uri.replace("LAKE", str(lake)), tmp_path / "w")
    assert "hunter2" not in str(refusal.value)
    assert str(refusal.value).isprintable()


# --- URIs ---


@pytest.mark.parametrize(
    "rest",
    [
        "", "TICKETS", "TICKETS/id", "TICKETS SELECT 1", "tickets/id SELECT 1", "TICKETS/ SELECT 1", "TICKETS/a b SELECT 1", "TICKETS/id DELETE FROM x",
        "TICKETS/id SELECT", "TICKETS/id, SELECT 1", "TICKETS/id SELECT 1; SELECT 2", "me:hunter2@host/db SELECT 1", "postgresql://me:hunter2@host/db SELECT 1",
    ],
)  # fmt: skip
def test_another_form_of_query_is_refused_without_what_it_hides(rest: str) -> None:
    with pytest.raises(SourceRefused, match=r"is not sql://VARIABLE/KEY SELECT …|holds a semicolon") as refusal:
        parsing.parse(f"sql://{rest}", FIELD, Path("/"))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "uri", ["sql://TICKETS/id SELECT a::text FROM t WHERE b LIKE '%@x?y=z'", "delta://a/t@3", "delta://s3://bucket/t@3"]
)
def test_what_hides_nothing_is_shown_as_it_is(uri: str) -> None:
    assert uris.redact(uri) == uri
    parsing.parse(uri, FIELD, Path("/"))
