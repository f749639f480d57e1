"""Several sources in one run: fetched apart, cleaned by the rules that fit them, mixed by shares, told apart everywhere."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import DatasetCard, ModelCard

from checks.config.data_sources import Part
from checks.evaluation import scoring
from checks.formats.data_reports import DataReport, FetchReport, PrepareReport, SourceRows
from checks.gates.license import LicenseGate
from checks.gating import chain
from checks.process.errors import DataRefused, ParamsRefused, SourceRefused
from checks.records.rows import Message, Row, of_tested_sources
from checks.storage import digest, files, layout
from release.cards import card_record, data_page, hub_metadata, writing
from release.cards.data_page import gather as data
from release.cli import main
from release.verbs.compare import compare
from stages.fetch import fetch
from stages.prepare import prepare
from stages.quality import labels
from stages.quality.rows_frames import Read
from stages.still_pinned import still_pinned
from stages.validate import validate
from tests import evidence_tree, page_tree, promotion_tree
from tests.conftest import CHAT_TEMPLATE, as_params

pytestmark = pytest.mark.slow

PAIR = {"prompt": "prompt", "reference": "reference"}
VERBS = ["Create", "Delete", "Show", "List all of", "Rename", "Restart", "Move", "Stop"]
MAIN = [
    {"prompt": f"{verb} the {thing} {number:b}", "reference": thing, "kind": verb.split()[0]}
    for thing in ("vm", "sql", "acr")
    for number, verb in enumerate(VERBS * 3)
]
TALK = [
    {"prompt": f"What is the {word} of {word * 2}?", "reference": f"It is {word}."} for word in map(str, range(70, 100))
]
MORE = [
    {"prompt": f"Please mend my {thing}", "reference": thing}
    for thing in ("boat", "shoe", "desk", "lamp", "door", "fork", "coat", "sofa")
]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def source(**change: Any) -> dict[str, Any]:
    """A further source of JSON lines."""
    loader = {"kind": "table", "files": "*.jsonl", "columns": PAIR}
    return {"uri": "rows", "sha256": None, "license": "MIT", "loader": loader} | change


Configure = Callable[..., dict[str, Any]]


@pytest.fixture
def configure(document: dict) -> Configure:
    """Parameters of rows that a test writes, with further sources."""

    def make(rules: list[str] | None = None, **sources: dict[str, Any]) -> dict[str, Any]:
        document["prepare"] |= {
            "loader": {"kind": "table", "files": "*.jsonl", "columns": {**PAIR, "slice": "kind"}},
            "rules": rules or ["trim-ends", "drop-empty-prompt", "drop-empty-reference", "drop-duplicates"],
            "splits": {"valid": 0.1, "test": 0.25},
        }
        document["data"] = {"uri": "main.jsonl", "sha256": None, "license": "MIT"} | (
            {"sources": sources} if sources else {}
        )
        return document

    return make


def put(root: Path, **rows: list[Any]) -> None:
    """Raw data as fetch writes it: one source as it is, several each in its folder."""
    for name, of_source in rows.items():
        path = root / layout.RAW / (f"{name}/rows.jsonl" if len(rows) > 1 else "rows.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(of_source))


def prepared(root: Path, document: dict[str, Any]) -> tuple[dict[str, list[Row]], PrepareReport]:
    prepare(as_params(document), root)
    rows = {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in layout.SPLIT_NAMES}
    return rows, files.read_json(root / layout.PREPARE_REPORT, PrepareReport)


def counted(report: PrepareReport) -> dict[str, int]:
    return {rule.rule: rule.rows for rule in report.rules if rule.rows}


# --- params.yaml ---


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"main": source()}, r"data: sources\.main: this name means the source of data\.uri; choose another name"),
        (
            {"a": source(share=0.6), "b": source(share=0.4)},
            r"shares add up to 1; leave rows to the sources without a share",
        ),
        ({"a": source(share=1.0)}, r"data\.sources\.a\.share: 1\.0; input should be less than 1"),
        ({"a": source(splits=["valid"])}, r"data\.sources\.a\.splits\.0: 'valid'; input should be 'train' or 'test'"),
        ({"a": source(splits=["train", "test"])}, r"data\.sources\.a\.splits: a list; .*at most 1 item"),
        (
            {"a": source(splits=["test"]), "b": source(splits=["test"])},
            r"a and b would each be the whole test split; leave \[test\] to one of them",
        ),
        (
            {"a": source(splits=["test"], share=0.1)},
            r"share: counts train rows, and its rows are for testing; remove it",
        ),
        (
            {"a": source(review="labels/harvest/production.json")},
            r"splits: null, but harvested rows are for one split; write \[train\] or \[test\]",
        ),
        (
            {"a": source(splits=["test"], loader={"kind": "documents", "files": "*.md", "column": None})},
            r"splits: \[test\], but documents are for training only",
        ),
        ({"a": source(splits=[])}, r"data\.sources\.a\.splits: a list; .*at least 1 item"),
        ({"a": source(skip_rules=["drop-all"])}, r"data\.sources\.a\.skip_rules\.0: 'drop-all'; input should be"),
        (
            {"a": source(loader={"kind": "tabel"})},
            r"data\.sources\.a\.loader\.kind: unknown loader 'tabel'; one of: canaries, documents, table, azure-cli",
        ),
        ({"A b": source()}, r"data\.sources\.A b"),
        ({"a": source(weight=2)}, r"data\.sources\.a\.weight: unknown key"),
        ({"a": {"uri": "rows"}}, r"data\.sources\.a\.sha256: missing"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(configure: Configure, sources: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsRefused, match=said):
        as_params(configure(**sources))


def test_no_source_at_all_is_refused(configure: Configure) -> None:
    document = configure()
    document["data"]["sources"] = {}
    with pytest.raises(ParamsRefused, match=r"data\.sources: a mapping; .*at least 1 item"):
        as_params(document)


# --- fetch ---


@pytest.fixture
def fetched(configure: Configure, tmp_path: Path) -> dict[str, Any]:
    """Parameters with a base, which nobody reads here, and two sources that are there and pinned."""
    base = tmp_path / "model"
    base.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).write_text("{}")
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (tmp_path / "main.jsonl").write_text(lines(MAIN))
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk/rows.jsonl").write_text(lines(TALK))
    (tmp_path / "talk/README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    document = configure(talk=source(uri="talk", license="CC0-1.0"))
    document["base"] |= {"uri": "model", "sha256": digest.of_tree(base).digest[7:]}
    document["data"]["sha256"] = digest.of_file(tmp_path / "main.jsonl").sha256[7:]
    document["data"]["sources"]["talk"]["sha256"] = digest.of_tree(tmp_path / "talk").digest[7:]
    return document


def test_each_source_has_its_folder_and_all_have_one_digest(fetched: dict[str, Any], tmp_path: Path) -> None:
    said = fetch(as_params(fetched), tmp_path)
    raw = tmp_path / layout.RAW
    assert sorted(p.relative_to(raw).as_posix() for p in raw.rglob("*") if p.is_file()) == [
        "main/main.jsonl",
        "talk/README.md",
        "talk/rows.jsonl",
    ]
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert report.data.digest == digest.of_tree(raw).digest
    assert report.sources["talk"].digest == digest.of_tree(raw / "talk").digest
    assert (report.sources["talk"].license, report.sources["talk"].declared) == ("CC0-1.0", "cc0-1.0")
    assert list(report.all_data) == ["main", "talk"]
    assert "data.sources.talk 2 files" in said
    assert still_pinned(as_params(fetched), tmp_path).endswith("data as pinned, data.sources.talk as pinned")
    rows, _ = prepared(tmp_path, fetched)
    assert {row.origin for of_split in rows.values() for row in of_split} == {"", "talk"}


def test_a_source_that_is_taken_out_leaves_nothing(fetched: dict[str, Any], tmp_path: Path) -> None:
    fetch(as_params(fetched), tmp_path)
    del fetched["data"]["sources"]
    fetch(as_params(fetched), tmp_path)
    assert [p.name for p in (tmp_path / layout.RAW).iterdir()] == ["main.jsonl"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, r"data\.sources\.talk\.sha256: 0{64} is pinned, but talk is [0-9a-f]{64}"),
        ({"sha256": None}, r"data\.sources\.talk\.sha256: talk is not pinned; pin it: sha256: [0-9a-f]{64}"),
        ({"uri": "tolk"}, r"data\.sources\.talk\.uri: .*/tolk: no such file or folder; did you mean talk\?"),
        ({"uri": "data/raw"}, r"data\.sources\.talk\.uri: 'data/raw' overlaps data/raw, which fetch replaces"),
        ({"uri": "pypi://talk"}, r"data\.sources\.talk\.uri: 'pypi://talk' is not pypi://package==version"),
    ],
)
def test_a_source_that_is_not_as_pinned_is_named_and_leaves_no_output(
    fetched: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    fetched["data"]["sources"]["talk"] |= change
    with pytest.raises(SourceRefused, match=said):
        fetch(as_params(fetched), tmp_path)
    assert not (tmp_path / layout.RAW).exists()
    assert not (tmp_path / layout.FETCH_REPORT).exists()


# --- prepare ---


def test_a_source_for_training_alone_changes_no_byte_of_valid_and_test(configure: Configure, tmp_path: Path) -> None:
    put(tmp_path / "one", main=MAIN)
    alone, before = prepared(tmp_path / "one", configure())
    held_out = alone["test"][0].prompt
    like = [
        {"prompt": f" {held_out} !", "reference": "x"},
        {"prompt": alone["train"][0].prompt.upper() + "!", "reference": "x"},
        {"prompt": [  # a chat that would teach what is tested
            {"role": "user", "content": held_out}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": "And where do I find out what became of it?"},
        ], "reference": "x"},
    ]  # fmt: skip
    put(tmp_path / "two", main=MAIN, talk=[*TALK, *like, TALK[0], {"prompt": " ", "reference": "a"}])
    rows, report = prepared(tmp_path / "two", configure(talk=source(splits=["train"])))
    for name in ("valid", "test"):
        assert (tmp_path / f"one/data/splits/{name}.jsonl").read_bytes() == (
            tmp_path / f"two/data/splits/{name}.jsonl"
        ).read_bytes()
    taught = [row for row in rows["train"] if row.origin]
    assert [row for row in rows["train"] if not row.origin] == alone["train"]
    assert {row.prompt for row in taught} == {row["prompt"] for row in TALK}
    assert {(row.origin, row.slice) for row in taught} == {("talk", "talk")}
    assert all(re.fullmatch(r"talk/rows\.jsonl:\d+", row.source) for row in taught)
    assert counted(report) == {
        "trim-ends": 2,
        "drop-empty-prompt": 1,
        "drop-duplicates": 1,
        "drop-row-of-other-source": 3,
    }
    assert {name: (one.read, one.splits) for name, one in report.sources.items()} == {
        "main": (72, {name: len(of_split) for name, of_split in alone.items()}),
        "talk": (35, {"train": 30, "valid": 0, "test": 0}),
    }
    assert before.sources == {}
    assert "sources" not in json.loads((tmp_path / "one" / layout.PREPARE_REPORT).read_text())
    assert of_tested_sources(rows["train"], rows["test"]) == alone["train"]


def test_a_source_that_is_the_test_split_moves_no_row_of_train_and_valid_but_those_like_its_own(
    configure: Configure, tmp_path: Path
) -> None:
    put(tmp_path / "one", main=MAIN, talk=TALK)
    before, _ = prepared(tmp_path / "one", configure(talk=source(splits=["train"])))
    put(tmp_path / "two", main=MAIN, talk=TALK, fresh=[*MORE, MORE[0], {"prompt": " ", "reference": "a"}])
    sources = {"talk": source(splits=["train"]), "fresh": source(splits=["test"])}
    rows, report = prepared(tmp_path / "two", configure(**sources))
    assert {name: rows[name] for name in ("train", "valid")} == {name: before[name] for name in ("train", "valid")}
    assert {row.prompt for row in rows["test"]} == {row["prompt"] for row in MORE}
    assert {(row.origin, row.slice) for row in rows["test"]} == {("fresh", "all")}
    assert counted(report) == {
        "trim-ends": 1, "drop-empty-prompt": 1, "drop-duplicates": 1, "replace-test": len(before["test"]),
    }  # fmt: skip
    assert report.sources["main"].splits["test"] == 0
    assert of_tested_sources(rows["train"], rows["test"]) == of_tested_sources(before["train"], before["test"])

    held_out, learned = (next(row for row in before[name] if not row.origin).prompt for name in ("valid", "train"))
    like = [
        {"prompt": f" {held_out} !", "reference": "x"},
        {"prompt": f" {learned} !", "reference": "x"},
        {"prompt": f"{TALK[0]['prompt']} !", "reference": "x"},
    ]
    put(tmp_path / "three", main=MAIN, talk=TALK, fresh=[*MORE, *like])
    rows, report = prepared(tmp_path / "three", configure(**sources))
    assert len(rows["test"]) == len(MORE) + 3
    gone = {held_out, learned, TALK[0]["prompt"]}
    for name in ("train", "valid"):
        assert [row.prompt for row in rows[name]] == [row.prompt for row in before[name] if row.prompt not in gone]
    assert counted(report) == {"trim-ends": 2, "replace-test": len(before["test"]), "drop-row-of-other-source": 3}


def test_rows_of_a_fresh_test_split_that_are_nearly_alike_are_one_cluster(configure: Configure, tmp_path: Path) -> None:
    prompt = "Which of our many services keeps the messages of last {} for the auditors of the bank"
    alike = [{"prompt": prompt.format(word), "reference": "x"} for word in ("week", "weeks")]
    put(tmp_path, main=MAIN, fresh=[*MORE, *alike])
    rows, _ = prepared(tmp_path, configure(fresh=source(splits=["test"])))
    groups = Counter(row.group for row in rows["test"])
    (joined,) = {row.group for row in rows["test"] if row.prompt in {line["prompt"] for line in alike}}
    assert {group: count for group, count in groups.items() if count > 1} == {joined: 2}


def test_a_new_label_of_the_test_split_must_be_taught_by_some_source() -> None:
    part = {name: Part(name, Path(), None, frozenset(), name or None, None) for name in ("", "train", "test")}  # type: ignore[arg-type]

    def read(*rows: tuple[str, str]) -> Read:
        return Read({}, [answer for answer, _ in rows], [], [], {}, [], [origin for _, origin in rows])

    old = read(("vm", ""))
    replay, taught = ("Hello there", "train"), ("sql", "train")
    splits = {"train": read(("vm", ""), replay, taught), "valid": old, "test": read(("vm", "test"), ("sql", "test"))}
    every = list(part.values())
    assert labels.compared(splits, every) == {"train": ["vm", "sql"], "test": ["vm", "sql"]}
    untaught = splits | {"train": read(("vm", ""), replay)}
    assert labels.compared(untaught, every) == {"train": ["vm"], "test": ["vm", "sql"]}
    assert labels.compared(splits | {"test": old}, [part[""], part["train"]]) == {
        key: ["vm"] for key in layout.SPLIT_NAMES
    }


def test_rows_of_an_owners_group_that_is_held_out_are_not_taught(configure: Configure, tmp_path: Path) -> None:
    mine = [row | {"owner": str(number % 9)} for number, row in enumerate(MAIN)]
    document = configure(talk=source(splits=["train"]))
    document["prepare"]["loader"]["columns"]["group"] = "owner"
    document["prepare"]["near_duplicates"]["similarity"] = 1.0
    document["data"]["sources"]["talk"]["loader"]["columns"] = {**PAIR, "group": "owner"}
    put(tmp_path, main=mine, talk=[row | {"owner": str(number % 9)} for number, row in enumerate(TALK)])
    rows, _ = prepared(tmp_path, document)
    owner = {row["prompt"]: row["owner"] for row in mine} | {
        row["prompt"]: str(number % 9) for number, row in enumerate(TALK)
    }
    held_out = {owner[row.prompt] for name in ("valid", "test") for row in rows[name]}
    taught = {owner[row.prompt] for row in rows["train"] if row.origin}
    assert held_out
    assert taught == set(map(str, range(9))) - held_out


def test_another_source_is_trained_on_and_tested_and_is_a_slice(configure: Configure, tmp_path: Path) -> None:
    same = [{"prompt": MAIN[0]["prompt"], "reference": "vm"}, {"prompt": MAIN[1]["prompt"] + " !", "reference": "vm"}]
    put(tmp_path, main=MAIN, talk=[*TALK, *same])
    rows, report = prepared(tmp_path, configure(talk=source()))
    homes = {name: Counter(row.origin for row in of_split) for name, of_split in rows.items()}
    assert all(homes[name]["talk"] and homes[name][""] for name in rows)
    assert homes["test"]["talk"] == report.sources["talk"].splits["test"]
    assert {row.slice for of_split in rows.values() for row in of_split if row.origin} == {"talk"}
    assert {row.slice for of_split in rows.values() for row in of_split if not row.origin} == {
        verb.split()[0] for verb in VERBS
    }
    assert counted(report)["drop-duplicates"] == 2  # one of each pair, of whichever source
    groups: dict[str, set[str]] = {}
    for name, of_split in rows.items():
        for row in of_split:
            groups.setdefault(row.group, set()).add(name)
    assert all(len(home) == 1 for home in groups.values())
    document = configure(talk=source(loader={"kind": "table", "files": "*", "columns": {**PAIR, "slice": "kind"}}))
    put(tmp_path / "b", main=MAIN, talk=[row | {"kind": "old"} for row in TALK])
    sliced, _ = prepared(tmp_path / "b", document)
    assert {row.slice for of_split in sliced.values() for row in of_split if row.origin} == {"talk/old"}


def test_a_rule_that_does_not_fit_a_source_is_skipped_for_its_rows_alone(configure: Configure, tmp_path: Path) -> None:
    put(
        tmp_path,
        main=[*MAIN, {"prompt": "vm", "reference": "vm", "kind": "a"}],
        talk=[*TALK, {"prompt": "Hi", "reference": "Hello."}],
    )
    rows, report = prepared(
        tmp_path,
        configure(["drop-one-word-prompt"], talk=source(splits=["train"], skip_rules=["drop-one-word-prompt"])),
    )
    assert counted(report) == {"drop-one-word-prompt": 1}
    assert "Hi" in {row.prompt for row in rows["train"]}


def test_a_share_holds_and_does_not_depend_on_the_order_of_rows(configure: Configure, tmp_path: Path) -> None:
    chosen = []
    for number, rows in enumerate((TALK, TALK[::-1], Random(3).sample(TALK, len(TALK)), [*TALK, *MORE])):
        put(tmp_path / str(number), main=MAIN, talk=rows)
        found, report = prepared(tmp_path / str(number), configure(talk=source(splits=["train"], share=0.25)))
        of_talk = {row.id for row in found["train"] if row.origin}
        assert abs(len(of_talk) / len(found["train"]) - 0.25) < 0.01
        assert counted(report)["cut-to-share"] == len(rows) - len(of_talk)
        chosen.append(of_talk)
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0] - chosen[3]) <= len(MORE)


def test_two_shares_hold_together_beside_a_source_without_one(configure: Configure, tmp_path: Path) -> None:
    put(tmp_path, main=MAIN, more=MORE, talk=TALK)
    rows, _ = prepared(
        tmp_path, configure(talk=source(splits=["train"], share=0.2), more=source(splits=["train"], share=0.1))
    )
    found = Counter(row.origin for row in rows["train"])
    assert {name: count / found.total() for name, count in found.items()} == pytest.approx(
        {"": 0.7, "talk": 0.2, "more": 0.1}, abs=0.01
    )


@pytest.mark.parametrize("other", [None, 0.02])
def test_too_few_rows_for_a_share_are_refused_with_the_share_that_they_make(
    configure: Configure, tmp_path: Path, other: float | None
) -> None:
    put(tmp_path, main=MAIN, talk=TALK, more=MORE)

    def shared(share: float) -> dict[str, Any]:
        return configure(
            talk=source(splits=["train"], share=share),
            more=source(splits=["train"], **({"share": other} if other else {})),
        )

    said = r"^data\.sources\.talk\.share: 0\.6 of the train rows are \d+ rows, it has 30; bring more rows, lower it to"
    with pytest.raises(DataRefused, match=said) as refusal:
        prepared(tmp_path, shared(0.6))
    (share,) = re.findall(r"lower it to ([0-9.]+) or less", refusal.value.todo)
    rows, _ = prepared(tmp_path, shared(float(share)))
    assert sum(row.origin == "talk" for row in rows["train"]) == 30
    with pytest.raises(DataRefused, match="lower it to"):
        prepared(tmp_path, shared(float(share) + 0.01))


ID = {**PAIR, "id": "id"}
REFUSED: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "no row is left": (source(skip_rules=[]), [{"prompt": "", "reference": "x"}] * 3, r"data\.sources\.talk: none of its 3 rows is left \(3 dropped: drop-empty-prompt 3\); name the rules .* data\.sources\.talk\.skip_rules"),
    "a column is missing": (source(), [{"prompt": "a"}], r"data\.sources\.talk: rows\.jsonl:1: has no column 'reference'.*data\.sources\.talk\.loader in params"),
    "the glob finds nothing": (source(loader={"kind": "table", "files": "*.csv", "columns": PAIR}), TALK, r"data\.sources\.talk\.loader\.files: '\*\.csv' matches no file.*change the glob or data\.sources\.talk\.uri"),
    "ids are taken": (source(splits=["train"], loader={"kind": "table", "files": "*", "columns": ID}), [TALK[0] | {"id": 0}], r"talk/rows\.jsonl:1: id '0' is taken by rows\.jsonl:1; name another column of ids"),
    "ids are taken in all splits": (source(loader={"kind": "table", "files": "*", "columns": ID}), [TALK[0] | {"id": 0}], r"talk/rows\.jsonl:1: id '0' is taken by rows\.jsonl:1; name another column of ids"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_whose_rows_do_not_fit_is_refused_by_name(configure: Configure, tmp_path: Path, case: str) -> None:
    further, rows, said = REFUSED[case]
    put(tmp_path, main=[row | {"id": number} for number, row in enumerate(MAIN)], talk=rows)
    document = configure(talk=further)
    document["prepare"]["loader"]["columns"]["id"] = "id"
    with pytest.raises(DataRefused, match=said):
        prepared(tmp_path, document)
    assert not (tmp_path / layout.PREPARE_REPORT).exists()


# --- validate ---


def test_rows_are_held_to_the_rules_of_their_source_and_train_only_answers_are_no_labels(
    configure: Configure, tmp_path: Path, tiny_base: Path
) -> None:
    shutil.copytree(tiny_base, tmp_path / layout.BASE)
    put(tmp_path, main=MAIN, talk=[*TALK, {"prompt": "Hi", "reference": "Hello."}])
    skipped = ["drop-one-word-prompt", "trim-ends"]
    document = configure(["drop-one-word-prompt"], talk=source(splits=["train"], skip_rules=skipped))
    document["validate"] |= {
        "min_rows": {"train": 20, "valid": 4, "test": 16}, "max_prompt_tokens": 200, "max_reference_tokens": 20,
        "labels": {"max_distinct": 3, "min_share": 0.05, "max_share": 0.9},
    }  # fmt: skip
    document["train"]["max_length"] = 400
    document["evaluate"]["max_new_tokens"] = 20
    rows, report = prepared(tmp_path, document)
    validate(as_params(document), tmp_path)
    names = [each.name for each in files.read_json(tmp_path / layout.DATA_REPORT, DataReport).expectations]
    assert "splits: drop-one-word-prompt finds nothing" in names
    path = tmp_path / layout.SPLITS / "train.jsonl"
    for origin, prompt, said in (
        ("", "vm", r"splits: drop-one-word-prompt finds nothing: .*'vm'"),
        ("talk", "What is it? ", r"splits: trim-ends finds nothing: .*'What is it\? '"),  # no source may skip it
    ):
        planted = rows["train"][0].model_copy(
            update={"messages": (Message(role="user", content=prompt),), "origin": origin}
        )
        files.write_jsonl(path, [planted, *rows["train"][1:]])
        split = report.splits["train"].model_copy(update={"sha256": digest.of_file(path).sha256})
        files.write_json(
            tmp_path / layout.PREPARE_REPORT, report.model_copy(update={"splits": report.splits | {"train": split}})
        )
        with pytest.raises(DataRefused, match=said):
            validate(as_params(document), tmp_path)


# --- what is said of them ---


@pytest.mark.parametrize(
    ("stated", "fetched", "said"),
    [
        ("CC0-1.0", ("CC0-1.0", "cc0-1.0"), None),
        (None, (None, None), "params.yaml: data.sources.talk.license: no licence is stated"),
        ("GPL-9", ("GPL-9", None), "data.sources.talk.license: 'GPL-9' is not in the table"),
        ("CC-BY-NC-4.0", ("CC-BY-NC-4.0", None), "data.sources.talk: CC-BY-NC-4.0 does not permit commercial use"),
        ("CC-BY-SA-4.0", ("CC-BY-SA-4.0", None), "data.sources.talk: CC-BY-SA-4.0 wants derivatives under CC-BY-SA-4.0, the adapter is Apache-2.0, if weights derive from their data"),
        ("MIT", ("MIT", "cc-by-nc-4.0"), "data.sources.talk.license is MIT, but the data.sources.talk declares 'cc-by-nc-4.0'"),
        ("ISC", ("ISC", None), "data.sources.talk: ISC is not allowed (allowed: "),
        ("MIT", ("CC0-1.0", None), "data.sources.talk was fetched when params.yaml: data.sources.talk.license was CC0-1.0, it is MIT"),
        ("MIT", None, "reports/fetch.json: data.sources.talk was not fetched: run `./lockstep run fetch`"),
    ],
)  # fmt: skip
def test_the_licence_gate_speaks_of_every_source(
    configure: Configure,
    tmp_path: Path,
    stated: str | None,
    fetched: tuple[str | None, str | None] | None,
    said: str | None,
) -> None:
    params = as_params(configure(talk=source(license=stated)))
    evidence_tree.build(tmp_path, params)
    if fetched:
        add(tmp_path, license=fetched[0], declared=fetched[1])
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    allow = ("Apache-2.0", "MIT", "CC0-1.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")
    gate = LicenseGate(kind="license", allow=allow, adapter="Apache-2.0", commercial=True)
    finding = evidence_tree.asked("may_ship", gate, evidence, params)
    assert (finding.status == "pass") == (said is None), finding.reason
    assert (said or "data.sources.talk CC0-1.0, adapter Apache-2.0: may be shipped together") in finding.reason


def add(root: Path, **change: Any) -> None:
    """A further source in the reports of fetch and prepare below ``root``."""
    report = files.read_json(root / layout.FETCH_REPORT, FetchReport)
    talk = report.data.model_copy(update={"uri": "hf://datasets/us/talk@1", "license": "CC0-1.0", **change})
    files.write_json(root / layout.FETCH_REPORT, report.model_copy(update={"sources": {"talk": talk}}))
    prepared = files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    splits = {name: split.rows for name, split in prepared.splits.items()}
    rows = {"main": SourceRows(read=99, splits=splits), "talk": SourceRows(read=1234, splits=dict.fromkeys(splits, 7))}
    files.write_json(root / layout.PREPARE_REPORT, prepared.model_copy(update={"sources": rows}))


def test_page_text_card_and_comparison_name_every_source(tmp_path: Path) -> None:
    root = promotion_tree.copy(page_tree.ledger(), tmp_path / "work")
    facts = card_record.gather(root, None)
    add(root)
    page = data_page.render(data(root))
    assert "Source <code>talk</code>: <code>hf://datasets/us/talk@1</code>, " in page
    assert re.search(
        r"<td><code>talk</code></td>\n<td class=\"number\">1,?234</td>(\n<td class=\"number\">7</td>){3}", page
    )
    said = CliRunner().invoke(main, ["-C", str(root), "data"]).output
    assert re.search(r"^  talk +1,234 +7 +7 +7$", said, re.MULTILINE)
    fetch, prepare = (
        files.read_json(root / layout.FETCH_REPORT, FetchReport),
        files.read_json(root / layout.PREPARE_REPORT, PrepareReport),
    )
    model, dataset, *_ = writing.render(facts._replace(fetch=fetch, prepare=prepare)).values()
    (line,) = [line for line in model.splitlines() if line.startswith("- Data, `talk`")]
    assert line == "- Data, `talk`: `hf://datasets/us/talk@1`, licence `CC0-1.0`"
    assert re.search(r"^\| `talk` \| 1,?234 \| 7 \| 7 \| 7 \|$", dataset, re.MULTILINE)
    assert DatasetCard(dataset).data.to_dict()["license"] == ["mit", "cc0-1.0"]
    assert ModelCard(model).data.to_dict()["datasets"] == ["us/talk"]
    changed = {each.what for each in compare(root, "main", ".").data}
    assert {"source talk", "rows of talk"} <= changed


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["MIT", "MIT"], {"license": "mit"}),
        (["MIT", "Apache-2.0", "MIT"], {"license": ["mit", "apache-2.0"]}),
        (["MIT", "LicenseRef-Own"], {"license": "other", "license_name": "mit-and-licenseref-own"}),
        (["MIT", None], {}),
    ],
)
def test_a_card_has_the_licences_of_all_sources(names: list[str | None], said: dict[str, Any]) -> None:
    assert hub_metadata.license_of_all(names) == said
