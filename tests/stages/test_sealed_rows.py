"""The rows of the sealed split: real small models answer them, one bit comes out, and nothing else is left anywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dvc
import pytest

from checks.config import sealed
from checks.config.params import Params
from checks.config.sealed import VARIABLE
from checks.formats.evaluation_reports import EvaluationReport, Reference, ReferencesReport
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused, ParamsRefused, Refusal
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from release.promotion import sealed_split
from stages import earlier_records
from stages import sealed as stage
from stages.inference import answers, generate
from tests import evidence_tree, model_tree
from tests.conftest import REPOSITORY, as_params, scaled_down
from tests.pipeline_repository import write_params

pytestmark = pytest.mark.slow

KEY = b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
SECRET = "zanzibar"  # in every row, and nowhere else
COUNT = 40
GATES: dict[str, dict[str, Any]] = {
    "right": {"kind": "threshold", "metric": "exact-match", "at_least": 0.5, "confidence": 0.95, "resolution": 0.4},
    "keeps_up": {"kind": "non_inferior", "metric": "exact-match", "against": "main", "margin": 0.4, "confidence": 0.95},
    "unseen": {
        "kind": "contamination", "ngram": 13, "max_ngram_share": 0.0, "shingle": 5, "similarity": 0.8,
        "max_near_duplicate_share": 0.0,
    },
}  # fmt: skip
# In DVC's place: brings the weights of main, which lie beside the repository.
DVC = """import shutil, sys
shutil.copytree(sys.argv[3].replace("models/merged", "main"), sys.argv[sys.argv.index("-o") + 1])
"""


def questions(count: int = COUNT) -> list[Row]:
    return [
        row.model_copy(update={"messages": (Message(role="user", content=f"{SECRET} {digest.of_json(i)[7:27]} {i}"),)})
        for i, row in enumerate(evidence_tree.rows("sealed", count))
    ]


class Tree:
    """A run of real models with a sealed split. ``right``: the rows with the candidate's own answers as references."""

    def __init__(self, root: Path, document: dict[str, Any], right: list[Row]) -> None:
        self.root, self.document, self.right = root, document, right

    def seal(self, rows: list[Row]) -> None:
        data = sealed.encrypt(rows, KEY)
        files.write_text(self.root / layout.SEALED, data.decode())
        pin = digest.of_bytes(data).removeprefix("sha256:")
        self.document["sealed"] = {"sha256": pin, "rows": len(rows), "max_looks": 5, "gates": GATES}

    def params(self) -> Params:
        write_params(self.root, self.document)
        return as_params(self.document)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Tree:
    root, document = tmp_path_factory.mktemp("sealed") / "run", scaled_down()
    tree = Tree(root, document, questions())
    tree.seal(tree.right)
    root.mkdir(exist_ok=True)
    params = tree.params()
    model_tree.build(root, params, tiny_base, 0.021)
    shutil.copytree(root / layout.MERGED, root / "main")
    model_tree.change(root / "main", 0.03)
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    main = Reference(
        commit="1" * 40, merged=digest.of_tree(root / "main").digest, test=report.test, scorers=report.scorers,
        prompt_format=report.prompt_format, predictions=f"sha256:{'8' * 64}",
    )  # fmt: skip
    files.write_json(root / layout.REFERENCES, ReferencesReport(found={"main": main}, absent={}))
    said = [evidence_tree.predict(row, i < 36) for i, row in enumerate(test)]
    evidence_tree.evaluated(root, params, said, main=said)
    (root / "dvc").mkdir()
    (root / "dvc" / "__init__.py").touch()
    (root / "dvc" / "__main__.py").write_text(DVC)  # imported from the current folder
    model, tokenizer = generate.load(root / layout.MERGED, params.evaluate.precision)
    asked = [row.messages for row in tree.right]
    texts = answers.answer(model, tokenizer, params.evaluate, tree.right, asked, "candidate").texts
    assert len(set(texts)) > 1
    tree.right = [row.model_copy(update={"reference": text}) for row, text in zip(tree.right, texts, strict=True)]
    return tree


@pytest.fixture
def tree(made: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    shutil.copytree(made.root, tmp_path / "run")
    monkeypatch.setenv(VARIABLE, KEY.decode())
    monkeypatch.setattr(earlier_records, "guarded_dvc", dvc)
    return Tree(tmp_path / "run", json.loads(json.dumps(made.document)), list(made.right))


def as_they_are(rows: list[Row]) -> list[Row]:
    return rows


def wrong(rows: list[Row]) -> list[Row]:
    return [row.model_copy(update={"reference": "none of these"}) for row in rows]


def trained_on(rows: list[Row]) -> list[Row]:
    """One row of them all is a train row."""
    train = evidence_tree.rows("train", 60)[3]
    return [rows[0].model_copy(update={"messages": train.messages}), *rows[1:]]


SAID: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "right answers": (as_they_are, "pass"),
    "wrong answers": (wrong, "fail"),
    "a row that was trained on": (trained_on, "fail"),
}


@pytest.mark.parametrize("how", SAID)
def test_one_bit_is_said_and_no_score_and_no_row_is_left_anywhere(
    how: str, tree: Tree, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, bit = SAID[how]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    tree.seal(change(tree.right))
    params = tree.params()
    before = digest.of_tree(tree.root).digest
    assert stage.sealed(params, tree.root) == "asked"
    shown = capsys.readouterr()
    assert shown.out == f"{bit}\n"
    assert SECRET not in shown.err
    assert "exact-match" not in shown.err
    assert digest.of_tree(tree.root).digest == before
    assert not list((tmp_path / "scratch").iterdir())


def too_long(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    long = Message(role="user", content=f"{SECRET} " * 4000)
    tree.seal([tree.right[0].model_copy(update={"messages": (long,)}), *tree.right[1:]])


def another_file(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    (tree.root / layout.SEALED).write_bytes(sealed.encrypt(tree.right, KEY))


def another_key(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    patch.setenv(VARIABLE, KEY.decode().replace("M", "N", 1))


def fewer_rows(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    tree.document["sealed"]["rows"] += 1


def no_noise(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    (tree.root / layout.NOISE).unlink()


def no_weights_of_main(tree: Tree, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tree.root / "main")


REFUSED: dict[str, tuple[Callable[[Tree, pytest.MonkeyPatch], object], type[Refusal], str]] = {
    "a row that is too long": (too_long, EvaluationRefused, r"could not be asked \(EvaluationRefused; its message"),
    "another file": (another_file, EvidenceRefused, "is not the file that sealed.sha256 pins"),
    "another key": (another_key, EvidenceRefused, f"{VARIABLE} does not have its key"),
    "no key": (lambda _, patch: patch.delenv(VARIABLE), EvidenceRefused, f"{VARIABLE}: is not set"),
    "no file": (lambda tree, _: (tree.root / layout.SEALED).unlink(), EvidenceRefused, "sealed.bin: No such file"),
    "another number of rows": (fewer_rows, EvidenceRefused, "has 40 rows, and sealed.rows is 41"),
    "a gate without its evidence": (no_noise, EvidenceRefused, "sealed.gates.keeps_up: the noise .* is not measured"),
    "no weights of main": (no_weights_of_main, EvidenceRefused, "DVC has no models/merged of that commit"),
    "no section": (lambda tree, _: tree.document.pop("sealed"), ParamsRefused, "has no section sealed"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_asked_is_refused_without_a_bit_and_without_a_row(
    how: str, tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, kind, cause = REFUSED[how]
    tree.seal(tree.right)
    spoil(tree, monkeypatch)
    with pytest.raises(kind, match=cause) as refused:
        stage.sealed(tree.params(), tree.root)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert SECRET not in str(refused.value) + shown.err
    assert refused.value.__suppress_context__ or SECRET not in repr(refused.value.__context__)


# `lockstep sealed new`


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, document = tmp_path_factory.mktemp("new") / "run", scaled_down()
    evidence_tree.build(root, as_params(document))
    write_params(root, document)
    shutil.copy(REPOSITORY / ".gitignore", root)
    return root


def line(row: Row, **more: Any) -> str:
    return json.dumps({**row.model_dump(mode="json", include={"messages", "reference", "slice"}), **more}) + "\n"


def test_rows_of_ones_own_are_encrypted_with_a_new_key(splits: Path, tmp_path: Path) -> None:
    root = shutil.copytree(splits, tmp_path / "run")
    rows = questions(20)
    (tmp_path / "rows.jsonl").write_text(line(rows[0], group="g") + "".join(map(line, rows[1:])))
    made = sealed_split.make(root, tmp_path / "rows.jsonl")
    assert made.key.stat().st_mode & 0o777 == 0o600
    data = (root / layout.SEALED).read_bytes()
    assert SECRET.encode() not in data
    pinned = {"sha256": made.sha256, "rows": made.rows, "max_looks": 5, "gates": GATES}
    wanted = as_params(scaled_down() | {"sealed": pinned}).sealed
    assert wanted is not None
    found = sealed.decrypt(data, made.key.read_text(), wanted)
    assert [(row.messages, row.reference, row.slice) for row in found] == [
        (row.messages, row.reference, row.slice) for row in rows
    ]
    assert [row.group for row in found] == ["g", *(f"line:{number}" for number in range(2, 21))]
    both = made.key.read_text() + KEY.decode()
    assert sealed.decrypt(data, both, wanted) == found, "one secret has the keys of several projects, a line each"
    other = sealed.encrypt(found, KEY)
    assert sealed.decrypt(other, both, wanted.model_copy(update={"sha256": digest.of_bytes(other)[7:]})) == found
    for keys in (KEY.decode(), "no key", ""):
        with pytest.raises(EvidenceRefused, match=f"{VARIABLE} does not have its key; add .* as a line of its own"):
            sealed.decrypt(data, keys, wanted)
    with pytest.raises(MachineRefused, match=r"sealed\.key: File exists; move the key of the last split away first"):
        sealed_split.make(root, tmp_path / "rows.jsonl")


ROWS: dict[str, tuple[str, type[Refusal], str]] = {
    "nothing": ("", EvidenceRefused, "has no rows"),
    "no row": ('{"prompt": "a"}\n', EvidenceRefused, "rows.jsonl:1: .*; write one JSON object a line"),
    "one twice": (2 * line(questions(1)[0]), EvidenceRefused, "line 2: is the same as line:1; keep one of them"),
    "a train row": (
        line(questions(1)[0]) + line(evidence_tree.rows("train", 5)[4]), EvidenceRefused,
        "1 of 2 rows are near-duplicates of train rows: line 2 is alike to file:",
    ),
    "a test row": (line(evidence_tree.rows("test", 5)[4]), EvidenceRefused, "near-duplicates of"),
}  # fmt: skip


@pytest.mark.parametrize("how", ROWS)
def test_rows_that_cannot_be_sealed_are_refused_and_nothing_is_written(how: str, splits: Path, tmp_path: Path) -> None:
    text, kind, cause = ROWS[how]
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(kind, match=cause):
        sealed_split.make(splits, tmp_path / "rows.jsonl")
    assert not (splits / layout.SEALED).exists()
    assert not (splits / sealed_split.KEY).exists()


@pytest.mark.parametrize("where", ["rows.jsonl", "sealed.key"])
def test_git_takes_in_neither_the_rows_nor_their_key(where: str, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineRefused, match=rf"{where}: git would take it in"):
        sealed_split.make(splits, (splits if where == "rows.jsonl" else tmp_path) / "rows.jsonl", splits / "sealed.key")


# The section of params.yaml


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        change(document["sealed"]["gates"])

    return edit


SECTION: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no gate of contamination": (edited(lambda gates: gates.pop("unseen")), "none is of kind contamination"),
    "a gate that asks no rows": (edited(lambda gates: gates.update(data={"kind": "data"})), "data: asks nothing of these"),
    "a baseline": (edited(lambda gates: gates["keeps_up"].update(against="nearest")), "'nearest' does not answer these"),
    "a score that is not made": (edited(lambda gates: gates["right"].update(metric="rouge")), "'rouge' is not scored"),
    "too few rows for a share of the error": (edited(lambda gates: gates["right"].update(resolution=0.1)), "or seal [0-9]+ rows"),
    "an environment that asks for none": (lambda document: document.pop("sealed"), "there is no sealed split"),
    "an environment of that name": (
        lambda document: document["promote"]["environments"].update(
            sealed=document["promote"]["environments"]["staging"]
        ), "is a folder that environments share",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", SECTION)
def test_a_section_that_cannot_be_asked_is_refused_when_params_are_read(how: str) -> None:
    change, cause = SECTION[how]
    document = scaled_down()
    pinned = {"sha256": "0" * 64, "rows": COUNT, "max_looks": 5, "gates": json.loads(json.dumps(GATES))}
    document["sealed"] = pinned
    document["promote"]["environments"]["staging"]["sealed"] = True
    decided = as_params(document).sealed
    assert decided is not None
    assert decided.decided["right"] == decided.gates["right"].model_copy(update={"confidence": 1 - (1 - 0.95) / 5})
    change(document)
    with pytest.raises(ParamsRefused, match=cause):
        as_params(document)
