"""Files with faults of many kinds: each gives rows or one clear refusal, never a traceback, and nothing takes for ever."""

from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from checks.data import detectors
from checks.data.drafts import Draft
from checks.kinds.rule import all_rules
from checks.process.errors import DataRefused
from stages.loaders import table
from tests import damaged_files
from tests.conftest import as_params
from tests.effort import EXHAUSTIVE

pytestmark = pytest.mark.slow

HUGE = 50 << 20  # characters of a cell
FILES, MANY = 60, 1000 if EXHAUSTIVE else 250  # of each format


@pytest.mark.parametrize("suffix", damaged_files.WRITERS)
def test_a_damaged_file_gives_rows_or_one_refusal_of_one_line(tmp_path: Path, suffix: str) -> None:
    random, read, refused = Random(18), 0, 0
    for number in range(FILES):
        for said in damaged_files.outcomes(tmp_path, suffix, damaged_files.damaged(suffix, random)):
            read += said is None
            refused += said is not None
            assert said is None or (said.isprintable() and len(said) < 600), f"file {number}: {said!r}"
    assert min(read, refused) > FILES / 4  # so both ends of the rule were seen


@pytest.mark.parametrize("suffix", damaged_files.WRITERS)
def test_many_others_do_too_each_read_in_one_of_the_ways(tmp_path: Path, suffix: str) -> None:
    random, refused = Random(1018), 0
    for number in range(MANY):
        way = damaged_files.WAYS[number % len(damaged_files.WAYS)]
        (said,) = damaged_files.outcomes(tmp_path, suffix, damaged_files.damaged(suffix, random), [way])
        refused += said is not None
        assert said is None or (said.isprintable() and len(said) < 600), f"file {number}: {said!r}"
    assert MANY / 10 < refused < MANY * 9 / 10


@pytest.mark.parametrize(
    ("suffix", "fault", "said"),
    [
        (".jsonl", '{"a": "\\ud800"}', r"rows.jsonl:1: column 'worse': {'a': '\\ud800'} is not JSON"),
        (".jsonl", '"\\ud800"', r"rows.jsonl:1: column 'worse': '\\ud800' holds half of a surrogate pair"),
        (".jsonl", "[1e999]", r"rows.jsonl:1: column 'worse': \[inf\] is not JSON"),
        (
            ".jsonl",
            "[" * 220 + "]" * 220,
            r"rows.jsonl:1: column 'worse': \[{77}… is not JSON",
        ),  # jiter reads up to 200
        (".jsonl", "[" * 700 + "]" * 700, r"rows.jsonl:1: column 'worse': \[{77}… is not JSON"),
        (
            ".parquet",
            pa.array([2**62]).cast(pa.timestamp("us")),
            r"rows.parquet: has a time after row 0 that is out of",
        ),
        (".parquet", [float("inf")], r"rows.parquet:1: column 'worse': inf is not JSON"),
    ],
)
def test_a_value_that_no_split_can_hold_is_refused_where_it_stands(
    tmp_path: Path, suffix: str, fault: object, said: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"prompt": ["list"], "reference": ["vm"], "worse": fault}), path)
    else:
        path.write_text(f'{{"prompt": "list", "reference": "vm", "worse": {fault}}}')
    with pytest.raises(DataRefused, match=said):
        _table(suffix, extra={"rejected": "worse"}).load(tmp_path)


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    cells = [pa.array([text]) for text in ("list", "vm", "other")]
    pq.write_table(pa.Table.from_arrays(cells, ["prompt", "reference", "prompt"]), tmp_path / "rows.parquet")
    with pytest.raises(
        DataRefused, match=r"rows.parquet: a column is named twice: \['prompt', 'reference', 'prompt'\]"
    ):
        _table(".parquet").load(tmp_path)


@pytest.mark.parametrize("suffix", damaged_files.WRITERS)
def test_a_cell_of_fifty_megabytes_is_refused(tmp_path: Path, suffix: str) -> None:
    damaged_files.write_huge(tmp_path / f"rows{suffix}", HUGE)
    with pytest.raises(DataRefused, match=rf"^rows{suffix}:.* rows are at most 1048576 long"):
        _table(suffix).load(tmp_path)


@pytest.mark.timeout(60)  # a rule whose time grows with the square of the length takes minutes
@pytest.mark.parametrize("piece", [" ", "1 ", "a.", "a@", "(a", "\\\n"])
def test_no_rule_hangs_on_a_long_cell(piece: str, document: dict) -> None:
    document["prepare"]["personal_data"] = {"detectors": list(detectors.KINDS)}
    text = piece * ((1 << 18) // len(piece))
    draft = Draft((), text, text, text, "all", "rows.jsonl:1")
    known = [rule for rule in all_rules(as_params(document).prepare).values() if rule.among is None]
    assert {rule.finds(draft) for rule in known} == {True, False}


def _table(suffix: str, **columns: object) -> table.Table:
    pair = {"prompt": "prompt", "reference": "reference", **columns}
    return table.Table.model_validate({"kind": "table", "files": f"*{suffix}", "columns": pair})
