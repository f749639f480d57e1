"""Documents for continued pre-training: read, cleaned, held apart from test rows, cut into windows and learned whole."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.data.documents import passages
from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.evidence import Evidence
from checks.formats.training_reports import TrainReport
from checks.gates.contamination import ContaminationGate
from checks.gates.privacy import PrivacyGate
from checks.gating import chain
from checks.process.errors import DataRefused, ParamsRefused, TrainingRefused
from checks.records.rows import Message, Row
from checks.storage import files, layout
from release.cards import data_page
from release.cost import forecast
from stages.prepare import prepare
from stages.train import train
from stages.training import windows
from stages.training.answers import trainer_class
from stages.validate import validate
from tests import evidence_tree, training_tree
from tests.conftest import as_params, scaled_down

slow = pytest.mark.slow

VERBS = ["Create", "Delete", "Show", "List all of", "Rename", "Restart", "Move", "Stop"]
MAIN = [
    {"prompt": f"{verb} the {thing} {number:b}", "reference": thing}
    for thing in ("queue", "table", "disk")
    for number, verb in enumerate(VERBS * 3)
]
MANUAL = "# The vault\n\nA vault keeps a key.\nWrite to desk@example.org\x07 to get one, and name the vault with it.  "
TEXTS = {
    "a.md": MANUAL,
    "copy.md": "\ufeff" + f"\n{MANUAL}\n".replace("\n", "\r\n"),
    "old.md": MANUAL.replace("\n", "\r"),
    "deep/b.md": "Of the queue and the table: a queue is a list, and a table is not. " * 6,
    "empty.md": " \n",
}
TABLE_OF_ROWS = {"kind": "table", "files": "*", "columns": {"prompt": "prompt", "reference": "reference"}}
TALK = [{"prompt": f"What is {number * 37}?", "reference": f"It is {number}."} for number in range(20)]


def source(**change: Any) -> dict[str, Any]:
    """A source of documents: files of plain text."""
    loader = {"kind": "documents", "files": "**/*.md", "column": None} | change.pop("loader", {})
    return {"uri": "manual", "sha256": None, "license": "MIT", "splits": ["train"], "loader": loader} | change


def document(*methods: str, **sources: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a training in these steps, or in one, with further sources."""
    value = scaled_down()
    value["prepare"] |= {
        "loader": {"kind": "table", "files": "*.jsonl", "columns": {"prompt": "prompt", "reference": "reference"}},
        "rules": ["strip-control-characters", "trim-ends", "mask-personal-data", "drop-empty-prompt", "drop-empty-reference", "drop-duplicates"],
        "personal_data": {"detectors": ["email"]}, "splits": {"valid": 0.1, "test": 0.25},
    }  # fmt: skip
    value["data"] = {"uri": "main.jsonl", "sha256": None, "license": "MIT", "sources": sources}
    value["validate"] |= {"max_prompt_tokens": 64, "max_reference_tokens": 8, "labels": None}
    shared = {"method": list(methods), "max_steps": None, "epochs": 1, "steps": [{"method": each} for each in methods]}
    value["train"] |= shared if len(methods) > 1 else {"method": methods[0]}
    return value


def put(root: Path, texts: dict[str, str] | None = None, **rows: list[Any]) -> None:
    """Raw data as fetch writes it."""
    for name, of_source in ({"main": MAIN} | rows).items():
        path = root / layout.RAW / name / "rows.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in of_source))
    for name, text in (texts or {}).items():
        path = root / layout.RAW / "manual" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def prepared(root: Path, value: dict[str, Any]) -> tuple[dict[str, list[Row]], PrepareReport]:
    prepare(as_params(value), root)
    rows = {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in layout.SPLIT_NAMES}
    return rows, files.read_json(root / layout.PREPARE_REPORT, PrepareReport)


# --- params.yaml ---


@pytest.mark.parametrize(
    ("methods", "sources", "said"),
    [
        (["cpt", "sft"], {"manual": source(splits=None)}, r"data\.sources\.manual: splits: null, but documents are for training only: they ask nothing that could be tested; write \[train\]"),
        (["cpt", "sft"], {"manual": source(share=0.2)}, r"data\.sources\.manual: share: counts rows of the task, and documents are none; remove it"),
        (["cpt", "sft"], {"manual": source(loader={"id": "id"})}, r"id: is a column of a table, and column is null; name the column of the text too"),
        (["sft"], {"manual": source()}, r"data\.sources\.manual: has documents, and no step of the training learns from them; write train\.steps that begin with method: cpt"),
        (["cpt", "sft"], {"talk": source() | {"loader": TABLE_OF_ROWS}}, r"train\.method: cpt learns from documents, and no source has any; add a source with loader\.kind documents"),
    ],
)  # fmt: skip
def test_parameters_of_documents_that_cannot_be_meant_are_refused(
    methods: list[str], sources: dict[str, Any], said: str
) -> None:
    as_params(document("cpt", "sft", manual=source()))
    with pytest.raises(ParamsRefused, match=said):
        as_params(document(*methods, **sources))


def test_documents_are_no_data_of_a_task_and_stop_at_no_loss_on_valid() -> None:
    value = document("cpt", "sft", manual=source())
    value["prepare"]["loader"] = source()["loader"]
    with pytest.raises(
        ParamsRefused, match=r"prepare: loader: documents only adds rows to other data; name it in data"
    ):
        as_params(value)
    value = document("cpt", "sft", manual=source())
    value["train"]["early_stopping"] = {"patience": 1, "per_epoch": 1}
    with pytest.raises(
        ParamsRefused, match=r"early_stopping: train\.method 'cpt' learns from documents, and the valid"
    ):
        as_params(value)
    value["train"]["steps"][0]["early_stopping"] = None
    as_params(value)


# --- prepare ---


def test_documents_are_cleaned_by_the_rules_that_fit_them_and_change_no_other_row(tmp_path: Path) -> None:
    talk = source(share=0.1) | {"loader": TABLE_OF_ROWS}
    put(tmp_path / "one", talk=TALK)
    alone, _ = prepared(tmp_path / "one", document("sft", talk=talk))
    held_out, taught = alone["test"][0].prompt, next(row.prompt for row in alone["train"] if not row.origin)
    leaks = {
        "line.md": f"# Examples\n\n* {held_out.upper()}!\n* another one\n",
        "wrapped.md": f"It is hot. {held_out.replace(' ', chr(10), 1)}. It is cold.",
        "cell.md": f"| {held_out} | queue |",
        "fine.md": f"Somebody may {held_out} and more of that. {taught}.",
    }
    put(tmp_path / "two", TEXTS | leaks, talk=TALK)
    rows, report = prepared(tmp_path / "two", document("cpt", "sft", talk=talk, manual=source()))
    assert [row for row in rows["train"] if not row.document] == alone["train"]
    assert (rows["valid"], rows["test"]) == (alone["valid"], alone["test"])
    found = {row.source: row for row in rows["train"] if row.document}
    assert set(found) == {"manual/a.md:1", "manual/deep/b.md:1", "manual/fine.md:1"}
    one = found["manual/a.md:1"]
    assert one.reference == MANUAL.replace("\x07", "").replace("desk@example.org", "[email]").strip()
    assert (one.prompt, one.slice, one.origin, one.group) == ("", "manual", "manual", one.id)
    counted = {rule.rule: rule.rows for rule in report.rules if rule.rows}
    assert counted == {
        "strip-control-characters": 3, "trim-ends": 6, "mask-personal-data": 3, "drop-empty-reference": 1, "drop-duplicates": 2,
        "drop-row-of-other-source": 3, "cut-to-share": counted["cut-to-share"],
    }  # fmt: skip
    assert report.sources["manual"].splits == {"train": 3, "valid": 0, "test": 0}
    assert '"document"' not in (tmp_path / "one/data/splits/train.jsonl").read_text()


TABLE = {"column": "body", "id": "key", "files": "*"}
FAULTS: dict[str, tuple[dict[str, Any], str, bytes, str]] = {
    "a column is missing": (TABLE, "a.jsonl", b'{"key": 1, "body": "x"}\n{"key": 2}\n', r"data\.sources\.manual: a\.jsonl:2: has no column 'body'; it has key; .*data\.sources\.manual\.loader"),
    "a cell is no text": (TABLE, "a.jsonl", b'{"key": 1, "body": ["x"]}\n', r"a\.jsonl:1: column 'body': .* is not text"),
    "an id is taken": (TABLE, "a.csv", b"key,body\n1,x\n1,y\n", r"a\.csv:3: id '1' is taken by a\.csv:2"),
    "a file is not UTF-8": ({}, "a.md", b"caf\xe9", r"a\.md: is not UTF-8 at byte 3"),
    "a file is too long": ({}, "a.md", b"a " * (1 << 19) + b"b", r"a\.md:1: a file of 1048577 bytes: rows are at most 1048576 long"),
    "a table has no column": ({"files": "*"}, "a.jsonl", b'{"text": "x"}\n', r"a\.jsonl: \.jsonl is not a known format; use one of \.md, \.rst, \.txt"),
    "nothing is left": ({}, "a.md", b" \n ", r"data\.sources\.manual: none of its 1 rows is left \(1 dropped: drop-empty-reference 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_documents_that_cannot_be_read_are_refused_with_their_place(tmp_path: Path, case: str) -> None:
    loader, name, data, said = FAULTS[case]
    put(tmp_path, {name: ""})
    (tmp_path / layout.RAW / "manual" / name).write_bytes(data)
    with pytest.raises(DataRefused, match=said):
        prepared(tmp_path, document("cpt", "sft", manual=source(loader=loader)))


# --- what a document gives away ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One line", ["One line"]),
        ("One. Two!\nThree", ["One. Two!", "Three", "One.", "Two!"]),
        (
            "A sentence over\ntwo lines.\n\nNext",
            ["A sentence over", "two lines.", "A sentence over two lines.", "Next"],
        ),
        ('| cell | "said" |', ['| cell | "said" |', "cell", "said"]),
        ("---\n\n…\n", []),
        ("One\r\nTwo\rThree\u2028Four", ["One", "Two", "Three", "Four", "One Two Three Four"]),
        ("Question: One?", ["Question: One?", "One?"]),
        ("(One. Two.) Three", ["(One. Two.) Three", "(One.", "Two.", "Three"]),
        ("一个。两个", ["一个。两个", "一个。", "两个"]),
        ("**One.** Two", ["**One.** Two", "One. Two", "One.", "Two"]),
        ("_One_ t*w*o snake_case", ["_One_ t*w*o snake_case", "One two snake_case"]),
        ("[One](http://a.example)", ["[One](http://a.example)", "One"]),
        ("<td>O<b>n</b>e</td>", ["<td>O<b>n</b>e</td>", "One"]),
        ("One&nbsp;&lt;x&gt; t\u200bw&shy;o", ["One&nbsp;&lt;x&gt; t\u200bw&shy;o", "One\u00a0<x> two"]),
    ],
)
def test_the_passages_of_a_document_are_its_lines_sentences_and_cells(text: str, found: list[str]) -> None:
    assert list(passages(text)) == found


SENTENCE = "Copy one object from the bucket into the archive that belongs to team seven"  # 14 words
EIGHT, SIX = "Show me the keys of the seventh vault", "List all disks of team seven"


@pytest.fixture
def ground(tmp_path: Path) -> Callable[[str], Evidence]:
    """Evidence of a good run in which a document was learned too, with three other questions in the test split."""

    def make(text: str) -> Evidence:
        root, params = tmp_path, as_params(scaled_down())
        evidence_tree.build(root, params)
        path, test = root / layout.SPLITS / "train.jsonl", root / layout.SPLITS / "test.jsonl"
        nothing = (Message(role="user", content=""),)
        learned = Row(
            id="d", messages=nothing, reference=text, group="d", slice="a", source="manual/a.md:1", document=True
        )
        files.write_jsonl(path, [*files.read_jsonl(path, Row), learned])
        rows = files.read_jsonl(test, Row)
        for place, question in enumerate((SENTENCE, EIGHT, SIX)):
            rows[place] = rows[place].model_copy(update={"messages": (Message(role="user", content=question),)})
        files.write_jsonl(test, rows)
        return chain.gather(root, "")

    return make


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"They say that we may {SENTENCE.lower()} or eight.", "ngram_share"),  # 13 words in a row, anywhere
        (f"Do this:\n* {SENTENCE.replace('object', 'objects')}\n", "near_duplicate_share"),
        ("Copy one object from the bucket. The archive belongs to team seven.", None),
        (f"You may say: {EIGHT.lower()}, if there is one.", "ngram_share"),  # whole, anywhere
        (f"You may say {EIGHT.removesuffix(' vault')} vaults.", None),
        (f"You may say _{EIGHT}_, if there is one.", "ngram_share"),
        (f"You may say {EIGHT.replace('keys', '[keys](http://a.example/b)')}, if there is one.", "ngram_share"),
        (f"You may say {EIGHT.replace(' ', '&nbsp;')}, if there is one.", "ngram_share"),
        (f"You may say {SIX.lower()} or of another.", None),  # too short to mean anything there
        (f"You may say:\n{SIX}\n", "ngram_share"),
    ],
)
def test_a_test_row_that_a_document_has_is_contamination(
    ground: Callable[[str], Evidence], text: str, seen: str | None
) -> None:
    gate = ContaminationGate(
        kind="contamination", ngram=13, max_ngram_share=0, shingle=5, similarity=0.8, max_near_duplicate_share=0
    )
    found = evidence_tree.asked("unseen", gate, ground(text))
    assert (found.status, "manual/a.md:1" in found.reason) == (("fail", True) if seen else ("pass", False))
    assert seen is None or found.metric == seen


def test_personal_data_in_a_document_fails_the_gate(ground: Callable[[str], Evidence]) -> None:
    gate = PrivacyGate(kind="privacy", detectors=("email",))
    found = evidence_tree.asked("private", gate, ground("Write to desk@example.org, who knows."))
    assert (found.status, found.value) == ("fail", 1)
    assert "manual/a.md:1" in found.reason


# --- windows ---


@pytest.mark.parametrize(("length", "sizes"), [(8, [2, 7, 8, 9, 15, 16, 40]), (9, [300]), (100, [3, 4])])
def test_every_token_but_the_first_of_a_document_is_learned_once_after_what_stands_before_it(
    length: int, sizes: list[int]
) -> None:
    documents = [[1000 * number + place for place in range(size)] for number, size in enumerate(sizes)]
    found = list(windows.cut(documents, length))
    learned: Counter[int] = Counter()
    for window in found:
        ids, labels = window["input_ids"], window["labels"]
        assert len(ids) == len(labels) <= length
        assert labels == [-100, *ids[1:]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))  # of one document, without a gap
        learned.update(ids[1:])
    assert learned == Counter(token for ids in documents for token in ids[1:])
    assert len(found) == sum(-(-(size - 1) // (length - 1)) for size in sizes)


def test_a_document_ends_once_and_cannot_end_itself(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    end, texts = tokenizer.eos_token_id, ["the key", f"the {tokenizer.eos_token} key", "a" * 300]
    for text, ids in zip(texts, windows.encoded(tokenizer, texts), strict=True):
        assert (ids.index(end), tokenizer.decode(ids[:-1])) == (len(ids) - 1, text)


# --- validate and train ---


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, tracked: None) -> Path:
    """Raw data with documents, and the tiny base."""
    shutil.copytree(tiny_base, tmp_path / layout.BASE)
    put(tmp_path, TEXTS)
    return tmp_path


def _tokens(root: Path) -> list[int]:
    """Tokens of each document with its end, as the base's tokenizer encodes it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / layout.BASE)
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    return [len(tokenizer.encode(row.reference)) + 1 for row in rows if row.document]


@slow
def test_validate_holds_documents_to_expectations_of_their_own(root: Path) -> None:
    value = document("cpt", "sft", manual=source())
    rows, report = prepared(root, value)
    of_task = sum(not row.document for row in rows["train"])
    value["validate"]["min_rows"]["train"] = of_task  # documents are none of them
    validate(as_params(value), root)
    found = files.read_json(root / layout.DATA_REPORT, DataReport)
    assert found.rows == {"train": of_task, "valid": len(rows["valid"]), "test": len(rows["test"]), "documents": 2}
    assert found.statistics is not None
    assert found.statistics.documents is not None
    assert found.statistics.documents.tokens == sum(_tokens(root))
    assert found.statistics.references.most < 8
    plan = forecast.planned(root, as_params(value).training, found)
    assert [(step.train.method, step.rows) for step in plan] == [("cpt", 2), ("sft", of_task)]
    page = data_page.DataPage(name=".", commit=None, source=None, sources={}, prepare=report, report=found)
    assert f"- Documents: {sum(_tokens(root)):,} tokens together\n" in data_page.sections(page)["statistics"]

    path = root / layout.SPLITS / "train.jsonl"
    first = next(row for row in rows["train"] if row.document)
    private = first.model_copy(update={"id": "x", "reference": f"Mail a@b.example.\n{rows['test'][0].prompt}"})
    more = [private, first.model_copy(update={"id": "y"})]
    files.write_jsonl(path, [*rows["train"], *more])
    (root / layout.PREPARE_REPORT).write_text(_recounted(report, path, len(more)))
    with pytest.raises(DataRefused) as refusal:
        validate(as_params(value), root)
    said = "\n".join((str(refusal.value), *refusal.value.others))
    place = f"data/splits/train.jsonl:{len(rows['train']) + 1}"
    assert f"documents: drop-personal-data finds nothing: 1 of 4 rows: {place}" in said
    assert "documents: documents are unique: 2 of 4 rows" in said
    assert "documents: no passage is a near-duplicate of a held-out row: 1 of 4 rows" in said
    assert refusal.value.others[2:] == ()


def _recounted(report: PrepareReport, path: Path, more: int) -> str:
    """The report as if prepare had written more documents."""
    from checks.storage import digest

    value = report.model_dump(mode="json")
    value["splits"]["train"]["sha256"] = digest.of_file(path).sha256
    value["sources"]["manual"]["splits"]["train"] += more
    for counts, key in (
        (value, "input_rows"),
        (value, "kept_rows"),
        (value["splits"]["train"], "rows"),
        (value["splits"]["train"], "groups"),
    ):
        counts[key] += more
    return json.dumps(value)


@slow
def test_a_task_is_learned_after_the_documents_and_from_its_own_rows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, learned = trainer_class(), Counter[Any]()
    compute_loss = trainer.compute_loss

    def counted(self: Any, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
        learned[self] += int((inputs["labels"] != -100).sum()) if model.training else 0
        return compute_loss(self, model, inputs, *others, **named)

    monkeypatch.setattr(trainer, "compute_loss", counted)
    value = document("cpt", "cpt", "sft", manual=source())
    for step, packing in zip(value["train"]["steps"], (False, "bfd", False), strict=True):
        step |= {"packing": packing, "batch_size": 2} | ({} if packing else {"epochs": None, "max_steps": 2})
        step |= {"max_length": 24, "gradient_accumulation": 2} if step["method"] == "cpt" else {}
    rows, _ = prepared(root, value)
    training_tree.seal(root)
    train(as_params(value), root)
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    one_a_window, packed, task = report.chain
    cut = [-(-(size - 1) // 23) for size in _tokens(root)]
    made = sum(cut)
    assert [step.rows for step in report.chain] == [2, 2, sum(not row.document for row in rows["train"])]
    assert (one_a_window.sequences, task.sequences) == (made, None)
    assert packed.sequences is not None
    assert packed.sequences < made
    assert packed.steps == -(-packed.sequences // 4)
    assert [*learned.values()][1] == sum(_tokens(root)) - packed.rows  # each token but the first of a document
    assert packed.tokens == sum(_tokens(root)) + made - len(cut)  # windows but the first see one token again
    assert [step.started_from for step in report.chain] == [None, one_a_window.adapter, packed.adapter]
    curve = (root / layout.LOSS_CURVE).read_text()
    assert all(f",{name}" in curve for name in ("1 cpt", "2 cpt", "3 sft"))


@slow
@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_learn_a_task_after_the_documents(root: Path) -> None:
    value = document("cpt", "sft", manual=source())
    value["train"] |= {"devices": 2, "batch_size": 1, "epochs": None, "max_steps": 1}
    rows, _ = prepared(root, value)
    training_tree.seal(root)
    train(as_params(value), root)
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    assert (report.devices, [step.rows for step in report.chain]) == (2, [2, len(rows["train"]) - 2])


@slow
def test_windows_longer_than_the_base_can_read_are_refused(root: Path) -> None:
    value = document("cpt", manual=source())
    value["train"]["max_length"] = 257
    prepared(root, value)
    training_tree.seal(root)
    said = (
        "windows of 257 tokens exceed the 256 positions of the base; set it to 256 or less in the step of train.method"
    )
    with pytest.raises(TrainingRefused, match=said):
        train(as_params(value), root)
