"""Files that are damaged in a thousand ways: each gives rows or one clear refusal, never a traceback."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from checks.errors import DataRefused
from stages.loaders import table

ROWS: list[dict[str, Any]] = [
    {"prompt": f"naïve “request” {n}, or more\n", "reference": f"vm {n % 3}", "n": n} for n in range(12)
]
HUGE = 50 << 20  # characters of a cell
FILES = 1000  # of each format
PIECES = (
    b"\0",
    b'"',
    b"\n",
    b",",
    b"{",
    b"}",
    b"[",
    b"\xff\xfe",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"1e999",
    b"NaN",
    b"\r",
    b"PAR1",
)


def _jsonl(path: Path) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))


def _csv(path: Path) -> None:
    cells = [["prompt", "reference", "n"], *([row["prompt"], row["reference"], str(row["n"])] for row in ROWS)]
    path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in cells))


def _parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], None]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _damaged(whole: bytes, random: Random) -> bytes:
    """The bytes with one to three faults: cut, overwritten, repeated, or with something put in."""
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


def _load(folder: Path, suffix: str) -> str | None:
    """None for rows, or the refusal."""
    columns = {"prompt": "prompt", "reference": "reference"}
    loader = table.Table.model_validate({"kind": "table", "files": f"*{suffix}", "columns": columns})
    try:
        assert loader.load(folder)
    except DataRefused as refusal:
        return str(refusal)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_file_gives_rows_or_one_refusal_of_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    whole, random = path.read_bytes(), Random(18)
    refused = 0
    for number in range(FILES):
        path.write_bytes(_damaged(whole, random))
        said = _load(tmp_path, suffix)
        if said is not None:
            refused += 1
            assert said.startswith(path.name), f"file {number}: {said}"
            assert said.isprintable(), f"file {number}: {said!r}"
    assert FILES / 4 < refused < FILES  # so both ends of the rule were seen


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_cell_of_fifty_megabytes_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    huge = {"prompt": "x" * HUGE, "reference": "vm"}
    if suffix == ".parquet":
        columns = {name: pa.array([cell]) for name, cell in huge.items()}
        pq.write_table(pa.table(columns), path, use_dictionary=False, write_statistics=False)
    elif suffix == ".csv":
        path.write_text(f'prompt,reference\n"{huge["prompt"]}",vm\n')
    else:
        path.write_text(f'{{"prompt": "{huge["prompt"]}", "reference": "vm"}}')
    started = time.process_time()
    said = _load(tmp_path, suffix)
    assert said is not None
    assert said.startswith(f"rows{suffix}:")
    assert "rows are at most 1048576 long" in said
    assert time.process_time() - started < 1
