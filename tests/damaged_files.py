"""Files of rows with faults from a seed: JSONL, CSV and Parquet as no writer should make them, but as some arrive."""

import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from checks.config.params import Params
from checks.process.errors import DataRefused
from checks.records.rows import Row
from checks.storage import files, layout
from stages import survey
from stages.prepare import prepare
from tests.conftest import as_params, scaled_down

Values = dict[str, list[Any]]  # by column
SHAPES: tuple[dict[str, Any], ...] = (  # in which a loader can read these files
    {name: name for name in ("prompt", "reference", "id", "slice", "group")},
    {"prompt": "prompt", "reference": "reference", "extra": {"rejected": "worse"}},
    {"messages": "chat", "extra": {"rejected": "worse"}},
)
RULES = ("strip-control-characters", "collapse-white-space", "drop-empty-prompt", "drop-empty-reference")
DEEP, QUOTE = 1500, '"'
# Values as JSON has them. CSV takes their text as it is.
VALUES = (
    "1e999", "NaN", "-Infinity", "9" * 400, "9" * 5000, '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\u001b[2J"',
    '"\\u202e\\n\\r"', "null", "true", '""', '" "', "-0", "[]", "{}", "[[1, {}], null]", '{"a": "\\ud800"}',
    '{"a": 1e999}', '{"": {"": NaN}}', '{"a": 1, "a": 2}', "[" * 100 + "]" * 100, "[" * 220 + "]" * 220,
    "[" * 700 + "]" * 700, "[" * DEEP + "]" * DEEP, '{"a":' * 300 + "1" + "}" * 300, "[" * 100_000, f'"{"x" * 200_000}"',
    '[{"role": "user"}, {"role": "assistant", "content": "a"}]', '[{"role": ["user"], "content": "a"}]', '"[{"',
    '[{"role": "user", "content": {"a": []}}, {"role": "assistant", "content": "\\udfff"}]', '[null, 1, ["role"]]',
    '[{"role": "user", "content": "a", "\\ud800": 1}, {"role": "assistant", "content": 1e999}]',
)  # fmt: skip
PIECES = (
    b"\0", b'"', b"\n", b",", b"{", b"}", b"[", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\xed\xa0\x80", b"1e999",
    b"NaN", b"\r", b"\\", b"PAR1", b"\xff\xff\xff\x7f", b'"prompt": 1, ',
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp037", "utf-7")
ARRAYS: tuple[Callable[[int], Any], ...] = (
    lambda rows: pa.array([b"\xff\xfe"] * rows),
    lambda rows: pa.array(range(rows)),
    lambda rows: pa.array([float("nan")] * rows),
    lambda rows: pa.array([float("inf")] * rows),
    lambda rows: pa.nulls(rows),
    lambda rows: pa.array([[{"role": "user"}]] * rows),
    lambda rows: pa.array([2**62] * rows).cast(pa.timestamp("ns", "UTC")),
    lambda rows: pa.array([-(2**62)] * rows).cast(pa.timestamp("us")),
    lambda rows: pa.array([2**31 - 1] * rows, pa.int32()).cast(pa.date32()),
    lambda rows: pa.array([2**62] * rows).cast(pa.duration("s")),
    lambda rows: pa.array([2**62] * rows, pa.decimal128(38, 5)),
    lambda rows: pa.array(["a"] * rows).dictionary_encode(),
    lambda rows: pa.array([{"a": None}] * rows),
    lambda rows: pa.array([[("a", 1), ("a", 2)]] * rows, pa.map_(pa.string(), pa.int64())),
    lambda rows: pa.array([_nested(60)] * rows),
    lambda rows: pa.array(["x" * 200_000] * rows),
    lambda rows: pa.Array.from_buffers(  # text that is not UTF-8
        pa.string(), rows, [None, pa.py_buffer(pa.array(range(rows + 1), pa.int32()).buffers()[1]),
                            pa.py_buffer(b"\xff" * rows)],
    ),
)  # fmt: skip


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else 1


def _rows(count: int) -> Values:
    return {
        "prompt": [f"naïve “request” {n}, or more\n" for n in range(count)],
        "reference": [f"vm {n % 3}" for n in range(count)],
        "id": [f"id {n}" for n in range(count)],
        "slice": [f"part {n % 2}" for n in range(count)],
        "group": [f"owner {n}" for n in range(count)],
        "worse": [f"no vm {n}" for n in range(count)],
        "chat": [_chat(n) for n in range(count)],
    }


def _chat(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]


def _jsonl(rows: Values, random: Random, faults: int) -> bytes:
    lines = [[json.dumps(value) for value in values] for values in zip(*rows.values(), strict=True)]
    names = [json.dumps(name) for name in rows]
    for _ in range(faults):
        random.choice(lines)[random.randrange(len(names))] = random.choice(VALUES)
    text = "".join(
        f"{{{', '.join(f'{name}: {value}' for name, value in zip(names, line, strict=True))}}}\n" for line in lines
    )
    return text.encode()


def _csv(rows: Values, random: Random, faults: int) -> bytes:
    cells = ([value if isinstance(value, str) else json.dumps(value) for value in values] for values in rows.values())
    lines = [[*rows], *map(list, zip(*cells, strict=True))]
    for _ in range(faults):
        line = random.choice(lines)
        line[random.randrange(len(line))] = random.choice(VALUES)
    if faults and random.random() < 0.2:
        random.choice(lines).append("one more")
    mark = random.choice(";\t|,,,,") if faults else ","
    return "".join(mark.join(f'"{cell.replace(QUOTE, 2 * QUOTE)}"' for cell in line) + "\n" for line in lines).encode()


def _parquet(rows: Values, random: Random, faults: int) -> bytes:
    arrays, names = [pa.array(values) for values in rows.values()], [*rows]
    for _ in range(faults):
        arrays[random.randrange(len(arrays))] = random.choice(ARRAYS)(len(arrays[0]))
        if random.random() < 0.2:  # two columns of one name
            names[random.randrange(len(names))] = random.choice(names)
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names), stream, row_group_size=random.choice([3, 100]))
    return stream.getvalue()


WRITERS: dict[str, Callable[[Values, Random, int], bytes]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def damaged(suffix: str, random: Random) -> bytes:
    """A file of twelve rows with hostile values, or with bytes cut, changed, repeated or put in, or in another code."""
    if random.random() < 0.4:
        return WRITERS[suffix](_rows(12), random, random.randint(1, 2))
    whole = WRITERS[suffix](_rows(12), random, 0)
    if suffix != ".parquet" and random.random() < 0.1:
        return whole.decode().encode(random.choice(ENCODINGS), "replace")
    data = bytearray(whole)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + random.randint(1, 40)]
        elif kind == 2:
            data[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 3:
            data[at:at] = random.choice(PIECES)
        else:
            data[at:at] = data[at : at + random.randint(1, 200)]
    return bytes(data)


WAYS = tuple(range(len(SHAPES) + 1))  # to read a file: prepare for every shape, and the survey of `lockstep init`


def outcomes(root: Path, suffix: str, data: bytes, ways: Sequence[int] = WAYS) -> Iterator[str | None]:
    """The refusal, or None, of each of these ways to read a file."""
    path = root / layout.RAW / f"rows{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for number in ways:
        try:
            if number == len(SHAPES):
                survey.contents(path)
            else:
                prepare(_params(suffix, number), root)
                for name in layout.SPLIT_NAMES:
                    files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)
        except DataRefused as refusal:
            yield str(refusal)
        else:
            yield None


@functools.cache
def _params(suffix: str, shape: int) -> Params:
    value = scaled_down()
    loader: Mapping[str, Any] = {"kind": "table", "files": f"*{suffix}", "columns": SHAPES[shape]}
    value["prepare"] |= {"loader": loader, "rules": [*RULES, "drop-duplicates"]}
    value["validate"]["labels"] = None
    value["evaluate"]["base_prompt"]["labels"] = False
    return as_params(value)


def write_huge(path: Path, characters: int) -> None:
    """A file of one row, whose prompt has so many characters."""
    cell = "x" * characters
    if path.suffix == ".parquet":
        columns = {"prompt": pa.array([cell]), "reference": pa.array(["vm"])}
        pq.write_table(pa.table(columns), path, use_dictionary=False, write_statistics=False)
    elif path.suffix == ".csv":
        path.write_text(f'prompt,reference\n"{cell}",vm\n')
    else:
        path.write_text(f'{{"prompt": "{cell}", "reference": "vm"}}')
