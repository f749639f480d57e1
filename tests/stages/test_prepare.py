"""prepare: what the loaders read, what they refuse, and that no row is lost on the way to the splits."""

import csv
import json
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks.config.params import Params
from checks.data.drafts import Draft
from checks.formats.data_reports import PrepareReport
from checks.kinds.rule import RULES
from checks.process.errors import DataRefused, EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages.loaders import table
from stages.loaders.table import Table
from stages.prepare import prepare
from stages.splitting import Splitting
from tests.conftest import as_params

PAIR = {"prompt": "prompt", "reference": "reference"}

# --- rows of a team's own ---


def _raw(root: Path, name: str, content: bytes | str) -> Path:
    path = root / layout.RAW / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / layout.RAW


def _lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(files: str = "*", instruction: str | None = None, **columns: Any) -> Table:
    return Table.model_validate(
        {"kind": "table", "files": files, "columns": columns or PAIR, "instruction": instruction}
    )


def test_rows_of_all_formats_read_alike(tmp_path: Path) -> None:
    rows = [{"prompt": "Zähle 1,\n2 “x”", "reference": "sql", "n": 1}, {"prompt": "b", "reference": None, "n": 2}]
    raw = _raw(tmp_path, "a/rows.jsonl", "\ufeff" + _lines(rows) + "\n")
    _raw(tmp_path, "b/rows.csv", '\ufeffprompt,reference,n\r\n"Zähle 1,\n2 “x”",sql,1\r\nb,,2\r\n')
    pq.write_table(pa.Table.from_pylist(rows), raw / "rows.parquet")
    read = [(d.source, d.prompt, d.reference) for d in _table("**/*.*").load(raw)]
    first, second = ("Zähle 1,\n2 “x”", "sql"), ("b", "")
    assert read == [
        ("a/rows.jsonl:1", *first),
        ("a/rows.jsonl:2", *second),
        ("b/rows.csv:2", *first),
        ("b/rows.csv:4", *second),
        ("rows.parquet:1", *first),
        ("rows.parquet:2", *second),
    ]


def test_not_a_number_is_null_in_numbers_and_text_in_csv(tmp_path: Path) -> None:
    raw = _raw(tmp_path, "a.jsonl", '{"prompt": NaN, "reference": "a"}\n')
    _raw(tmp_path, "b.csv", "prompt,reference\nWhich country is NA?,NA\n")
    assert [(d.prompt, d.reference) for d in _table().load(raw)] == [("", "a"), ("Which country is NA?", "NA")]


def test_a_chat_keeps_its_turns_and_its_last_answer_is_the_reference(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "hi"), ("assistant", "yes?"), ("user", "list vms"), ("assistant", "vm")]
    chat = [{"role": role, "content": content} for role, content in turns]
    raw = _raw(tmp_path, "rows.jsonl", _lines([{"messages": chat}, {"messages": chat[1:3]}]))
    _raw(tmp_path, "text.csv", "messages\n" + '"' + json.dumps(chat).replace('"', '""') + '"\n')
    loaded = _table(instruction="Route.", messages="messages").load(raw)
    assert [(m.role, m.content) for m in loaded[0].messages] == turns[:-1]
    assert [(m.role, m.content) for m in loaded[1].messages] == [("system", "Route."), ("user", "hi")]
    assert [d.reference for d in loaded] == ["vm", "yes?", "vm"]


SAID = {"role": "assistant", "content": "vm"}
AS_TRL = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "list"}]}
CHATS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "ShareGPT": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "list"},
                           {"from": "gpt", "value": "vm", "loss": None}]},
        {"messages": "conversations"}, {},
    ),
    "prompt and completion of TRL": (AS_TRL | {"completion": [SAID]}, {"prompt": "prompt", "reference": "completion"}, {}),
    "chosen and rejected of TRL": (
        AS_TRL | {"chosen": [SAID], "rejected": [SAID | {"content": "disk"}]},
        {"prompt": "prompt", "reference": "chosen", "extra": {"rejected": "rejected"}}, {"rejected": "disk"},
    ),
    "chosen and rejected of TRL as whole chats": (
        {"chosen": [*AS_TRL["prompt"], SAID], "rejected": [AS_TRL["prompt"][1], SAID | {"content": "disk"}]},
        {"messages": "chosen", "extra": {"rejected": "rejected"}}, {"rejected": "disk"},
    ),
    "a column with system messages": (
        {"prompt": "list", "reference": "vm", "system": "Be brief."}, {**PAIR, "system": "system"}, {},
    ),
    "a column with system messages beside chats": (
        {"m": [AS_TRL["prompt"][1], SAID], "system": "Be brief."}, {"messages": "m", "system": "system"}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("shape", CHATS)
def test_chats_are_read_as_others_write_them(tmp_path: Path, shape: str, kind: str) -> None:
    row, columns, extra = CHATS[shape]
    raw = _raw(tmp_path, "rows.jsonl", _lines([row]))
    if kind == "parquet":
        (raw / "rows.jsonl").unlink()
        pq.write_table(pa.Table.from_pylist([row]), raw / "rows.parquet")
    loader = {"kind": "table", "files": "*", "columns": columns, "instruction": "Route."}
    (draft,) = table.Table.model_validate(loader).load(raw)
    assert [(each.role, each.content) for each in draft.messages] == [("system", "Be brief."), ("user", "list")]
    assert (draft.reference, draft.extra) == ("vm", extra)


def test_the_instruction_is_the_system_message_of_rows_whose_column_is_null(tmp_path: Path) -> None:
    raw = _raw(tmp_path, "r.jsonl", _lines([{**GOOD, "s": None}, {**GOOD, "s": "Be brief."}]))
    loaded = _table(**PAIR, system="s", instruction="Route.").load(raw)
    assert [draft.before[0].content for draft in loaded] == ["Route.", "Be brief."]


def test_id_slice_and_group_come_from_the_columns_that_are_named(tmp_path: Path) -> None:
    row = {"prompt": "a", "reference": "b", "key": 7, "kind": None, "owner": "me"}
    raw = _raw(tmp_path, "rows.jsonl", _lines([row]))
    (draft,) = _table(**PAIR, id="key", slice="kind", group="owner").load(raw)
    assert (draft.id, draft.slice, draft.group) == ("7", "all", "me")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_every_line_end_ends_a_row_of_csv_and_stays_in_a_quoted_cell(tmp_path: Path, end: str) -> None:
    text = f'\ufeffprompt,reference{end}a,b{end}"c{end}d",e\u2028f{end}'
    raw = _raw(tmp_path, "r.csv", text)
    with (raw / "r.csv").open(encoding="utf-8-sig", newline="") as stream:
        expected = [row for row in csv.reader(stream) if row][1:]
    assert [[draft.prompt, draft.reference] for draft in _table().load(raw)] == expected
    assert expected == [["a", "b"], [f"c{end}d", "e\u2028f"]]


LONG = 16 << 20  # characters: more than the test lets be held
TOO_LARGE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a CSV cell": ("r.csv", lambda: b"prompt,reference\na,b\n" + b"x" * LONG + b",y\n", "r.csv:3: a line of 16777219 bytes: rows"),
    "a CSV cell of many lines": ("r.csv", lambda: b'prompt,reference\n"' + b"x\n" * (LONG // 2) + b'",y\n', "r.csv:2: a cell of more than 1048576"),
    "a CSV header": ("r.csv", lambda: b"x" * LONG, "r.csv:1: a line of 16777216 bytes"),
    "a quote that is not closed": ("r.csv", lambda: b'prompt,reference\n"a,b\n' + b"c,d\n" * (LONG // 4), "r.csv:2: a cell of more than"),
    "a JSONL line": ("r.jsonl", lambda: b'{"prompt": "a", "reference": "b"}\n{"prompt": "' + b"x" * LONG + b'"}\n', "r.jsonl:2: a line of 16777231 bytes"),
    "a JSONL line without an end": ("r.ndjson", lambda: b"[" * LONG, "r.ndjson:1: a line of 16777216 bytes"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_row_that_no_model_reads_is_refused_without_being_held(tmp_path: Path, name: str) -> None:
    path, data, message = TOO_LARGE[name]
    raw = _raw(tmp_path, path, data())
    tracemalloc.start()
    try:
        with pytest.raises(DataRefused, match=f"^{re.escape(message)}"):
            _table().load(raw)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_rows_of_parquet_are_held_to_the_same_size(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * (index == 280) * (3 << 20), "reference": "b"} for index in range(300)]
    raw = tmp_path / "raw"
    raw.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), raw / "r.parquet", row_group_size=300)
    with pytest.raises(DataRefused, match=r"^r\.parquet:281: a row of 31457\d\d bytes: rows are at most 1048576"):
        _table().load(raw)
    pq.write_table(pa.Table.from_pylist(rows[280:281]), raw / "r.parquet")
    with pytest.raises(DataRefused, match=r"^r\.parquet:1: 1 rows of 31\d+ bytes from here"):
        _table().load(raw)
    shared = pa.table({"prompt": pa.array(["x" * 9000] * 600).dictionary_encode(), "reference": ["b"] * 600})
    pq.write_table(shared, raw / "r.parquet")
    assert len(_table().load(raw)) == 600


def test_a_line_of_rows_or_a_report_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.truncate(files.LARGEST + 1)
    with pytest.raises(EvidenceRefused, match=r"rows\.jsonl:1: a line of more than 16777216 bytes"):
        files.read_jsonl(path, Row)
    with pytest.raises(EvidenceRefused, match=r"67108865 bytes: a report has at most 67108864"):
        files.read_json(path, Row)


GOOD = {"prompt": "a", "reference": "b"}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
MALFORMED: dict[str, tuple[str, bytes | str, dict[str, Any], str]] = {
    "broken JSON": ("r.jsonl", _lines([GOOD]) + '{"prompt": ', PAIR, r"^r\.jsonl:2: is not JSON"),
    "a list": ("r.jsonl", "[1]\n", PAIR, r"^r\.jsonl:1: \[1\] is not an object"),
    "a key twice": ("r.jsonl", '{"prompt": "a", "prompt": "b"}', PAIR, r"^r\.jsonl:1: .*'prompt' is written twice"),
    "Latin-1": ("r.jsonl", b'{"prompt": "\xe4"}', PAIR, r"^r\.jsonl:1: is not UTF-8 at byte 12"),
    "half a character": ("r.jsonl", '{"prompt": "\\ud800", "reference": "b"}', PAIR, r":1: column 'prompt': .*half of a surrogate"),
    "a number": (
        "r.jsonl",
        _lines([GOOD, {**GOOD, "reference": 3}]),
        PAIR,
        r"^r\.jsonl:2: column 'reference': 3 is not text: write it as text, \"3\"; fix",
    ),
    "no such column": ("r.jsonl", _lines([{"prompt": "a"}]), PAIR, r"^r\.jsonl:1: has no column 'reference'; it has pro"),
    "no id column": ("r.jsonl", _lines([GOOD]), {**PAIR, "id": "key"}, r"^r\.jsonl:1: has no column 'key'"),
    "a null id": ("r.jsonl", _lines([{**GOOD, "key": None}]), {**PAIR, "id": "key"}, r":1: column 'key': is null"),
    "an id twice": (
        "r.jsonl",
        _lines([{**GOOD, "key": "x"}, {"prompt": "c", "reference": "d", "key": "x"}]),
        {**PAIR, "id": "key"},
        r"^r\.jsonl:2: id 'x' is taken by r\.jsonl:1",
    ),
    "an empty file": ("r.jsonl", "", PAIR, r"^r\.jsonl: holds no row"),
    "a header alone": ("r.csv", "prompt,reference\n", PAIR, r"^r\.csv: holds no row"),
    "a short row": ("r.csv", "prompt,reference\na,b\nc\n", PAIR, r"^r\.csv:3: 1 cells under 2 columns"),
    "an open quote": ("r.csv", 'prompt,reference\n"a,b\n', PAIR, r"^r\.csv:2: is not CSV"),
    "semicolons": (
        "r.csv",
        "prompt;reference\na, b;c\n",
        PAIR,
        r"^r\.csv:1: has one column, 'prompt;reference': semicolons seem to part its cells, and CSV means commas",
    ),
    "tabs": ("r.csv", "prompt\treference\na\tb\n", PAIR, r"^r\.csv:1: .*: tabs seem to part its cells, and CSV means"),
    "no text at all": ("r.jsonl", _lines([{**GOOD, "prompt": ["a"]}]), PAIR, r"^r\.jsonl:1: .*: \['a'\] is not text; fix"),
    "a yes": ("r.jsonl", _lines([{**GOOD, "reference": True}]), PAIR, r"True is not text: write it as text, \"true\";"),
    "a column twice": ("r.csv", "prompt,prompt\na,b\n", PAIR, r"^r\.csv:1: a column is named twice"),
    "Latin-1 cells": ("r.csv", b"prompt,reference\na,b\n\xe4,b\n", PAIR, r"^r\.csv:3: is not UTF-8 at byte 0"),
    "not Parquet": ("r.parquet", b"PAR1 and so on", PAIR, r"^r\.parquet: is not Parquet"),
    "a format unknown": ("r.xlsx", b"x", PAIR, r"^r\.xlsx: \.xlsx is not a known format; use one of \.csv, \.jsonl"),
    "no suffix": ("rows", b"x", PAIR, r"^rows: no suffix is not a known format"),
    "turns as text": ("r.jsonl", _lines([{"m": "hello"}]), {"messages": "m"}, r":1: column 'm': 'hello' is not a list"),
    "turns as a number": ("r.jsonl", _lines([{"m": 3}]), {"messages": "m"}, r":1: column 'm': 3 is not a list of turns"),
    "no turns": ("r.jsonl", _lines([{"m": []}]), {"messages": "m"}, r":1: column 'm': roles \[\] are not"),
    "no answer": ("r.jsonl", _lines([{"m": CHAT[:1]}]), {"messages": "m"}, r":1: column 'm': roles \['user'\] are not"),
    "two questions": ("r.jsonl", _lines([{"m": [CHAT[0], *CHAT]}]), {"messages": "m"}, r"roles \['user', 'user', 'ass"),
    "an unknown role": ("r.jsonl", _lines([{"m": [{"role": "tool", "content": "x"}, *CHAT]}]), {"messages": "m"}, r":1: column 'm': roles \['tool'"),
    "a turn that is a number": (
        "r.jsonl",
        _lines([{"m": [CHAT[0], {"role": "assistant", "content": 3}]}]),
        {"messages": "m"},
        r":1: column 'm': turn 2: content: 3 is not text: write it as text, \"3\";",
    ),
    "two system messages": (
        "r.jsonl", _lines([{"m": [{"role": "system", "content": "a"}, *CHAT], "s": "b"}]),
        {"messages": "m", "system": "s"}, r":1: column 's': has a system message, and so has the row's chat; fix",
    ),
    "a prompt that ends in an answer": (
        "r.jsonl", _lines([{"prompt": CHAT, "reference": "a"}]), PAIR,
        r":1: column 'prompt': roles \['user', 'assistant'\] are not: system or none, .* and the user last; fix",
    ),
    "more turns than a chat has": (
        "r.jsonl", _lines([{"m": CHAT * 129}]), {"messages": "m"}, r":1: column 'm': has 258 turns, and .* at most 256",
    ),
    "two answers": (
        "r.jsonl", _lines([{"prompt": "a", "reference": [CHAT[1]] * 2}]), PAIR,
        r":1: column 'reference': roles \['assistant', 'assistant'\] are not: one turn of the assistant; fix",
    ),
    "a worse answer to another chat": (
        "r.jsonl", _lines([{"m": CHAT, "no": [{"role": "user", "content": "b"}, CHAT[1]]}]),
        {"messages": "m", "extra": {"rejected": "no"}},
        r":1: column 'no': its turns before the last answer are not those of the row's prompt; fix",
    ),
    "a role of ShareGPT that is none": (
        "r.jsonl", _lines([{"m": [{"from": ["x"], "value": "a"}, {"from": "gpt", "value": "a"}]}]), {"messages": "m"},
        r":1: column 'm': roles \[None, 'assistant'\] are not: system",
    ),
    "a turn with a weight": (
        "r.jsonl", _lines([{"m": [CHAT[0], {**CHAT[1], "weight": 1}]}]), {"messages": "m"},
        r":1: column 'm': a turn has weight beside role and content and tool_calls; fix",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_row_is_refused_with_file_line_column_and_value(tmp_path: Path, fault: str) -> None:
    name, content, columns, message = MALFORMED[fault]
    with pytest.raises(DataRefused, match=message):
        _table(**columns).load(_raw(tmp_path, name, content))


def test_further_malformed_rows_are_listed(tmp_path: Path) -> None:
    raw = _raw(tmp_path, "r.jsonl", _lines([{**GOOD, "prompt": i} for i in range(9)]))
    with pytest.raises(
        DataRefused, match=r"^r\.jsonl:1: column 'prompt': 0 is not text: write it as text, \"0\" \(and 8 more\); fix"
    ) as caught:
        _table().load(raw)
    assert [line.split(": ")[0] for line in caught.value.others] == [f"r.jsonl:{i}" for i in range(2, 7)]


_NO_GLOB = "write a glob such as"  # Python 3.13 and later take ``**x`` for ``*x``.


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.csv", r"'\*\.csv' matches no file below .*raw; it holds rows\.jsonl"),
        ("../*.jsonl", "leaves the data source"),
        ("/etc/*", "leaves the data source"),
        (".", _NO_GLOB),
        ("**x/*", _NO_GLOB if sys.version_info < (3, 13) else "matches no file below"),
    ],
)
def test_a_glob_that_finds_nothing_or_leaves_the_data_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    raw = _raw(tmp_path, "rows.jsonl", _lines([GOOD]))
    with pytest.raises(DataRefused, match=message):
        _table(pattern).load(raw)


# --- the stage ---


@pytest.fixture
def configure(document: dict) -> Callable[..., Params]:
    def make(**change: Any) -> Params:
        document["prepare"] |= {
            "loader": _table("*.jsonl", "Route.", **PAIR).model_dump(),
            "rules": ["trim-ends", "drop-empty-prompt", "drop-empty-reference", "drop-duplicates"],
            "splits": {"valid": 0.1, "test": 0.25},
        } | change
        return as_params(document)

    return make


ROWS = [
    {"prompt": f"{verb} the {thing} {i:b}", "reference": thing}
    for thing in ("vm", "sql", "acr")
    for i, verb in enumerate(["Create", "Delete", "Show", "List all of", "Rename", "Restart", "Move", "Stop"] * 3)
]


def _read(root: Path) -> dict[str, list[Row]]:
    return {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in layout.SPLIT_NAMES}


def test_the_stage_writes_splits_and_a_report_that_is_about_them(
    tmp_path: Path, configure: Callable[..., Params]
) -> None:
    _raw(tmp_path, "rows.jsonl", _lines([*ROWS, ROWS[0], {"prompt": " ", "reference": "vm"}]))
    line = prepare(configure(), tmp_path)
    report, rows = files.read_json(tmp_path / layout.PREPARE_REPORT, PrepareReport), _read(tmp_path)
    assert report.raw == digest.of_tree(tmp_path / layout.RAW).digest
    assert (report.input_rows, report.kept_rows) == (74, 72)
    assert [(c.rule, c.rows, c.examples) for c in report.rules if c.rows] == [
        ("trim-ends", 1, ("rows.jsonl:74",)),
        ("drop-empty-prompt", 1, ("rows.jsonl:74",)),
        ("drop-duplicates", 1, ("rows.jsonl:73",)),
    ]
    for name, of_split in rows.items():
        assert report.splits[name].sha256 == digest.of_file(tmp_path / layout.SPLITS / f"{name}.jsonl").sha256
        assert report.splits[name].rows == len(of_split)
    shares = f"train {len(rows['train'])}, valid {len(rows['valid'])}, test {len(rows['test'])}"
    assert line == f"74 rows in, 72 kept ({shares}), 2 dropped: drop-empty-prompt 1, drop-duplicates 1"
    one = rows["train"][0]
    content = {"messages": [[m.role, m.content] for m in one.messages], "reference": one.reference}
    assert f"sha256:{one.id}" == digest.of_json(content)[:23]


def test_the_longest_prompt_is_as_the_parameters_say(tmp_path: Path, configure: Callable[..., Params]) -> None:
    _raw(tmp_path, "rows.jsonl", _lines(ROWS))
    line = prepare(configure(rules=["drop-long-prompt"], max_prompt_words=5), tmp_path)
    assert line.endswith(", 9 dropped: drop-long-prompt 9")  # List all of the vm 11


def test_the_same_rows_in_another_order_give_the_same_splits(tmp_path: Path, configure: Callable[..., Params]) -> None:
    seen = []
    for number in range(3):
        rows = [*ROWS, *ROWS[:9]]
        Random(number).shuffle(rows)
        _raw(tmp_path / str(number), "rows.jsonl", _lines(rows))
        prepare(configure(), tmp_path / str(number))
        read = _read(tmp_path / str(number))
        seen.append({name: [row.model_copy(update={"source": ""}) for row in read[name]] for name in read})
    assert seen[0] == seen[1] == seen[2]


REWRITTEN: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    # The fields of the loader, and of each row. ``{}`` stands for the row's own number.
    "another instruction": ({"instruction": "Name the team."}, {}),
    "a system message of each row": ({"system": "system"}, {"system": "Team {}."}),
    "preferences instead of answers": ({"extra": {"rejected": "worse"}}, {"worse": "no {}"}),
    "other references": ({}, {"reference": "corrected {}"}),
    "tools": ({"tools": "tools"}, {"tools": '[{{"type": "function", "function": {{"name": "f{}"}}}}]'}),
    "requests in capitals": ({}, {"prompt": "DELETE OR SHOW THE {} THING {}."}),
}


def _homes(root: Path, params: Params) -> dict[str, str]:
    """The split of each row, by where it is from."""
    prepare(params, root)
    return {row.source: name for name, rows in _read(root).items() for row in rows}


@pytest.mark.parametrize("change", REWRITTEN)
def test_what_is_no_part_of_the_request_moves_no_row_since_placing_2(
    tmp_path: Path, configure: Callable[..., Params], change: str
) -> None:
    columns, fields = REWRITTEN[change]
    numbers = [f"{i * 7919:x}" for i in range(200)]
    plain = [{"prompt": f"Delete or show the {n} thing {n}", "reference": f"answer {n}"} for n in numbers]
    other = [
        row | {name: text.format(n, n.upper()) for name, text in fields.items()}
        for n, row in zip(numbers, plain, strict=True)
    ]
    _raw(tmp_path / "one", "rows.jsonl", _lines(plain))
    _raw(tmp_path / "two", "rows.jsonl", _lines(other))
    instruction = columns.get("instruction", "Route.")
    extra = {name: column for name, column in columns.items() if name != "instruction"}
    homes = {}
    for placing in (1, 2):
        before = configure(placing=placing)
        after = configure(placing=placing, loader=_table("*.jsonl", instruction, **PAIR, **extra).model_dump())
        homes[placing] = _homes(tmp_path / "one", before), _homes(tmp_path / "two", after)
    assert homes[2][0] == homes[2][1]
    moved = sum(home == "test" != homes[1][0][source] for source, home in homes[1][1].items())
    assert moved > 20  # of 50


def test_without_a_placing_and_with_ids_of_the_owner_rows_stay_where_older_versions_put_them(
    tmp_path: Path, configure: Callable[..., Params], document: dict
) -> None:
    del document["prepare"]["placing"]
    _raw(tmp_path, "rows.jsonl", _lines([row | {"key": f"k{i}"} for i, row in enumerate(ROWS)]))
    by_id = _table("*.jsonl", "Route.", **PAIR, id="key").model_dump()
    homes = [
        _homes(tmp_path, configure(**change)) for change in ({}, {"loader": by_id}, {"loader": by_id, "placing": 2})
    ]
    assert [digest.of_json(each)[7:19] for each in homes] == ["694ef32009ee", "c8ce0fea4084", "c8ce0fea4084"]


def test_the_same_bytes_give_the_same_bytes(tmp_path: Path, configure: Callable[..., Params]) -> None:
    written = []
    for name in ("one", "two"):
        _raw(tmp_path / name, "rows.jsonl", _lines(ROWS))
        prepare(configure(), tmp_path / name)
        written.append([digest.of_tree(tmp_path / name / "data/splits"), digest.of_tree(tmp_path / name / "reports")])
    assert written[0] == written[1]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["List VMs", "list vms.", ""])


@pytest.mark.slow
@given(st.lists(st.tuples(TEXT, TEXT), max_size=30), st.lists(st.sampled_from(sorted(RULES.kinds)), unique=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_rows_are_conserved_and_groups_are_whole_for_any_rows_and_rules(
    configure: Callable[..., Params], pairs: list[tuple[str, str]], names: list[str]
) -> None:
    personal = {"detectors": ["email", "phone"]}
    config = configure(rules=[*names, *({"drop-duplicates"} - set(names))], personal_data=personal).prepare
    drafts = [Draft((), p, r, r, "all", f"f:{i}", id=str(i)) for i, (p, r) in enumerate(pairs)]
    kept, counts = Splitting(config).clean(drafts)
    assert len(drafts) == len(kept) + sum(count.rows for count in counts if count.kind == "drop")
    placed = {name: [each.row for each in of_split] for name, of_split in Splitting(config).split(kept).items()}
    assert sorted(row.id for rows in placed.values() for row in rows) == sorted(str(draft.id) for draft in kept)
    homes: dict[str, set[str]] = {}
    for name, rows in placed.items():
        for row in rows:
            homes.setdefault(row.group, set()).add(name)
    assert all(len(home) == 1 for home in homes.values())


def test_rows_that_no_rule_made_unique_are_refused(tmp_path: Path, configure: Callable[..., Params]) -> None:
    _raw(tmp_path, "rows.jsonl", _lines([*ROWS, ROWS[2]]))
    with pytest.raises(DataRefused, match=r"rows\.jsonl:73: same request .* as rows\.jsonl:3; add drop-duplicates"):
        prepare(configure(rules=[]), tmp_path)


def test_an_empty_split_is_refused_with_what_was_dropped(tmp_path: Path, configure: Callable[..., Params]) -> None:
    _raw(tmp_path, "rows.jsonl", _lines([ROWS[0]] * 3 + ROWS[1:3]))
    with pytest.raises(DataRefused, match=r"valid .*would be empty: 5 rows in, 3 kept.*drop-duplicates 2"):
        prepare(configure(), tmp_path)
    assert not (tmp_path / layout.PREPARE_REPORT).exists()


def test_absent_raw_data_is_refused(tmp_path: Path, params: Params) -> None:
    with pytest.raises(EvidenceRefused, match="data/raw: not a directory"):
        prepare(params, tmp_path)
