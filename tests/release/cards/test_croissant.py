"""croissant.json: what MLCommons' own library reads in it, and what is refused."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from checks.formats.data_reports import FetchReport, PrepareReport, SourceRows
from checks.process.errors import EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.cards import card_facts, card_record, croissant, writing
from release.cards.card_facts import CardFacts, Prose
from release.verbs.card import card
from tests import page_tree
from tests import promotion_tree as tree

if TYPE_CHECKING:
    import mlcroissant

pytestmark = pytest.mark.slow  # three releases are made

alone = tree.alone
SPLITS = {name: layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.copy(page_tree.ledger(), tmp_path / "work")


def read(path: Path, root: Path) -> "mlcroissant.Dataset":
    """The data set with the splits of ``root``, if mlcroissant finds no fault in it."""
    import mlcroissant

    return mlcroissant.Dataset(path, mapping={f"{name}.jsonl": root / split for name, split in SPLITS.items()})


def records(found: "mlcroissant.Dataset", name: str) -> list[dict[str, Any]]:
    """The rows of a record set, as texts below the last part of their names."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {key.rpartition("/")[2]: plain(each) for key, each in value.items()}
        return value.decode() if isinstance(value, bytes) else value

    return [plain(row) for row in found.records(name)]


def facts_with(facts: CardFacts, root: Path, licence: str | None) -> CardFacts:
    """A further source ``talk``: 7 rows of train, none of the other splits."""
    rows = files.read_jsonl(root / SPLITS["train"], Row)
    files.write_jsonl(
        root / SPLITS["train"], [*rows[7:], *(row.model_copy(update={"origin": "talk"}) for row in rows[:7])]
    )
    talk = facts.fetch.data.model_copy(update={"license": licence})
    counts = {name: split.rows for name, split in facts.prepare.splits.items()}
    few = {"train": 7, "valid": 0, "test": 0}
    main = {name: counts[name] - few[name] for name in counts}
    sources = {"main": SourceRows(read=103, splits=main), "talk": SourceRows(read=9, splits=few)}
    train = facts.prepare.splits["train"].model_copy(update={"sha256": digest.of_file(root / SPLITS["train"]).sha256})
    splits = {**facts.prepare.splits, "train": train}
    return facts._replace(
        fetch=FetchReport.model_validate(facts.fetch.model_copy(update={"sources": {"talk": talk}})),
        prepare=PrepareReport.model_validate(facts.prepare.model_copy(update={"sources": sources, "splits": splits})),
    )


def test_mlcroissant_reads_the_rows_and_the_counts(root: Path) -> None:
    path = card(root, root / writing.FOLDER)[3]
    found, prepare = read(path, root), files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    issues = found.metadata.ctx.issues
    assert not issues.errors
    assert {line.split('"')[1].rpartition("/")[2] for line in issues.warnings} == {"citeAs", "datePublished", "version"}
    for file, (name, split) in zip(found.metadata.distribution, SPLITS.items(), strict=True):
        its = digest.of_file(root / split)
        assert (file.name, f"sha256:{file.sha256}") == (f"{name}.jsonl", its.sha256)
        assert file.content_size == f"{(root / split).stat().st_size} B"
        assert [Row(**row) for row in records(found, name)] == files.read_jsonl(root / split, Row)
    (source,) = records(found, "lockstep/sources")
    assert (source["source"], source["license"], source["rows_read"]) == ("main", "MIT", prepare.input_rows)
    assert records(found, "lockstep/rules") == [
        {"rule": each.rule, "does": each.kind, "rows": each.rows} for each in prepare.rules
    ]
    assert [row["rows"] for row in records(found, "lockstep/splits")] == [60, 8, 40]
    named = {row["file"]: f"sha256:{row['sha256']}" for row in records(found, "lockstep/record")}
    for report in (layout.PREPARE_REPORT, layout.DATA_REPORT, layout.FETCH_REPORT):
        assert named[str(report)] == digest.of_file(root / report).sha256


def test_a_release_has_its_version_and_no_sizes_that_its_record_lacks(root: Path, tmp_path: Path) -> None:
    found = json.loads(card(root, tmp_path / "cards", "v0.1.0")[3].read_text())
    assert found["version"] == "0.1.0"
    assert not any("contentSize" in file for file in found["distribution"])


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("CC0-1.0", ["https://spdx.org/licenses/MIT", "https://spdx.org/licenses/CC0-1.0"]),
        ("mit", ["https://spdx.org/licenses/MIT"]),
        ("MIT AND ISC", ["https://spdx.org/licenses/MIT", "MIT AND ISC"]),
        ("gemma", ["https://spdx.org/licenses/MIT", "gemma"]),
        ("LicenseRef-Own", ["https://spdx.org/licenses/MIT", "LicenseRef-Own"]),
        (None, None),
    ],
)
def test_several_sources_have_their_rows_and_licences(
    root: Path, licence: str | None, wanted: list[str] | None
) -> None:
    facts = facts_with(card_record.gather(root, None), root, licence)
    path = root / "croissant.json"
    path.write_text(croissant.dataset(facts))
    found = read(path, root)
    assert found.metadata.license == wanted
    assert [row["origin"] for row in records(found, "train")] == [None] * 53 + ["talk"] * 7
    assert "origin" not in records(found, "test")[0]  # no row of the file has one
    sources = [(row["source"], row["rows_read"], row["rows_train"]) for row in records(found, "lockstep/sources")]
    assert sources == [("main", 103, 53), ("talk", 9, 7)]


def test_a_split_without_rows_is_a_file_without_a_record_set(root: Path) -> None:
    facts = card_record.gather(root, None)
    gone = facts.prepare.splits["valid"]
    splits = facts.prepare.splits | {"valid": gone.model_copy(update={"rows": 0, "groups": 0})}
    path = root / "croissant.json"
    path.write_text(croissant.dataset(facts._replace(prepare=facts.prepare.model_copy(update={"splits": splits}))))
    found = read(path, root).metadata
    assert [each.name for each in found.distribution] == ["train.jsonl", "valid.jsonl", "test.jsonl"]
    assert [each.name for each in found.record_sets][:3] == ["train", "test", "lockstep/sources"]


def test_people_may_say_what_no_record_knows(root: Path) -> None:
    facts = card_record.gather(root, None)
    said = {"creator": "A team", "url": "https://example.org/data", "date_published": "2026-11-26", "cite_as": "Team"}
    facts = facts._replace(data_prose=Prose(said, "Words."))
    made = writing.render(facts)
    assert "creator" not in made[writing.DATA]  # the hub's metadata has no such keys
    path = root / "croissant.json"
    path.write_text(made[writing.CROISSANT])
    found = read(path, root).metadata
    assert (found.creators[0].name, found.url, found.cite_as) == ("A team", "https://example.org/data", "Team")
    assert str(found.date_published) == "2026-11-26 00:00:00"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("creator: [a, b]", r"docs/cards/data\.md: creator is .*; write the name of an organisation"),
        ("creator: ''", "creator is ''"),
        ("url: example.org", "url is 'example.org'; write the address of a page"),
        ("date_published: last week", "date_published is 'last week'; write a day, such as"),
        ("date_published: '2026-13-01'", "date_published is '2026-13-01'"),
        ("language: ['a b']", "language is .*; write a language's code"),
        ("license: mit", "its front matter has license"),
    ],
)
def test_what_people_say_in_another_form_is_refused(root: Path, line: str, why: str) -> None:
    path = root / card_facts.DATA
    path.write_text(f"---\n{line}\n---\n## Where it comes from\n\nHere.\n\n## Limits\n\nMany.\n")
    with pytest.raises(EvidenceRefused, match=why):
        card(root, root / writing.FOLDER)
    assert not (root / writing.FOLDER).exists()


def test_metadata_older_than_the_record_is_refused(root: Path) -> None:
    path = card(root, root / writing.FOLDER)[3]
    path.write_text(path.read_text().replace('"lockstep/splits/rows": 60', '"lockstep/splits/rows": 61'))
    with pytest.raises(EvidenceRefused, match=r"reports/cards/croissant\.json: is older than its record"):
        card(root, root / writing.FOLDER, check=True)
