"""People and judges asked about the answers to another suite: real small models answer a chat suite and one of documents."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.config.params import Params
from checks.formats import judgements
from checks.formats.suite_report import Judgement, SuiteAnswer, SuiteLine, SuiteResult, SuitesReport
from checks.formats.verdict import Finding
from checks.process.errors import ParamsRefused
from checks.storage import digest, files, layout
from release.cli import main
from release.record.records import Records
from release.record.verdict_check import hold
from stages.suites import suites
from tests import evidence_tree, model_tree
from tests.conftest import as_params
from tests.pipeline_repository import write_params
from tests.stages.judges.test_judges import Endpoint, endpoint

pytestmark = pytest.mark.slow

__all__ = ["endpoint"]  # fixtures

COUNT = 104
NUMBERS = range(100, 100 + COUNT)  # a word of one character is not searched for
ABOUT = ("docs", "chat")
ASKED = {"models": ["candidate", "base"], "samples": COUNT, "noise": 0.0, "max_new_tokens": 3}
RAG = {
    "kind": "rag", "scorers": [{"kind": "exact-match"}], "chunker": None, "top_k": 1, "max_words": 12, "unanswerable": None,
    "retriever": {"kind": "bm25", "k1": 1.5, "b": 0.75, "stopwords": None}, "prompt": "Passages: $passages Question: $question",
    **ASKED,
}  # fmt: skip
JUDGE = {
    "kind": "openai", "url_from": "JUDGE_URL", "model": "judge-1", "seed": 7, "max_tokens": 16, "value": "(left|right|tie)",
    "prompt": "Asked: $prompt\nLeft: $left\nRight one: $right\nWhich says only what the passages say?",
}  # fmt: skip


class Tree:
    """A run of two models, a suite of documents and a suite of chats, and suites that ask about their answers."""

    def __init__(self, root: Path, document: dict[str, Any]) -> None:
        self.root, self.document = root, document

    def params(self) -> Params:
        write_params(self.root, self.document)
        return as_params(self.document)

    def findings(self) -> tuple[Finding, ...]:
        suites(self.params(), self.root)
        return self.again()

    def again(self) -> tuple[Finding, ...]:
        return evidence_tree.judged(self.root, self.params()).findings

    def pin(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        path = self.root / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"uri": name, "sha256": digest.of_file(path).sha256.removeprefix("sha256:"), "license": "MIT"}

    def label(self, suite: str, *arguments: str) -> dict[str, Any]:
        write_params(self.root, self.document)
        done = CliRunner().invoke(main, ["-C", str(self.root), "label", suite, *arguments, "--json"])
        assert done.exit_code == 0, done.output
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def ours(self, suite: str) -> dict[str, str]:
        """The digests of the answers of the candidate that users would get, by sample."""
        found = files.read_jsonl(self.root / layout.suite_answers(suite), SuiteAnswer)
        return {
            each.sample: judgements.answer_sha(each.answer)
            for each in found
            if each.model == self.result(suite).models["candidate"]
            and (each.reading is None or each.reading.setting == "retrieved")
        }

    def result(self, suite: str) -> SuiteResult:
        return files.read_json(self.root / layout.SUITES_REPORT, SuitesReport).suites[suite]

    def prefer_ours(self, about: str) -> list[dict[str, Any]]:
        """Let a person who likes each of the candidate's answers better label, by the command; the tasks."""
        said = self.label(f"better_{about}")
        tasks = [task["data"] for task in json.loads(Path(said["data"]).read_text())]
        ours, saved = self.ours(about), self.root / "saved.jsonl"
        saved.write_text("".join(
            json.dumps({
                "row": task["row"], "left_sha": task["left_sha"], "right_sha": task["right_sha"], "annotator": "ada",
                "label": "left" if task["left_sha"] == ours[task["row"]] else "right",
            }) + "\n"
            for task in tasks
        ))  # fmt: skip
        taken = self.label(f"better_{about}", "--import", str(saved))
        self.document["suites"][f"better_{about}"]["labels"] = {
            "uri": taken["path"], "sha256": taken["sha256"], "license": None,
        }  # fmt: skip
        return tasks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Tree:
    """Made once: both models have answered both suites, and nobody has judged yet."""
    from tests.conftest import scaled_down

    root, document = tmp_path_factory.mktemp("answers"), scaled_down()
    tree = Tree(root, document)
    rows = [{"id": f"q{n}", "prompt": f"queue {n}?", "reference": str(n), "gold": [f"d{n}"]} for n in NUMBERS]
    chats = [
        {"id": f"c{n}", "reference": "disk", "slice": "even" if n % 2 else "odd", "messages": [
            {"role": "user", "content": f"show {n}"}, {"role": "assistant", "content": "which?"}, {"role": "user", "content": f"key {n}"},
        ]}
        for n in NUMBERS
    ]  # fmt: skip
    document["suites"] = {
        "docs": {**RAG, "file": tree.pin("docs.jsonl", rows), "corpus": tree.pin(
            "corpus.jsonl", [{"id": f"d{n}", "text": f"vault {n}"} for n in NUMBERS]
        )},
        "chat": {"kind": "rows", "file": tree.pin("chat.jsonl", chats), "scorers": [{"kind": "contains", "separator": "|"}], **ASKED},
    }  # fmt: skip
    document["gates"] = {"sound": {"kind": "data"}}
    model_tree.build(root, tree.params(), tiny_base, 0.05)
    tree.findings()
    return tree


@pytest.fixture
def tree(made: Tree, tmp_path: Path, endpoint: Endpoint) -> Tree:
    """With a suite of comparisons about each, before the suite that it is about, and a gate that asks people."""
    endpoint.reply = lambda _: "tie"
    shutil.copytree(made.root, tmp_path / "run")
    found = Tree(tmp_path / "run", json.loads(json.dumps(made.document)))
    compared = {
        f"better_{about}": {
            "kind": "pairwise", "suite": about, "question": "Which answer is better?", "against": "base", "rows": 100, "seed": 3,
            "labels": None, "judge": JUDGE,
        }
        for about in ABOUT
    }  # fmt: skip
    found.document["suites"] = {**compared, **found.document["suites"]}
    return found


def ask_people(tree: Tree, about: str) -> None:
    tree.document["gates"] = {
        "people_prefer_it": {
            "kind": "improves", "suite": f"better_{about}", "metric": "human", "assisted_by": "judge", "against": "base",
            "margin": 0.0, "confidence": 0.95,
        }
    }  # fmt: skip


@pytest.mark.parametrize("about", ABOUT)
def test_people_decide_on_the_answers_to_a_suite_and_a_judge_assists(
    tree: Tree, endpoint: Endpoint, about: str
) -> None:
    ask_people(tree, about)
    (found,) = tree.findings()
    assert found.status == "inconclusive"
    assert f"the test needs all of them, at least 100; `lockstep label better_{about}` asks for " in found.reason
    tasks = tree.prefer_ours(about)
    assert ("Passages: [1] vault" in tasks[0]["prompt"]) == (about == "docs")
    assert ("which?" in tasks[0]["prompt"]) == (about == "chat")
    (found,) = tree.findings()
    assert found.status == "pass", found.reason
    assert found.n == 100
    assert found.reason.endswith(f"(witnessed: human by ada, openai:judge-1, suite better_{about})")
    result = tree.result(f"better_{about}")
    assert (result.answers_of, result.answers) == (
        about,
        dict.fromkeys(("candidate", "base"), tree.result(about).given),
    )
    assert list(files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites) == list(tree.document["suites"])
    said = files.read_jsonl(tree.root / layout.JUDGEMENTS / f"better_{about}.jsonl", Judgement)
    ours = tree.ours(about)
    assert all(ours[each.sample] in (each.answer_sha, each.other_sha) for each in said)
    assert {each.by for each in said} == {"human", "judge"}
    assert any("Passages: [1] vault" in body["messages"][0]["content"] for body in endpoint.asked)
    hold(Records(tree.root))


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _another_answer(tree: Tree) -> None:
    """The suite's own score and digests agree with it, and nobody judged it."""
    path = tree.root / layout.suite_answers("docs")
    lines, models = files.read_jsonl(path, SuiteAnswer), tree.result("docs").models
    forged = [
        line.model_copy(update={"answer": "zebra"}) if line.model == models["candidate"] and line.answer != line.reference else line
        for line in lines
    ]  # fmt: skip
    scores = tree.root / layout.SUITES / "docs.jsonl"
    kept = [
        line.model_copy(update={"value": 0.0}) if line.metric == "grounded" and line.model == models["candidate"] else line
        for line in files.read_jsonl(scores, SuiteLine)
    ]  # fmt: skip
    files.write_jsonl(path, forged)
    files.write_jsonl(scores, kept)
    shas = {"given": digest.of_file(path).sha256, "lines": digest.of_file(scores).sha256}
    _edit(tree.root / layout.SUITES_REPORT, lambda report: (
        report["suites"]["docs"].update(shas),
        report["suites"]["better_docs"]["answers"].update(dict.fromkeys(("candidate", "base"), shas["given"])),
    ))  # fmt: skip


def _other_digest(tree: Tree) -> None:
    sha = f"sha256:{'9' * 64}"
    _edit(tree.root / layout.SUITES_REPORT, lambda report: report["suites"]["better_docs"]["answers"].update(base=sha))


def _one_score_less(tree: Tree) -> None:
    path = tree.root / layout.SUITES / "docs.jsonl"
    files.write_jsonl(path, files.read_jsonl(path, SuiteLine)[1:])
    sha = digest.of_file(path).sha256
    _edit(tree.root / layout.SUITES_REPORT, lambda report: report["suites"]["docs"].update(lines=sha))


FORGED: dict[str, tuple[Callable[[Tree], object], str]] = {
    "another answer": (_another_answer, "data/judgements/better_docs.jsonl:1: row 'q"),
    "another file": (_other_digest, "answers that suite better_docs is about: suites says 999999999999, suite docs says "),
    "a score of the suite itself": (_one_score_less, "data/suites/docs.jsonl: "),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_judgements_hold_for_the_answers_of_that_suite_alone(tree: Tree, how: str) -> None:
    ask_people(tree, "docs")
    suites(tree.params(), tree.root)
    tree.prefer_ours("docs")
    assert [finding.status for finding in tree.findings()] == ["pass"]
    change, line = FORGED[how]
    change(tree)
    (found,) = tree.again()
    assert found.status == "fail"
    assert line in found.reason


def test_a_judge_of_one_answer_is_shown_those_to_a_suite(tree: Tree, endpoint: Endpoint) -> None:
    """People's values decide a gate, and it sees the suite's size when params.yaml is read."""
    lines = [
        {"sample": sample, "answer_sha": sha, "value": 1.0, "judge": "ada", "prompt_sha": None}
        for sample, sha in tree.ours("docs").items()
    ]
    tree.document["suites"] = {
        "grounded": {
            "kind": "judged", "suite": "docs", "metrics": {"grounded": {"low": 0.0, "high": 1.0}}, "noise": 0.0,
            "models": ["candidate"], "max_unparsed": 0.0,
            "judge": {"kind": "recorded", "source": "human", "log": tree.pin("values.jsonl", lines)},
        },
        "docs": tree.document["suites"]["docs"],
    }  # fmt: skip
    gate = {"kind": "threshold", "suite": "grounded", "metric": "grounded", "at_least": 0.9, "confidence": 0.95}
    tree.document["gates"] = {"is_grounded": {**gate, "resolution": 0.1}}
    (found,) = tree.findings()
    assert (found.status, found.n, found.evidence) == ("pass", COUNT, "witnessed"), found.reason
    tree.document["gates"]["is_grounded"]["resolution"] = 0.05
    with pytest.raises(ParamsRefused, match=rf"resolution: {COUNT} samples of suite grounded cannot give ±0\.05"):
        tree.params()
    tree.document["gates"]["is_grounded"]["resolution"] = 0.1
    tree.document["suites"]["grounded"] |= {"judge": {**JUDGE, "prompt": "$prompt $answer", "value": "([01])"}}
    tree.document["gates"] = {"sound": {"kind": "data"}}
    endpoint.reply = lambda text: str(int("vault" in text))
    suites(tree.params(), tree.root)
    assert tree.result("grounded").means == {"candidate": {"grounded": 1.0}}
    assert len(endpoint.asked) == COUNT


def _change(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda suites: suites["better_docs"].update(change)


def _fewer(suites: dict[str, Any]) -> None:
    suites["docs"]["samples"] = 40


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no suite": (_change(suite="other"), r"better_docs\.suite: 'other' is not a suite that keeps what models answer; use one of docs, chat, or"),
    "no answers": (_change(suite="better_chat"), r"better_docs\.suite: 'better_chat' is not a suite that keeps what models answer"),
    "another model": (_change(against="main"), r"suite: main does not answer suite docs; add main to suites\.docs\.models"),
    "nobody stands in": (
        lambda suites: (_change(against="production")(suites), suites["docs"].update(models=["candidate", "base", "production"])),
        r"suite: main does not answer suite docs; add main to suites\.docs\.models",
    ),
    "too few samples": (_fewer, r"better_docs\.rows: suite docs has 40 samples, and people label 100; add 60 to it"),
}  # fmt: skip


@pytest.mark.parametrize("how", IMPOSSIBLE)
def test_a_suite_that_cannot_be_asked_about_is_refused_when_params_are_read(tree: Tree, how: str) -> None:
    change, line = IMPOSSIBLE[how]
    change(tree.document["suites"])
    with pytest.raises(ParamsRefused, match=line):
        tree.params()


def _unanswered(tree: Tree) -> None:
    (tree.root / layout.suite_answers("docs")).write_text("")


REFUSED: dict[str, tuple[Callable[[Tree], object], str]] = {
    "other answers": (_unanswered, "docs.answers.jsonl: is not what reports/suites.json is about; run `./lockstep run suites`"),
    "another section": (
        lambda tree: tree.document["suites"]["docs"].update(max_words=13), "reports/suites.json: is about another section suites.docs; run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_answers_that_are_not_those_of_the_suite_are_not_labelled(tree: Tree, how: str) -> None:
    change, line = REFUSED[how]
    change(tree)
    write_params(tree.root, tree.document)
    done = CliRunner().invoke(main, ["-C", str(tree.root), "label", "better_docs"])
    assert done.exit_code == 8, done.output
    assert line in done.output
    assert len(done.output.splitlines()) == 1
