"""The statistics of validate: labels that may be wrong, lengths far from the others, scripts, and garbled text."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from checks.formats.data_reports import DataReport
from checks.records.rows import Row
from checks.storage import files, layout
from release.cards import data_page
from release.cards.data_page import gather as data
from stages.quality import label_noise, statistics
from stages.quality.rows_frames import Read
from stages.validate import validate
from tests import report_tree
from tests.stages.test_validate import _good, _params, _write
from tests.stages.test_validate import root as root  # a fixture

THINGS = {"vm": "machine disk image size", "sql": "database table query index", "dns": "zone record name server"}
Labelled = list[tuple[str, str, str]]  # request, label, group


def _requests() -> Labelled:
    """Twelve requests of each label, which its words tell."""
    return [
        (f"{one} the {two}", label, f"{label} {one} {two}")
        for label, words in THINGS.items()
        for one, two in product(("show", "list", "make"), words.split())
    ]


def _read(rows: Labelled) -> dict[str, Read]:
    where = [f"data/splits/train.jsonl:{line}" for line in range(1, len(rows) + 1)]
    requests, labels, groups = map(list, zip(*rows, strict=True))
    columns = {"where": where, "id": list(where), "group": groups}
    return {"train": Read(columns, labels, requests, [], {}, [], [""] * len(rows))}


def _suspects(rows: Labelled) -> list[tuple[int, str]]:
    found = label_noise.of(_read(rows), ())
    assert found is not None
    assert (found.judged, found.suspects) == (len(rows), len(found.rows))
    return [(int(row.where.rpartition(":")[2]) - 1, row.likelier) for row in found.rows]


@pytest.mark.slow
def test_only_wrong_labels_are_suspected_and_the_label_that_is_meant_is_named() -> None:
    rows = _requests()
    assert _suspects(rows) == []
    for place in (2, 17, 30):
        rows[place] = (rows[place][0], "sql" if rows[place][1] == "vm" else "vm", rows[place][2])
    assert sorted(_suspects(rows)) == [(2, "vm"), (17, "sql"), (30, "dns")]


@pytest.mark.slow
def test_rows_of_one_group_do_not_confirm_each_others_wrong_label() -> None:
    rows = _requests()
    wrong = [("show the disk", "dns", "of one group")] * 4
    assert {place for place, _ in _suspects([*rows, *wrong])} >= set(range(len(rows), len(rows) + 4))
    apart = [(request, label, str(place)) for place, (request, label, _) in enumerate(wrong)]
    assert not {place for place, _ in _suspects([*rows, *apart])} & set(range(len(rows), len(rows) + 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        [("show the disk", "vm", "a"), ("list the table", "sql", "b")],  # fewer groups than folds
        [(request, "vm", group) for request, _, group in _requests()],  # one label
        [("? !", label, group) for _, label, group in _requests()],  # no word
    ],
)
def test_where_nothing_can_be_told_nothing_is(rows: Labelled) -> None:
    assert label_noise.of(_read(rows), ()) is None


@pytest.mark.slow
def test_a_label_that_one_group_alone_has_is_not_judged() -> None:
    found = label_noise.of(_read([*_requests(), ("show the vault", "keyvault", "alone")]), ())
    assert found is not None
    assert (found.judged, found.suspects) == (36, 0)


@pytest.mark.parametrize(
    ("tokens", "bounds", "outliers"),
    [
        ([10] * 5, (10, 10), []),
        ([8, 9, 10, 11, 12] * 20, (6, 17), []),
        ([8, 9, 10, 11, 12] * 20 + [400, 1, 30], (6, 17), [400, 1, 30]),  # by the ratio to the median
        ([3] * 90 + [4] * 9 + [60], (3, 3), [60, *[4] * 9]),  # more than half are equal
    ],
)
def test_lengths_far_from_the_median_are_counted_and_the_furthest_listed(
    tokens: Sequence[int], bounds: tuple[int, int], outliers: Sequence[int]
) -> None:
    names = [str(place) for place in range(len(tokens))]
    found = statistics.lengths(names, names, tokens)
    assert (found.low, found.high) == bounds
    assert found.outliers == len(outliers)
    assert [row.tokens for row in found.rows] == outliers[: statistics.SHOWN]
    assert [tokens[int(row.where)] for row in found.rows] == outliers[: statistics.SHOWN]
    assert sum(each.rows for each in found.bins) == len(tokens)
    assert (found.bins[0].low, found.bins[-1].high) == (min(tokens), max(tokens))


@pytest.mark.parametrize(
    ("text", "script", "garbled"),
    [
        ("list the disks", "LATIN", None),
        ("Zeige «Größe» – naïve œuvre", "LATIN", None),
        ("CAFÉ» et «\xa0été\xa0»", "LATIN", None),
        ("покажи диски vm", "CYRILLIC", None),
        ("显示磁盘", "CJK", None),
        ("12 + 3", "none", None),
        ("naïve – request".encode().decode("cp1252"), "LATIN", "Ã¯"),
        ("café".encode().decode("latin-1"), "LATIN", "Ã©"),
        ("покажи".encode().decode("latin-1"), "LATIN", "Ð¿Ð¾Ð"),
        ("caf\ufffd", "LATIN", "caf\ufffd"),
    ],
)
def test_scripts_are_counted_and_garbled_text_is_shown(text: str, script: str, garbled: str | None) -> None:
    found = statistics.writing(["here", "there"], ["1", "2"], [text, "a"])
    assert script in found.scripts
    assert [row.where for row in found.others] == ([] if script == "LATIN" else [found.others[0].where])
    assert found.garbled == (garbled is not None)
    assert [row.shown[: len(garbled or "")] for row in found.garbled_rows] == ([garbled] if garbled else [])


@pytest.mark.slow
def test_validate_reports_them_and_neither_fails_nor_drops(root: Path) -> None:
    def spoil(splits: dict[str, list[Row]]) -> None:
        first = splits["train"][0]
        splits["train"][0] = first.model_copy(update={"reference": "sql"})

    seen = {}
    for case, params in (("labels", _params()), ("free text", _params(labels=None))):
        _write(root, _good(spoil))
        validate(params, root)
        report = files.read_json(root / layout.DATA_REPORT, DataReport)
        assert report.success
        assert sum(report.rows.values()) == 68
        assert report.statistics is not None
        seen[case] = report.statistics.labels
    assert seen["free text"] is None
    assert seen["labels"] is not None
    assert seen["labels"].judged == 68


@pytest.mark.slow
def test_text_and_page_show_them(tmp_path: Path) -> None:
    report_tree.pull_request(tmp_path / "pr")
    report_tree.bad_data(tmp_path / "pr", "<b>vm</b>")
    html = data_page.render(data(tmp_path / "pr"))
    for said in ("1 of 60 rows have a label", "train.jsonl:9", "LATIN 59, CYRILLIC 1", "train.jsonl:7", "90 tokens"):
        assert said in html
    assert "<b>vm" not in html
