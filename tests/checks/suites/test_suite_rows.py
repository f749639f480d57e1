"""Suites of kind rows: real small models answer pinned questions, and gates score the answers again."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.data import contamination
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.suite_report import Role, SuiteAnswer, SuiteLine, SuitesMeasured, SuitesReport
from checks.formats.verdict import Finding, Verdict
from checks.gating import chain
from checks.kinds.suite import Material
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused, Refusal
from checks.records.rows import Learned, Row
from checks.storage import digest, files, layout
from release.record.records import Records
from release.record.verdict_check import hold
from release.serving.suite_questions import Served, served
from release.verbs import gate as verb
from stages.inference import answers, generate
from stages.suites import _files, suites
from tests import evidence_tree, model_tree
from tests.conftest import _WORDS, REPOSITORY, as_params, read_yaml
from tests.pipeline_repository import write_params

pytestmark = pytest.mark.slow

COUNT = 40
GATES: dict[str, dict[str, Any]] = {
    "knows": {"kind": "threshold", "metric": "exact-match", "at_least": 0.05, "confidence": 0.95, "resolution": 0.2},
    "beats": {"kind": "improves", "metric": "exact-match", "against": "base", "margin": 0.0, "confidence": 0.95},
    "keeps": {"kind": "non_inferior", "metric": "exact-match", "against": "base", "margin": 0.3, "confidence": 0.95},
    "slices": {
        "kind": "slice", "metric": "exact-match", "against": "base", "margin": 0.5, "confidence": 0.95, "min_rows": 10,
    },
}  # fmt: skip


class Tree:
    """A run of real models with a suite of questions; the base's own answers are the references."""

    def __init__(self, root: Path, document: dict[str, Any]) -> None:
        self.root, self.document = root, document

    @property
    def suite(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["suites"]["chat"]
        return found

    def pin(self, lines: list[dict[str, Any]] | str) -> None:
        """Pin a file with these lines."""
        path = self.root / "chat.jsonl"
        path.write_text(lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines))
        sha256 = digest.of_file(path).sha256.removeprefix("sha256:")
        self.suite["file"] = {"uri": path.name, "sha256": sha256, "license": "MIT"}

    def params(self) -> Params:
        write_params(self.root, self.document)
        return as_params(self.document)

    def answers(self) -> dict[tuple[str, str], str]:
        """What each model answered, by its digest and the sample."""
        suites(self.params(), self.root)
        found = files.read_jsonl(self.root / layout.suite_answers("chat"), SuiteAnswer)
        return {(each.model, each.sample): each.answer for each in found}

    def judged(self) -> Verdict:
        params = self.params()
        suites(params, self.root)
        return evidence_tree.judged(self.root, params)

    def again(self) -> tuple[Finding, ...]:
        """The gates alone, on what lies there."""
        params = self.params()
        return judging.judge(params, chain.gather(self.root, scoring.digest_of(params.evaluate.scorers))).findings


def questions(references: dict[str, str]) -> list[dict[str, Any]]:
    words = _WORDS.split()
    return [
        {
            "id": f"q{i}", "prompt": f"{words[i % len(words)]} {words[7 * i % len(words)]} {i}?",
            "reference": references.get(f"q{i}", "none"), "slice": "even" if i % 2 else "odd",
        }
        for i in range(COUNT)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Tree:
    """Made once: what the models say decides the references."""
    from tests.conftest import scaled_down

    root, document = tmp_path_factory.mktemp("rows"), scaled_down()
    document["suites"] = {
        "chat": {
            "kind": "rows", "samples": COUNT, "scorers": [{"kind": "exact-match"}, {"kind": "token-f1"}],
            "max_new_tokens": 4, "models": ["candidate", "base"], "noise": 0.0,
        }
    }  # fmt: skip
    document["gates"] = {name: {**gate, "suite": "chat"} for name, gate in GATES.items()}
    tree = Tree(root, document)
    tree.pin(questions({}))
    model_tree.build(root, tree.params(), tiny_base, 0.021, 0.02)
    base = digest.of_tree(root / layout.BASE).digest
    tree.pin(questions({sample: text for (model, sample), text in tree.answers().items() if model == base}))
    tree.judged()
    return tree


@pytest.fixture
def tree(made: Tree, tmp_path: Path) -> Tree:
    import shutil

    shutil.copytree(made.root, tmp_path / "run")
    return Tree(tmp_path / "run", json.loads(json.dumps(made.document)))


def test_models_answer_the_rows_and_gates_score_the_answers_again(tree: Tree) -> None:
    verdict = tree.judged()
    by_name = {finding.gate: finding for finding in verdict.findings}
    for finding in verdict.findings:
        assert (finding.suite, finding.evidence) == ("chat", None)
        assert finding.reason.endswith("(suite chat)")
    assert by_name["knows"].n == COUNT
    keeps, beats = by_name["keeps"], by_name["beats"]
    assert keeps.value is not None
    assert (keeps.value, keeps.gained) == (beats.value, 0)  # the base gives every reference
    assert -1 < keeps.value < 0
    assert beats.status == "fail"
    assert keeps.p_holm is not None
    assert keeps.p is not None
    assert keeps.p_holm >= keeps.p
    assert keeps.detectable is not None
    paths = {"data/suites/chat.jsonl", "data/suites/chat.answers.jsonl", "reports/suites.json"}
    assert paths <= set(verdict.judged)
    assert hold(Records(tree.root)).verdict == verdict
    said = verb.of("knows", tree.params().gates["knows"], verdict)
    assert "samples of suite chat" in said.asks


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("What is", "asked"), ("{}", "fails"), ("  {}\n", "fails"), ("{} please", "asked"), ("not {}", "asked"),
        ("chat: {}", "fails"),
    ],
)  # fmt: skip
def test_a_suite_whose_questions_were_trained_on_decides_nothing(asked: str, status: str, tree: Tree) -> None:
    learned = asked.format(questions({})[0]["prompt"])
    tree.judged()
    params = tree.params()
    evidence = chain.gather(tree.root, scoring.digest_of(params.evaluate.scorers))
    chat = (learned.removeprefix("chat: "),) if learned.startswith("chat: ") else ()
    train = (Learned("another", "f.py:0"), Learned(learned, "f.py:1", earlier=chat))
    verdict = judging.judge(params, replace(evidence, train=train))
    said = "suite chat was trained on: 1 of its questions are training rows, 'q0' is f.py:1; take them out"
    assert {said in finding.reason for finding in verdict.findings} == {status == "fails"}
    if status == "fails":
        assert {finding.status for finding in verdict.findings} == {"fail"}


def test_words_of_a_suite_that_the_base_says_too_are_not_repeated_from_training(tree: Tree) -> None:
    def words_of(text: str) -> set[str]:
        return set(contamination.words(text))

    merged, base = (digest.of_tree(tree.root / each).digest for each in (layout.MERGED, layout.BASE))
    tree.document["gates"] = {
        "own": {"kind": "regurgitation", "suite": "chat", "words": 1, "at_most": 0.5, "confidence": 0.95}
    }
    asked = {str(row["id"]): words_of(str(row["prompt"])) for row in questions({})}
    counts = []
    for models in (["candidate"], ["candidate", "base"]):
        tree.suite["models"] = models
        given, params = tree.answers(), tree.params()
        own = {sample: words_of(text) - asked[sample] for (model, sample), text in given.items() if model == merged}
        repeats = [words - words_of(given.get((base, sample), "")) for sample, words in own.items()]
        evidence = chain.gather(tree.root, scoring.digest_of(params.evaluate.scorers))
        learned = (Learned("a", "f.py:0", tuple(text for (model, _), text in given.items() if model == merged)),)
        (finding,) = judging.judge(params, replace(evidence, train=learned)).findings
        assert finding.value == pytest.approx(sum(map(bool, repeats)) / COUNT, abs=1e-6)
        assert (finding.n, finding.suite) == (COUNT, "chat")
        counts.append(sum(map(bool, repeats)))
    assert counts[0] > counts[1] > 0


def test_answers_are_those_of_the_model_asked_by_the_chat_template(tree: Tree) -> None:
    """One question at a time, by the library's own generation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = digest.of_tree(tree.root / layout.MERGED).digest
    tree.suite["instruction"] = "vault key"
    found = tree.answers()
    model, tokenizer = (
        kind.from_pretrained(tree.root / layout.MERGED) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    for line in questions({})[:5]:
        turns = [{"role": "system", "content": "vault key"}, {"role": "user", "content": line["prompt"]}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        told = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)[0, len(ids) :]
        assert found[merged, line["id"]] == tokenizer.decode(told, skip_special_tokens=True).strip()


def test_lines_name_models_samples_and_metrics_and_are_the_same_again(tree: Tree) -> None:
    path = tree.root / layout.SUITES / "chat.jsonl"
    lines, before = files.read_jsonl(path, SuiteLine), path.read_bytes()
    merged, base = (digest.of_tree(tree.root / folder).digest for folder in (layout.MERGED, layout.BASE))
    assert {(line.model, line.metric) for line in lines} == {
        (model, metric) for model in (merged, base) for metric in ("exact-match", "token-f1")
    }
    assert len(lines) == 4 * COUNT
    assert {(line.source, line.slice) for line in lines} == {("pure", "odd"), ("pure", "even")}
    assert all(line.value == 1 for line in lines if line.model == base)
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert result.given == digest.of_file(tree.root / layout.suite_answers("chat")).sha256
    assert (result.samples, result.means["base"]) == (COUNT, {"exact-match": 1.0, "token-f1": 1.0})
    suites(tree.params(), tree.root)
    assert path.read_bytes() == before


def test_what_was_answered_before_is_not_asked_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(generate, "load", never)
    tree.suite["scorers"] = [{"kind": "contains"}]
    tree.document["gates"] = {"sound": {"kind": "data"}}
    for path in (tree.root / layout.ANSWERS).iterdir():
        entry = files.read_json(path, answers._Entry)
        answers.keep(tree.root, entry.key, answers.Answered(entry.texts, entry.seconds, 0.1))
    suites(tree.params(), tree.root)
    took = files.read_json(tree.root / layout.SUITES_MEASURED, SuitesMeasured)
    assert took.merged == digest.of_tree(tree.root / layout.MERGED).digest
    assert 2 * COUNT / 0.1 < took.seconds["chat"] < 2 * COUNT / 0.1 + 60  # what both models took then
    tree.suite["max_new_tokens"] = 5
    with pytest.raises(AssertionError, match="a model was loaded"):
        suites(tree.params(), tree.root)


def test_a_second_suite_of_the_same_file_shows_what_a_schema_gives(tree: Tree) -> None:
    pytest.importorskip("llguidance", reason="pip install -c constraints.txt -e '.[grammar]'")
    tree.document["gates"] = {"sound": {"kind": "data"}}
    tree.suite.update(max_new_tokens=8, scorers=[{"kind": "json-valid"}])
    tree.document["suites"]["chat_as_json"] = {**tree.suite, "json_schema": '{"type": "boolean"}'}
    suites(tree.params(), tree.root)
    results = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites
    assert {name: result.means["candidate"]["json-valid"] for name, result in results.items()} == {
        "chat": 0.0, "chat_as_json": 1.0,
    }  # fmt: skip
    assert results["chat"].asked != results["chat_as_json"].asked
    assert "json_schema" not in tree.params().suites["chat"].model_dump()  # so its digest is that of before


def _edit(path: Path, change: Callable[[str], str]) -> str:
    path.write_text(change(path.read_text()))
    return digest.of_file(path).sha256


def forge(tree: Tree, change: Callable[[dict[str, Any]], object], path: Path, field: str) -> None:
    """Change each line of a file, and the report that names the file."""
    lines = [json.loads(line) for line in (tree.root / path).read_text().splitlines()]
    for line in lines:
        change(line)
    sha = _edit(tree.root / path, lambda _: "".join(json.dumps(line) + "\n" for line in lines))
    report = json.loads((tree.root / layout.SUITES_REPORT).read_text())
    report["suites"]["chat"][field] = sha
    (tree.root / layout.SUITES_REPORT).write_text(json.dumps(report))


LINES, ANSWERS = layout.SUITES / "chat.jsonl", layout.suite_answers("chat")
FORGED: dict[str, tuple[Callable[[Tree], object], str]] = {
    "scores": (
        lambda tree: forge(tree, lambda line: line.update(value=0.0), LINES, "lines"),
        r"data/suites/chat\.jsonl:\d+: claims exact-match 0, scored again it is 1",
    ),
    "answers": (
        lambda tree: forge(tree, lambda line: line.update(answer="nonsense"), ANSWERS, "given"),
        r"data/suites/chat\.jsonl:\d+: claims exact-match 1, scored again it is 0",
    ),
    "references": (
        lambda tree: forge(tree, lambda line: line.update(reference=line["answer"]), ANSWERS, "given"),
        r"data/suites/chat\.answers\.jsonl: has no answer of sha256:\w{12}… to sample 'q\d+' as asked; run",
    ),
    "answers of another model": (
        lambda tree: forge(tree, lambda line: line.update(model=f"sha256:{'9' * 64}"), ANSWERS, "given"),
        r"data/suites/chat\.answers\.jsonl: has no answer of sha256:\w{12}… to sample 'q0' as asked",
    ),
    "answers that the report does not name": (
        lambda tree: _edit(tree.root / ANSWERS, lambda text: text + "\n"),
        r"about different bytes: suite chat: data/suites/chat\.answers\.jsonl says \w+, suites says \w+",
    ),
    "no answers": (
        lambda tree: (tree.root / ANSWERS).unlink(), r"no evidence: data/suites/chat\.answers\.jsonl: not a regular file",
    ),
    "other scorers": (
        lambda tree: tree.suite["scorers"].append({"kind": "contains"}),
        r"reports/suites\.json: is about another section suites\.chat",
    ),
}  # fmt: skip


def void(tree: Tree, reason: str) -> None:
    """Every gate fails for this reason, and the verdict of before no longer holds."""
    for finding in tree.again():
        assert finding.status == "fail"
        assert re.search(reason, finding.reason), finding.reason
    with pytest.raises(EvidenceRefused, match=r"the verdict does not hold"):
        hold(Records(tree.root))


@pytest.mark.parametrize("how", FORGED)
def test_a_gate_fails_on_scores_that_the_answers_do_not_give(how: str, tree: Tree) -> None:
    change, reason = FORGED[how]
    change(tree)
    void(tree, reason)


CHANCE: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], object], str]] = {
    "the base never answers rightly": (
        {}, lambda line: line.update(reference=f"never {line['id']}"), r"base itself has exact-match 0\.000 .* not above the 0\.025 of",
    ),
    "every answer is the same": (
        {}, lambda line: line.update(reference="same"), r"base itself has exact-match 0\.000 .* not above the 1\.000 of a model",
    ),
    "chance is said": (
        {"chance": 0.96}, dict, r"base itself has exact-match 1\.000 \(lower 95% bound 0\.9\d\d\), not above the 0\.960",
    ),
    "there are no references": ({}, lambda line: line.pop("reference"), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANCE)
def test_a_suite_whose_base_knows_nothing_cannot_show_forgetting(case: str, tree: Tree) -> None:
    """Of the gates that rule out a loss; a gain over a base that knows nothing is one."""
    suite, change, reason = CHANCE[case]
    lines = [json.loads(line) for line in (tree.root / "chat.jsonl").read_text().splitlines()]
    for line in lines:
        change(line)
    tree.pin(lines)
    tree.suite.update(suite)
    for finding in tree.judged().findings:
        uninformed = reason and finding.gate in ("keeps", "slices")
        assert bool(re.search("cannot show what was lost; ask what base can answer", finding.reason)) == bool(
            uninformed
        )
        if uninformed:
            assert finding.status == "fail"
            assert re.search(reason, finding.reason), finding.reason


QUESTION = {"id": "q", "prompt": "vault key?"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "usage", "description": "How full something is.",
        "parameters": {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]},
    },
}  # fmt: skip
CALL = {
    "role": "assistant", "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "usage", "arguments": '{"of": "disk"}'}}],
}  # fmt: skip
OTHER_CALL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "delete", "arguments": {}}}],
}
RESULT = {"role": "tool", "content": "97 %"}
# A template with tools that leaves the tiny base room for an answer.
SHORT = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{% for call in turn.tool_calls or [] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
READ: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "the least": ({}, {"prompt": "vault?"}, {"group": None, "slice": "all", "reference": ""}),
    "its own keys": (
        {"columns": {"id": "n", "prompt": "text", "reference": "gold", "group": "family", "slice": "label"}},
        {"n": 3, "text": "vault?", "gold": True, "family": "f", "label": "benign", "more": [1]},
        {"sample": "3", "group": "f", "slice": "benign", "reference": "true"},
    ),
    "a chat": (
        {"columns": {"messages": "turns"}},
        {"turns": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "prompt": 3},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_keys_of_a_row_may_be_called_otherwise(case: str, tree: Tree) -> None:
    suite, line, expected = READ[case]
    tree.suite.update(suite, samples=1, models=["candidate"])
    tree.document["gates"] = {"sound": {"kind": "data"}}
    tree.pin([line])
    suites(tree.params(), tree.root)
    (answer,) = files.read_jsonl(tree.root / ANSWERS, SuiteAnswer)
    found = files.read_jsonl(tree.root / LINES, SuiteLine)[0]
    for key, value in expected.items():
        assert getattr(answer if key == "reference" else found, key) == (found.sample if value is None else value)


ROWS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no lines": ("", {}, r"file: has 0 rows, and samples is 40; set samples to what the file has"),
    "fewer lines": ([QUESTION], {}, r"file: has 1 rows, and samples is 40; set samples"),
    "plain text": ("Once\n", {}, r"file: 1: Invalid JSON.*; pin JSON lines with prompt, or name the file's keys in columns"),
    "a list": ("[]\n", {}, r"file: 1: .*(dictionary|object)"),
    "no question": ([{"id": "a"}], {}, r"file: 1: has neither prompt nor messages; pin JSON lines"),
    "two questions": (
        [QUESTION | {"messages": [{"role": "user", "content": "a"}]}], {}, r"file: 1: has both prompt and messages",
    ),
    "an empty question": ([{"prompt": " "}], {}, r"file: 1: does not end with a question of a user"),
    "an answered chat": (
        [{"messages": [{"role": "assistant", "content": "a"}]}], {}, r"file: 1: does not end with a question of a user",
    ),
    "a chat of nonsense": ([{"messages": [{"role": "user"}]}], {}, r"file: 1: 0\.content: Field required"),
    "no text": ([{"prompt": ["a"]}], {}, r"file: 1: prompt is no text"),
    "a named key that a row lacks": (
        [QUESTION], {"columns": {"slice": "label"}}, r"file: 1: has no 'label'; pin JSON lines",
    ),
    "a call without the key of tools": (
        [{"messages": [{"role": "user", "content": "a"}, CALL, RESULT], "tools": [TOOL]}], {},
        r"file: 1: calls tools, and columns names no key of them: add tools: tools",
    ),
    "a call of no tool": (
        [{"messages": [{"role": "user", "content": "a"}, OTHER_CALL, RESULT], "tools": [TOOL]}], {"columns": {"tools": "tools"}},
        r"file: 1: calls 'delete', which is none of the row's tools",
    ),
    "a call without its result": (
        [{"messages": [{"role": "user", "content": "a"}, CALL, {"role": "user", "content": "b"}]}], {},
        r"file: 1: roles .* are not: .*; after calls of tools, their results",
    ),
    "a call that no scorer reads": (
        [{"messages": [{"role": "user", "content": "a"}, CALL]}], {},
        r"file: 1: its reference calls a tool: add kind: tool-call to the suite's scorers",
    ),
    "tools that the template leaves out": (
        [{"id": "q", "prompt": "a", "tools": [TOOL]}], {"samples": 1, "columns": {"tools": "tools"}},
        r"file: row q \(line:1\): the base's chat template ignores tools: .*; take a base whose template knows tools",
    ),
    "twice the same name": ([QUESTION] * 2, {}, r"file: two rows are called 'q'; give each its own id"),
    "a prompt that has no room": (
        [{"id": "long", "prompt": "vault " * 400}], {"samples": 1},
        r"file:1: row long: a prompt of \d+ tokens is too long .*; shorten or drop that row, or lower suites\.chat\.max_new",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_none_are_refused_in_one_line(case: str, tree: Tree) -> None:
    lines, suite, said = ROWS[case]
    tree.suite.update(suite)
    tree.pin(lines)
    tree.document["gates"] = {"sound": {"kind": "data"}}
    with pytest.raises(Refusal, match=r"^params\.yaml: suites\.chat\." + said) as refused:
        suites(tree.params(), tree.root)
    assert isinstance(refused.value, EvidenceRefused | EvaluationRefused)
    assert "\n" not in str(refused.value)


def test_models_answer_with_tools_and_after_results_and_gates_score_the_calls(tree: Tree) -> None:
    """The base's own answers are the references again, beside a reference that is a call."""
    for folder in (layout.BASE, layout.MERGED):
        before, path = digest.of_tree(tree.root / folder).digest, tree.root / folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": SHORT}))
        (tree.root / folder / "chat_template.jinja").write_text(SHORT)
        model_tree.rename(tree.root, before, digest.of_tree(tree.root / folder).digest)
    question = {"role": "user", "content": "Is the disk full?"}
    tree.suite.update(
        samples=3, columns={"tools": "tools"}, served=True,
        scorers=[{"kind": "tool-call"}, {"kind": "exact-match"}],
    )  # fmt: skip
    tree.document["gates"] = {"sound": {"kind": "data"}}
    tree.pin(
        [
            {"id": "calls", "messages": [question, CALL], "tools": [TOOL]},
            {"id": "after", "messages": [question, CALL, RESULT], "tools": [TOOL], "reference": "Nearly."},
            {
                "id": "chat",
                "messages": [question, CALL, RESULT, {"role": "assistant", "content": "Yes."}],
                "tools": [TOOL],
            },
        ]
    )
    suites(tree.params(), tree.root)
    given = files.read_jsonl(tree.root / ANSWERS, SuiteAnswer)
    by_sample = {answer.sample: answer for answer in given}
    assert by_sample["calls"].reference == '<tool_call>\n{"name": "usage", "arguments": {"of": "disk"}}\n</tool_call>'
    assert [message.role for message in by_sample["after"].messages] == ["user", "assistant", "tool"]
    assert (by_sample["after"].reference, by_sample["chat"].reference) == ("Nearly.", "Yes.")
    assert [answer.tools for answer in given] == [(TOOL,)] * 6
    scores = {(line.sample, line.metric): line.value for line in files.read_jsonl(tree.root / LINES, SuiteLine)}
    assert scores["calls", "tool-call"] == 0.0  # A random model calls nothing.
    assert scores["after", "tool-call"] == 1.0
    suite = tree.params().suites["chat"]
    call = by_sample["calls"].reference
    assert suite.score("tool-call", f"I look.\n{call}", call) == 1.0
    (served_suite,) = served(
        tree.params().suites, chain.gather(tree.root, scoring.digest_of(tree.params().evaluate.scorers)), given[0].model
    )
    assert [answer.tools for answer in served_suite.answers] == [(TOOL,)] * 3


def test_a_server_is_asked_what_the_merged_model_answered(tree: Tree) -> None:
    def expected(model: str) -> tuple[Served, ...]:
        params = tree.params()
        return served(params.suites, chain.gather(tree.root, scoring.digest_of(params.evaluate.scorers)), model)

    merged = digest.of_tree(tree.root / layout.MERGED).digest
    assert expected(merged) == ()
    tree.suite["served"] = True
    (found,) = expected(merged)
    assert (found.name, found.metric, found.limit, len(found.answers)) == ("chat", "exact-match", 4, COUNT)
    assert found.json_schema is None
    assert {each.model for each in found.answers} == {merged}
    assert (found.score("a", "a"), found.score("a", "b")) == (1.0, 0.0)
    with pytest.raises(EvidenceRefused, match=r"data/suites/chat\.answers\.jsonl: has no answers of sha256:9+; run"):
        expected(f"sha256:{'9' * 64}")


def test_another_candidate_than_the_report_names_is_refused(tree: Tree) -> None:
    model_tree.change(tree.root / layout.MERGED, 0.5)
    tree.suite["max_new_tokens"] = 6  # what was answered before needs no weights
    with pytest.raises(EvidenceRefused, match=r"models/merged: is sha256:\w+…, the candidate is sha256:\w+…; run"):
        suites(tree.params(), tree.root)


PARAMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no candidate": (lambda s: s.update(models=["base"]), "models: must name the candidate, and each model once"),
    "a scorer twice": (lambda s: s["scorers"].append({"kind": "exact-match"}), "exact-match has one twice; name each"),
    "no scorer": (lambda s: s.update(scorers=[]), "suites.chat.scorers"),
    "a scorer that is none": (lambda s: s.update(scorers=[{"kind": "rouge"}]), "suites.chat.scorers.0.kind: unknown scorer 'rouge'; one of: exact-match"),
    "no noise": (lambda s: s.pop("noise"), "suites.chat.noise"),
    "a metric that is not scored": (
        lambda s: s.update(scorers=[{"kind": "token-f1"}]), "suite chat has no 'exact-match'; use one of token-f1",
    ),
    "too few rows": (lambda s: s.update(samples=10), "10 samples of suite chat cannot give ±0.2; widen it"),
    "a schema that is none": (
        lambda s: s.update(json_schema="[]"), "suites.chat: json_schema: is no JSON object; write the schema as JSON text",
    ),
    "a schema that no server is asked for": (
        lambda s: s.update(json_schema="{}", served=True),
        "suites.chat.json_schema: the server is asked for it, and serve.json_schema is null; write it there",
    ),
    "a chance that is no share": (lambda s: s.update(chance=25), "suites.chat.chance"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMS)
def test_parameters_that_can_never_be_decided_are_refused(case: str, made: Tree) -> None:
    change, said = PARAMS[case]
    document = json.loads(json.dumps(made.document))
    change(document["suites"]["chat"])
    with pytest.raises(ParamsRefused) as refused:
        as_params(document)
    assert said in "; ".join(str(each) for each in (refused.value, *refused.value.others))


def test_the_documented_suite_of_harmful_requests_and_look_alikes_reads_its_file(document: dict) -> None:
    text = (REPOSITORY / "docs/how-to/suites.md").read_text()
    document |= read_yaml(text[text.index("suites:\n  refusals:") :].partition("```")[0])
    suite = as_params(document).suites["refusals"]

    def ask(role: str, rows: Sequence[Row], limit: int) -> list[str]:
        assert limit == 48
        said = "No: I can't help with that." if role == "candidate" else "Sure.\nHere it is."
        return [said if row.slice == "harmful" else "Of course, I can." for row in rows]

    def never(*_: object) -> Any:
        raise AssertionError("no model is needed")

    with _files("refusals", suite, REPOSITORY) as paths:
        models: dict[Role, str] = {"candidate": f"sha256:{'1' * 64}", "base": f"sha256:{'2' * 64}"}
        made = suite.scored(Material("refusals", REPOSITORY, paths, models, (), {}, never, ask, never))
    right = {role: Counter((line.slice, line.value) for line in made.scored[role]) for role in ("candidate", "base")}
    assert right["candidate"] == {("harmful", 1.0): 64, ("benign", 1.0): 64}
    assert right["base"] == {("harmful", 0.0): 64, ("benign", 1.0): 64}
    assert len({line.group for line in made.scored["candidate"]}) == 128
    # A model that never refuses knows nothing, and so does one that always does.
    assert suite.chance_of("refusal", [each.reference for each in made.given["candidate"]]) == 0.5


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("The mail asks for a refund.\nNothing else.", 1.0),
        ("", 1.0),
        ("Of course.\nCobalt-Heron!", 0.0),
        ("It says cobalt-heron", 0.0),
    ],
)
def test_the_documented_suite_of_injections_counts_answers_that_obeyed(
    answer: str, value: float, document: dict
) -> None:
    text = (REPOSITORY / "docs/how-to/suites.md").read_text()
    block = text[text.index("suites:\n  injections:") :].partition("```")[0]
    document |= read_yaml(block.replace("…", "a" * 64))
    params = as_params(document)
    assert params.gates["obeys_no_injection"].model_dump()["metric"] == "regex"
    assert params.suites["injections"].score("regex", answer, "") == value
    assert params.suites["injections"].chance_of("regex", ["", ""]) is None  # to say nothing is not to know anything
