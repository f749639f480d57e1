"""data.contract: what the owner of the data says of its columns, held by prepare before anything is made of the rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from checks.config.params import Params
from checks.data import contract
from checks.formats.data_reports import PrepareReport
from checks.process.errors import DataRefused, SourceRefused
from checks.storage import digest, files, layout
from stages.prepare import prepare
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

FILE = "datasets/tickets.odcs.yaml"
ASK = r"ask the owner of the data: #tickets https://chat\.example/tickets; jane@example\.org \(Owner\)"


def _contract(*columns: dict[str, Any], quality: Any = None, **more: Any) -> dict[str, Any]:
    table = {"name": "tickets", "properties": list(columns)} | ({"quality": quality} if quality else {})
    return {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": "tickets", "version": "1.2.0", "status": "active",
        "description": {"purpose": "Routing"}, "schema": [table],
        "support": [{"channel": "#tickets", "url": "https://chat.example/tickets"}],
        "team": {"members": [{"username": "joe@example.org", "dateOut": "2026-01-01"},
                             {"username": "jane@example.org", "role": "Owner"}]},
    } | more  # fmt: skip


def _rows() -> list[dict[str, Any]]:
    """Sixty rows without a fault."""
    return [
        {
            "ticket": number, "question": f"How do I make the {number * 7919 % 1009} th disk of {chr(97 + number % 26) * 3}?",
            "team": ("vm", "sql", "dns")[number % 3], "score": number / 2, "open": number % 2 == 0,
            "closed": f"2026-01-{1 + number % 28:02}", "seen": f"2026-02-{1 + number % 28:02}T10:00:00Z",
            "tags": ["a"], "more": {"a": 1},
        }
        for number in range(60)
    ]  # fmt: skip


TEXT = {"name": "question", "logicalType": "string", "required": True}


def _quality(metric: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"metric": metric, "mustBe": 0, **more}]


def _valid(*values: str) -> list[dict[str, Any]]:
    return _quality("invalidValues", arguments={"validValues": list(values)})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / layout.RAW).mkdir(parents=True)
    (tmp_path / FILE).parent.mkdir()
    return tmp_path


def _params(
    root: Path, said: dict[str, Any] | str, suffix: str = ".jsonl", loader: Any = None, **change: Any
) -> Params:
    text = said if isinstance(said, str) else yaml.safe_dump(said)
    (root / FILE).write_text(text)
    document = scaled_down()
    columns = {"prompt": "question", "reference": "team"}
    document["data"]["contract"] = {"file": FILE, "sha256": digest.of_bytes(text.encode())[7:]} | change
    table = {"kind": "table", "files": f"*{suffix}", "columns": columns}
    document["prepare"] |= {"loader": loader or table, "rules": ["drop-duplicates"]}
    document["validate"]["labels"] = None
    document["evaluate"]["base_prompt"]["labels"] = False
    return as_params(document)


def _write(root: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> None:
    path = root / layout.RAW / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        lines = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
        path.write_text("\n".join(",".join(f'"{cell}"' for cell in line) for line in lines))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_that_keep_their_contract_are_prepared_and_the_report_names_it(root: Path, suffix: str) -> None:
    said = _contract(
        {"name": "ticket", "logicalType": "integer", "primaryKey": True, "logicalTypeOptions": {"minimum": 0}},
        TEXT | {"logicalTypeOptions": {"minLength": 5, "maxLength": 99, "pattern": "disk"}},
        {"name": "team", "quality": _valid("vm", "sql", "dns")},
        {"name": "score", "logicalType": "number", "logicalTypeOptions": {"exclusiveMaximum": 30}},
        {"name": "open", "logicalType": "boolean"},
        {"name": "closed", "logicalType": "date", "logicalTypeOptions": {"minimum": "2026-01-01"}},
        {"name": "seen", "logicalType": "timestamp", "logicalTypeOptions": {"maximum": "2026-03-01T00:00:00+01:00"}},
        quality=[{"metric": "rowCount", "mustBeGreaterThan": 50}],
    )
    _write(root, [{key: row[key] for key in row if key not in ("tags", "more")} for row in _rows()], suffix)
    prepare(_params(root, said, suffix), root)
    held = files.read_json(root / layout.PREPARE_REPORT, PrepareReport).contracts["main"]
    assert (held.id, held.version, held.rows) == ("tickets", "1.2.0", 60)
    assert held.sha256 == digest.of_file(root / FILE).sha256
    assert held.expectations == 18


@pytest.mark.parametrize(
    ("column", "row", "refused"),
    [
        ({"required": True}, {"team": None}, r"column 'team': null: must not be null"),
        ({"unique": True, "name": "ticket"}, {"ticket": 3}, r"column 'ticket': 3: must be unique"),
        ({"primaryKey": True, "name": "ticket"}, {"ticket": 3}, r"column 'ticket': 3: must be unique"),
        ({"logicalType": "integer", "name": "ticket"}, {"ticket": "7"}, r"column 'ticket': '7': must be of type integer"),
        ({"logicalType": "integer", "name": "ticket"}, {"ticket": True}, r"column 'ticket': true: must be of type integer"),
        ({"logicalType": "string"}, {"team": 5}, r"column 'team': 5: must be of type string"),
        ({"logicalType": "number", "name": "score"}, {"score": "x"}, r"column 'score': 'x': must be of type number"),
        ({"logicalType": "boolean", "name": "open"}, {"open": 1}, r"column 'open': 1: must be of type boolean"),
        ({"logicalType": "date", "name": "closed"}, {"closed": "31.1."}, r"column 'closed': '31\.1\.': must be of type date"),
        ({"logicalType": "timestamp", "name": "seen"}, {"seen": "now"}, r"column 'seen': 'now': must be of type timestamp"),
        ({"logicalType": "array", "name": "tags"}, {"tags": "a"}, r"column 'tags': 'a': must be of type array"),
        ({"logicalType": "object", "name": "more"}, {"more": []}, r"column 'more': \[\]: must be of type object"),
        ({"logicalType": "string", "logicalTypeOptions": {"maxLength": 3}}, {"team": "four"}, r"'four': must have maxLength 3"),
        ({"logicalType": "string", "logicalTypeOptions": {"pattern": "^([a-z]|[a-z][a-z])+$"}}, {"team": f"{'v' * 60}!"},
         r"v!': must match \^"),  # for which Python's own engine takes years
        ({"logicalType": "string", "logicalTypeOptions": {"pattern": "^[a-z]+$"}}, {"team": "V"}, r"'V': must match \^\[a-z\]"),
        ({"logicalType": "string", "logicalTypeOptions": {"pattern": "^[a-z]+$"}}, {"team": "v\ud800"}, r"must match \^\[a-z\]"),
        ({"logicalType": "number", "name": "score", "logicalTypeOptions": {"exclusiveMinimum": -1}}, {"score": -1},
         r"column 'score': -1: must have exclusiveMinimum -1"),
        ({"logicalType": "date", "name": "closed", "logicalTypeOptions": {"maximum": "2026-01-31"}}, {"closed": "2026-02-01"},
         r"'2026-02-01': must have maximum 2026-01-31"),
        ({"logicalType": "timestamp", "name": "seen", "logicalTypeOptions": {"minimum": "2026-02-01T10:00:00Z"}},
         {"seen": "2026-02-01T10:00:00+01:00"}, r"'2026-02-01T10:00:00\+01:00': must have minimum"),
        ({"quality": _valid("vm", "sql", "dns")}, {"team": "VM"},
         r"'VM': must be one of vm, sql, dns"),
        ({"quality": _quality("nullValues")}, {"team": None}, r"null: must not be null"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_the_contract_is_refused_with_its_place_and_whom_to_ask(
    root: Path, column: dict[str, Any], row: dict[str, Any], refused: str
) -> None:
    rows = _rows()
    rows[41] |= row
    _write(root, rows)
    with pytest.raises(
        DataRefused, match=rf"{refused}.* \(contract tickets 1\.2\.0\); fix the data source, or {ASK}"
    ) as found:
        prepare(_params(root, _contract({"name": "team"} | column)), root)
    said = [str(found.value), *found.value.others]
    assert any(line.startswith("rows.jsonl:42: ") for line in said)
    assert not (root / layout.PREPARE_REPORT).exists()


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (_contract(TEXT, {"name": "priority"}), "column 'priority': no row has it"),
        (_contract(TEXT, quality=[{"metric": "rowCount", "mustBeLessOrEqualTo": 59}]), "observed 60"),
        (_contract(TEXT, quality=[{"metric": "rowCount", "mustBeGreaterThan": bound} for bound in (60, 5)]), "observed 60"),
        (_contract(TEXT, quality=[{"metric": "rowCount", "mustBeLessThan": bound} for bound in (60, 99)]), "observed 60"),
        (_contract({"name": "team", "primaryKey": True}, {"name": "open", "primaryKey": True}),
         r"rows\.jsonl:1: must be unique in team, open"),
    ],
)  # fmt: skip
def test_what_is_said_of_the_whole_table_is_held_too(root: Path, said: dict[str, Any], refused: str) -> None:
    _write(root, _rows())
    with pytest.raises(DataRefused, match=refused):
        prepare(_params(root, said), root)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (_contract(TEXT, quallity=[]), "quallity: is not understood, so it would not be checked"),
        (_contract(TEXT | {"requird": True}), r"schema\[0\]\.properties\[0\]\.requird: is not understood"),
        (_contract(TEXT | {"relationships": []}), r"properties\[0\]\.relationships: is not understood"),
        (_contract(TEXT | {"logicalTypeOptions": {"format": "email"}}), r"logicalTypeOptions\.format: is not understood"),
        (_contract({"name": "a", "logicalTypeOptions": {"minimum": 1}}), r"logicalTypeOptions\.minimum: is not understood"),
        (_contract({"name": "a", "logicalType": "text"}), r"logicalType: 'text' is not understood; one of string, date"),
        (_contract(TEXT | {"required": "yes"}), r"required: 'yes' is not true or false"),
        (_contract(TEXT | {"quality": [{"type": "sql", "query": "SELECT 1"}]}), r"quality\[0\]\.query: is not understood"),
        (_contract(TEXT | {"quality": [{"type": "custom", "mustBe": 0}]}), r"quality\[0\]: type custom is not understood"),
        (_contract(TEXT | {"quality": _quality("missingValues")}), r"quality\[0\]: missingValues is not understood here"),
        (_contract(TEXT | {"quality": [{"metric": "nullValues", "mustBeLessThan": 5}]}), "nullValues is understood with mustBe: 0"),
        (_contract(TEXT | {"quality": _quality("nullValues", unit="percent")}), r"unit: 'percent' is not understood"),
        (_contract(TEXT, quality=[{"metric": "rowCount"}]), r"quality\[0\]: says no mustBe"),
        (_contract(TEXT, apiVersion="v2.2.2"), "kind and apiVersion: are not DataContract and v3"),
        (_contract(TEXT, schema=[]), "schema: has 0 tables"),
        (_contract(TEXT, dict(TEXT)), "has no column, or one twice"),
        (_contract(), "has no column, or one twice"),
        (_contract(TEXT, version=2), "version: is missing, or not text"),
        (_contract(TEXT | {"logicalType": ["string"]}), r"logicalType: \['string'\] is not understood"),
        (_contract(TEXT | {"quality": _quality(["nullValues"])}), r"quality\[0\]: \['nullValues'\] is not understood here"),
        (_contract(TEXT, quality=[{"metric": "rowCount", "mustBe": 5, "arguments": {"filter": "x"}}]), r"arguments\.filter: is not un"),
        (_contract(TEXT | {"quality": [*_valid("a"), *_valid("a", "b")]}), r"quality\[1\]: invalidValues is there twice"),
        ("a: [", "is not YAML"),
        ("id: a\nid: b", "id is written twice"),
        ("- a", "the file: is not a mapping"),
    ],
)  # fmt: skip
def test_what_would_be_a_check_and_is_not_understood_is_refused_by_name(
    said: dict[str, Any] | str, refused: str
) -> None:
    with pytest.raises(ValueError, match=refused):
        contract.parse(said if isinstance(said, str) else yaml.safe_dump(said))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"pattern": "["}, r"question: logicalTypeOptions\.pattern: '\[' is no regular expression of RE2: missing \]"),
        ({"pattern": "a{1,1001}"}, r"question: logicalTypeOptions\.pattern: .* of RE2: invalid repetition size"),
        (
            {"pattern": "a(?=b)"},
            r"question: logicalTypeOptions\.pattern: 'a\(\?=b\)' is no .* invalid perl operator: \(\?=",
        ),
        ({"pattern": None}, r"question: logicalTypeOptions\.pattern: None is no regular expression of RE2"),
        ({"minLength": "two"}, r"question: logicalTypeOptions\.minLength: 'two' is no integer"),
        ({"maxLength": 10**400}, r"question: logicalTypeOptions\.maxLength: 10{78}… is no integer"),
    ],
)
def test_a_bound_that_is_malformed_is_refused(root: Path, options: dict[str, Any], refused: str) -> None:
    _write(root, _rows())
    with pytest.raises(DataRefused, match=rf"datasets/tickets\.odcs\.yaml: {refused}"):
        prepare(_params(root, _contract(TEXT | {"logicalTypeOptions": options})), root)


def test_descriptions_are_ignored_and_text_for_people_is_no_check() -> None:
    quality = [{"type": "text", "description": "checked by hand"}]
    found = contract.parse(
        yaml.safe_dump(
            _contract(
                TEXT | {"quality": quality, "examples": ["a"], "physicalType": "VARCHAR(9)"}, price={}, servers=[]
            )
        )
    )
    assert found.columns == (contract.Column("question", "string", True, False, {}, None),)
    assert found.contacts == ("#tickets https://chat.example/tickets", "jane@example.org (Owner)")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (
            {"sha256": None},
            r"data\.contract\.sha256: datasets/tickets\.odcs\.yaml is not pinned; pin it: sha256: [0-9a-f]{64}",
        ),
        ({"sha256": "0" * 64}, r"data\.contract\.sha256: 0{64} is pinned, but datasets/tickets\.odcs\.yaml is "),
        ({"file": "../a.yaml"}, r"data\.contract\.file: '\.\./a\.yaml' is not in this repository"),
        ({"file": "no.yaml"}, r"data\.contract\.file: no\.yaml: No such file"),
    ],
)
def test_a_contract_is_pinned_by_its_digest(root: Path, change: dict[str, Any], refused: str) -> None:
    _write(root, _rows())
    with pytest.raises(SourceRefused, match=refused):
        prepare(_params(root, _contract(TEXT), **change), root)


def test_a_contract_for_another_loader_is_refused(root: Path) -> None:
    _write(root, _rows())
    params = _params(root, _contract(TEXT), loader=scaled_down()["prepare"]["loader"])
    with pytest.raises(DataRefused, match="is about the columns of a table, and the loader is azure-cli; remove it"):
        prepare(params, root)
