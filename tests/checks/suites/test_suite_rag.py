"""Suites of kind rag: passages of a pinned corpus are retrieved, real small models answer from them, gates score again."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.evaluation import scoring
from checks.formats.suite_report import Role, SuiteAnswer, SuiteLine, SuitesReport
from checks.gating import chain
from checks.kinds.retriever import Search, no_model
from checks.kinds.suite import Material
from checks.process.errors import EvaluationRefused, ParamsRefused, Refusal
from checks.records.rows import Row
from checks.retrievers.bm25 import Bm25
from checks.stats.paired import two_sided
from checks.storage import digest, files, layout
from release.record.records import Records
from release.record.verdict_check import hold
from release.review.same_rows import pair_samples, together
from release.serving.suite_questions import served
from stages.inference.encoders import embed
from stages.suites import _files, suites
from tests import model_tree
from tests.checks.suites.test_suite_rows import ANSWERS, LINES, Tree, forge, void
from tests.conftest import _WORDS, REPOSITORY, as_params, read_yaml
from tests.http_standin import Handler, StandIn
from tests.stages.inference.test_encoders import cross_encoder

pytestmark = pytest.mark.slow

GOLD, OTHER = 32, 8
WORDS = _WORDS.split()
BM25 = {"kind": "bm25", "k1": 1.5, "b": 0.75, "stopwords": None}
GATES: dict[str, dict[str, Any]] = {
    "finds": {"kind": "threshold", "metric": "recall-at-k", "at_least": 0.3, "confidence": 0.95, "resolution": 0.4},
    "abstains": {"kind": "threshold", "metric": "abstains", "at_least": 0.1, "confidence": 0.8, "resolution": 0.5},
    "attempts": {"kind": "threshold", "metric": "attempted", "at_least": 0.1, "confidence": 0.95, "resolution": 0.4},
    "grounded": {"kind": "threshold", "metric": "grounded", "at_least": 0.05, "confidence": 0.95, "resolution": 0.4},
    "answers": {
        "kind": "non_inferior", "metric": "gold/exact-match", "against": "base", "margin": 0.4, "confidence": 0.95,
    },
    "answers_retrieved": {
        "kind": "improves", "metric": "retrieved/exact-match", "against": "base", "margin": 0.0, "confidence": 0.95,
    },
}  # fmt: skip


def corpus() -> list[dict[str, Any]]:
    """Documents of three words and a number; the first two tell them apart."""
    return [
        {"id": f"d{n}", "text": f"{WORDS[n % 7]} {WORDS[12 + n % 5]} name {n}", "title": "left alone"}
        for n in range(GOLD)
    ]


def questions() -> list[dict[str, Any]]:
    return [
        {"id": f"q{n}", "prompt": f"{WORDS[n % 7]} {WORDS[12 + n % 5]}?", "reference": str(n), "gold": [f"d{n}"]}
        for n in range(GOLD)
    ] + [{"id": f"none{n}", "prompt": f"zebra {n}?", "gold": []} for n in range(OTHER)]


def pin_corpus(tree: Tree, lines: list[dict[str, Any]] | str) -> None:
    path = tree.root / "corpus.jsonl"
    path.write_text(lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines))
    sha256 = digest.of_file(path).sha256.removeprefix("sha256:")
    tree.suite["corpus"] = {"uri": path.name, "sha256": sha256, "license": "MIT"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Tree:
    """Made once: what the base says of the gold passages is the reference."""
    from tests.conftest import scaled_down

    root, document = tmp_path_factory.mktemp("rag"), scaled_down()
    document["suites"] = {
        "chat": {
            "kind": "rag", "samples": GOLD + OTHER, "scorers": [{"kind": "exact-match"}], "max_new_tokens": 3,
            "models": ["candidate", "base"], "noise": 0.0, "chunker": None, "retriever": BM25, "top_k": 2,
            "max_words": 12, "prompt": "$passages $question",
            "unanswerable": {"rows": OTHER, "abstains": "(?s).*[a-z].*"},
        }
    }  # fmt: skip
    document["gates"] = {name: {**gate, "suite": "chat"} for name, gate in GATES.items()}
    tree = Tree(root, document)
    pin_corpus(tree, corpus())
    tree.pin(questions())
    model_tree.build(root, tree.params(), tiny_base, 0.021, 0.02)
    base = digest.of_tree(root / layout.BASE).digest
    suites(tree.params(), root)
    given = files.read_jsonl(root / ANSWERS, SuiteAnswer)
    said = {a.sample: a.answer for a in given if a.model == base and a.reading and a.reading.setting == "gold"}
    tree.pin([line | ({"reference": said[line["id"]]} if line["gold"] else {}) for line in questions()])
    tree.judged()
    return tree


@pytest.fixture
def tree(made: Tree, tmp_path: Path) -> Tree:
    shutil.copytree(made.root, tmp_path / "run")
    return Tree(tmp_path / "run", json.loads(json.dumps(made.document)))


def values(tree: Tree, folder: Path) -> dict[str, dict[str, float]]:
    """Of one model: metric to sample to value."""
    model = digest.of_tree(tree.root / folder).digest
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in files.read_jsonl(tree.root / LINES, SuiteLine):
        if line.model == model:
            found[line.metric][line.sample] = line.value
    return found


def test_each_metric_scores_its_rows_and_a_gate_sees_those_alone(tree: Tree) -> None:
    base, ours = values(tree, layout.BASE), values(tree, layout.MERGED)
    assert {metric: len(found) for metric, found in ours.items()} == {
        "retrieved/exact-match": GOLD + OTHER, "grounded": GOLD + OTHER, "recall-at-k": GOLD, "gold/exact-match": GOLD,
        "abstains": OTHER, "attempted": GOLD,
    }  # fmt: skip
    assert set(base["gold/exact-match"].values()) == {1.0}
    assert ours["recall-at-k"] == base["recall-at-k"]  # which no model changes
    assert set(ours["recall-at-k"].values()) == {1.0}  # one document has both words of a question
    assert base["abstains"].items() <= base["retrieved/exact-match"].items()
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert set(result.files) == {"file", "corpus"}
    assert result.means["base"]["gold/exact-match"] == 1
    verdict = tree.judged()
    assert {finding.gate: finding.n for finding in verdict.findings} == {
        "finds": GOLD, "abstains": OTHER, "attempts": GOLD, "grounded": GOLD + OTHER, "answers": GOLD, "answers_retrieved": GOLD + OTHER,
    }  # fmt: skip
    by_name = {finding.gate: finding for finding in verdict.findings}
    assert (by_name["finds"].status, by_name["finds"].evidence) == ("pass", None)
    assert hold(Records(tree.root)).verdict == verdict


def test_a_model_reads_the_gold_passage_or_what_was_retrieved(tree: Tree) -> None:
    given = files.read_jsonl(tree.root / ANSWERS, SuiteAnswer)
    read = {(a.sample, a.reading.setting): a for a in given if a.reading}
    assert read["q3", "gold"].messages[-1].content == "[1] vault my name 3 vault my?"
    shown = read["q3", "retrieved"].messages[-1].content
    assert shown.startswith("[1] ")
    assert "\n\n[2] " in shown
    assert read["none0", "retrieved"].messages[-1].content == "(none) zebra 0?"
    assert ("none0", "gold") not in read


def test_a_server_is_asked_with_the_same_passages(tree: Tree) -> None:
    tree.suite["served"] = True
    params = tree.params()
    evidence = chain.gather(tree.root, scoring.digest_of(params.evaluate.scorers))
    (found,) = served(params.suites, evidence, digest.of_tree(tree.root / layout.MERGED).digest)
    assert (found.metric, len(found.answers)) == ("retrieved/exact-match", 2 * GOLD + OTHER)
    assert (found.score("a", "a"), found.score("a", "b"), found.score("some", ""), found.score("?", "")) == (1, 0, 1, 0)


def _drop(metric: str) -> Callable[[Tree], object]:
    def change(tree: Tree) -> None:
        kept = [each for each in (tree.root / LINES).read_text().splitlines() if json.loads(each)["metric"] != metric]
        (tree.root / LINES).write_text("".join(f"{each}\n" for each in kept))
        forge(tree, dict, LINES, "lines")

    return change


def _claim(line: dict[str, Any]) -> None:
    for each in line["reading"]["passages"]:
        each["id"] += "x"


def _quote(line: dict[str, Any]) -> None:
    for each in line["reading"]["gold"]:
        each["quote"] = "key"


FORGED: dict[str, tuple[Callable[[Tree], object], str]] = {
    "a metric of some rows is left out": (_drop("abstains"), r"data/suites/chat\.jsonl: has no abstains of sha256:\w+… on 'none0'"),
    "a metric of all rows is left out": (_drop("grounded"), r"chat\.jsonl: candidate: samples .* not scored by grounded"),
    "other passages are claimed": (
        lambda tree: forge(tree, _claim, ANSWERS, "given"), r"chat\.jsonl:\d+: claims recall-at-k 1, scored again it is 0",
    ),
    "other texts are claimed": (
        lambda tree: forge(tree, lambda line: line["reading"]["passages"].clear(), ANSWERS, "given"),
        r"chat\.answers\.jsonl: has no answer of sha256:\w+… to sample 'q0' as asked",
    ),
    "another quote is claimed": (
        lambda tree: forge(tree, _quote, ANSWERS, "given"),
        r"chat\.answers\.jsonl: has no answer of sha256:\w+… to sample 'q0' as asked",
    ),
    "other gold is claimed": (
        lambda tree: forge(tree, lambda line: line["reading"]["gold"].clear(), ANSWERS, "given"),
        r"chat\.answers\.jsonl: has no answer of sha256:\w+… to sample 'q0' as asked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_a_gate_fails_on_scores_that_answers_and_passages_do_not_give(how: str, tree: Tree) -> None:
    change, reason = FORGED[how]
    change(tree)
    void(tree, reason)


def test_two_retrievers_are_compared_on_the_same_questions(tree: Tree) -> None:
    """So `lockstep compare` gives the gain of another k, chunker or retriever as a paired figure."""
    before = files.read_jsonl(tree.root / LINES, SuiteLine)
    tree.suite.update(top_k=1, models=["candidate"], chunker={"words": 3, "overlap": 2})
    tree.document["gates"] = {"sound": {"kind": "data"}}
    suites(tree.params(), tree.root)
    after = files.read_jsonl(tree.root / LINES, SuiteLine)
    for metric, count in (("recall-at-k", GOLD), ("retrieved/exact-match", GOLD + OTHER)):
        old, new = ([each for each in side if each.metric == metric] for side in (before, after))
        assert len(pair_samples([each for each in old if each.model == new[0].model], new)[0]) == count


QUESTION, TEXT = (
    {"id": "q", "prompt": "key?", "reference": "1", "gold": ["d"]},
    {"id": "d", "text": "key 1 in the list"},
)
REFUSED: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | str, dict[str, Any], str]] = {
    "no gold key": ([{"prompt": "key?", "reference": "1"}], [TEXT], {}, r"file: 1: has no gold; an empty list says"),
    "gold of nonsense": ([QUESTION | {"gold": [3]}], [TEXT], {}, r"file: 1: 0: .*dictionary"),
    "gold without an id": ([QUESTION | {"gold": [{"quote": "key"}]}], [TEXT], {}, r"file: 1: 0\.id: Field required"),
    "gold and no reference": ([QUESTION | {"reference": " "}], [TEXT], {}, r"file: 1: has gold and no reference"),
    "a reference and no gold": ([QUESTION | {"gold": []}], [TEXT], {}, r"file: 1: has a reference and no gold"),
    "another number without gold": (
        [{"id": "q", "prompt": "key?", "gold": []}], [TEXT], {}, r"file: 1 rows have no gold, and unanswerable has 0; set",
    ),
    "gold that is no document": (
        [QUESTION | {"gold": ["d", "e"]}], [TEXT], {}, r"file: 1: row q: no document is called 'e'; name documents",
    ),
    "a quote that no document has": (
        [QUESTION | {"gold": [{"id": "d", "quote": "disk"}]}], [TEXT], {}, r"file: 1: row q: 'd' has no passage with the whole of 'disk'",
    ),
    "a quote that is cut": (
        [QUESTION | {"gold": [{"id": "d", "quote": "1 in the"}]}], [TEXT], {"chunker": {"words": 2, "overlap": 0}},
        r"file: 1: row q: 'd' has no passage with the whole of '1 in the'; .* chunker\.overlap must be as long",
    ),
    "gold that does not fit": (
        [QUESTION | {"gold": ["d", "e"]}], [TEXT, {"id": "e", "text": "a b c d e f g h"}], {},
        r"file: 1: row q: its gold passages have 13 words, and max_words is 12; raise it",
    ),
    "a passage that does not fit": ([QUESTION], [TEXT], {"max_words": 4}, r"corpus: 'd' has 5 words, and max_words is 4"),
    "a prompt that does not fit": (
        [QUESTION | {"id": "a"}, QUESTION], [{"id": "d", "text": "zebra" * 60}], {"samples": 2},
        r"file:1: row a: a prompt of \d+ tokens is too long .*; lower suites\.chat\.max_words or max_new_tokens",
    ),
    "an empty corpus": ([QUESTION], [], {}, r"corpus: has no documents; see docs/how-to/rag\.md"),
    "a corpus of plain text": ([QUESTION], "Once\n", {}, r"corpus: 1: Invalid JSON"),
    "a document without text": ([QUESTION], [{"id": "d", "text": " "}], {}, r"corpus: document 'd' has no text"),
    "a name that is too long": ([QUESTION], [{"id": "d" * 500, "text": "key"}], {"chunker": {"words": 2, "overlap": 0}}, r"corpus: id: String should"),
    "a document twice": ([QUESTION], [TEXT, TEXT], {}, r"corpus: two documents are called 'd'"),
    "a corpus without words": ([QUESTION], [{"id": "d", "text": "?!"}], {}, r"corpus: has no words"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_refused_in_one_line(case: str, tree: Tree) -> None:
    lines, texts, suite, said = REFUSED[case]
    tree.suite.update({"unanswerable": None, "samples": 1} | suite)
    tree.document["gates"] = {"sound": {"kind": "data"}}
    pin_corpus(tree, texts)
    tree.pin(lines)
    with pytest.raises(Refusal, match=r"^params\.yaml: suites\.chat\." + said) as refused:
        suites(tree.params(), tree.root)
    assert "\n" not in str(refused.value)


MODEL = {"uri": "encoder", "sha256": None, "license": None}
PARAMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no question": (lambda s: s.update(prompt="$passages"), "prompt: does not hold $passages and $question alone"),
    "an unknown text": (lambda s: s.update(prompt="$passages $question $id"), "prompt: does not hold $passages and"),
    "a lone dollar": (lambda s: s.update(prompt="$passages $question 5 $"), "write both, and $$ for a dollar"),
    "an overlap of whole passages": (
        lambda s: s.update(chunker={"words": 3, "overlap": 3}), "overlap: 3 is not below words, 3; lower it",
    ),
    "no expression": (
        lambda s: s["unanswerable"].update(abstains="("), "abstains: '(' is no regular expression",
    ),
    "fewer candidates than passages": (
        lambda s: s.update(reranker={"model": MODEL, "candidates": 1}), "reranker.candidates: 1 is below top_k, 2; raise it",
    ),
    "another retriever": (lambda s: s["retriever"].update(kind="sparse"), "unknown retriever 'sparse'; one of: bm25, dense, hybrid, recorded"),
    "a metric of no row": (lambda s: s.update(unanswerable=None), "suite chat has no 'abstains'; use one of retrieved/"),
    "too few rows without gold": (
        lambda s: s["unanswerable"].update(rows=1), "gates.abstains.resolution: 1 samples of suite chat cannot give ±0.5",
    ),
    "too few rows with gold": (
        lambda s: s["unanswerable"].update(rows=39), "gates.finds.resolution: 1 samples of suite chat cannot give ±0.4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMS)
def test_parameters_that_cannot_be_meant_are_refused(case: str, made: Tree) -> None:
    change, said = PARAMS[case]
    document = json.loads(json.dumps(made.document))
    change(document["suites"]["chat"])
    with pytest.raises(ParamsRefused) as refused:
        as_params(document)
    assert said in "; ".join(str(each) for each in (refused.value, *refused.value.others))


def test_chance_is_the_commonest_reference_or_to_abstain_always(made: Tree) -> None:
    suite = made.params().suites["chat"]
    references = ["a", "a", "b", "", ""]
    assert suite.chance_of("retrieved/exact-match", references) == pytest.approx(0.4)
    assert suite.chance_of("retrieved/exact-match", ["a", "b", "", "", ""]) == pytest.approx(0.6)
    assert suite.chance_of("gold/exact-match", ["a", "a", "b"]) == pytest.approx(2 / 3)
    assert [suite.chance_of(metric, references) for metric in ("recall-at-k", "grounded", "abstains")] == [None] * 3


def dense(tree: Tree, encoder: Path, **more: Any) -> None:
    """Let the suite retrieve by the encoder, with the candidate alone."""
    shutil.copytree(encoder, tree.root / "encoder")
    sha = digest.of_tree(tree.root / "encoder").digest.removeprefix("sha256:")
    retriever = {"kind": "dense", "model": MODEL | {"sha256": sha}, "pooling": "mean"} | more
    tree.suite.update(retriever=retriever, models=["candidate"])
    tree.document["gates"] = {"sound": {"kind": "data"}}


def test_a_suite_retrieves_by_a_pinned_encoder(tree: Tree, encoder: Path) -> None:
    dense(tree, encoder)
    tree.suite["top_k"] = 3
    suites(tree.params(), tree.root)
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert set(result.files) == {"file", "corpus", "retriever.model"}
    given = files.read_jsonl(tree.root / ANSWERS, SuiteAnswer)
    texts, asked = [line["text"] for line in corpus()], [line["prompt"] for line in questions()]
    found = embed(encoder, texts, "mean", None, "x") @ embed(encoder, asked, "mean", None, "x").T
    read = [a.reading.passages for a in given if a.reading and a.reading.setting == "retrieved"]
    for near, passages in zip(found.T, read, strict=True):
        assert [each.id for each in passages] == [f"d{n}" for n in np.argsort(-np.round(near, 6), kind="stable")[:3]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"retriever\.model: does not load: "),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), r"retriever\.model: does not load: "),
        (Path.exists, r"retriever\.model: 'vault .*'… has \d+ tokens, and the model holds 40; lower chunker\.words"),
    ],
    ids=["no model", "pickled weights", "a passage that is too long"],
)  # fmt: skip
def test_an_encoder_that_cannot_encode_is_refused_in_one_line(
    spoil: Callable[[Path], object], said: str, tree: Tree, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    dense(tree, tmp_path / "spoilt")
    tree.suite.update(max_words=60)
    pin_corpus(tree, [*corpus(), {"id": "long", "text": "vault " * 50}])
    with pytest.raises(EvaluationRefused, match=r"^params\.yaml: suites\.chat\." + said) as refused:
        suites(tree.params(), tree.root)
    assert "\n" not in str(refused.value)


class Store(Handler):
    """A search with a URL, which ranks the corpus by BM25."""

    def do_POST(self) -> None:
        asked = json.loads(self.body())
        known = {line["id"]: line["text"] for line in corpus()}
        found = Bm25.model_validate(BM25).ranked(Search("", known, {"q": asked["query"]}, no_model, {}), asked["limit"])
        self.reply(200, {"results": [{"id": list(known)[place]} for place in next(found)]})


def record(tree: Tree, lines: str) -> None:
    """Let the suite read what was found from a file with these lines."""
    path = tree.root / "found.jsonl"
    path.write_text(lines)
    sha = digest.of_file(path).sha256.removeprefix("sha256:")
    tree.suite["retriever"] = {"kind": "recorded", "log": {"uri": path.name, "sha256": sha, "license": "MIT"}}


@pytest.fixture(scope="module")
def recorded(made: Tree, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the documented script writes."""
    script = tmp_path_factory.mktemp("script") / "record_search.py"
    text = (REPOSITORY / "docs/how-to/rag.md").read_text()
    script.write_text(textwrap.dedent(text.partition("    ```python\n")[2].partition("    ```\n")[0]))
    with StandIn(Store) as store:
        command = [sys.executable, str(script), store.url, str(made.root / "chat.jsonl")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_a_store_with_a_url_found_scores_as_the_search_itself(tree: Tree, recorded: str) -> None:
    """The documented script asks it. Gates need neither the store nor the record."""
    before, scores = (tree.root / ANSWERS).read_bytes(), values(tree, layout.MERGED)
    record(tree, recorded)
    verdict = tree.judged()
    assert (tree.root / ANSWERS).read_bytes() == before
    assert values(tree, layout.MERGED) == scores
    (tree.root / "found.jsonl").unlink()
    assert hold(Records(tree.root)).verdict == verdict
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert set(result.files) == {"file", "corpus", "retriever.log"}


def test_a_worse_record_is_a_paired_loss_and_ranking_again_mends_it(tree: Tree, recorded: str, tmp_path: Path) -> None:
    """The record finds the right passage second."""
    found = [json.loads(line) for line in recorded.splitlines()]
    for line in found[:GOLD]:
        line["passages"][:1] = ["none", *line["passages"][:1]]
    record(tree, "".join(json.dumps(line) + "\n" for line in found))
    pin_corpus(tree, [*corpus(), {"id": "none", "text": "zebra"}])
    tree.suite.update(top_k=1, models=["candidate"])
    tree.document["gates"] = {"sound": {"kind": "data"}}
    before = recalls(tree)
    suites(tree.params(), tree.root)
    worse = recalls(tree)
    rerank(tree, cross_encoder(tmp_path / "cross", seen="name"), candidates=2)
    suites(tree.params(), tree.root)
    mended = recalls(tree)
    loss, gain = (
        two_sided([each.value for each in old], [each.value for each in new], np.arange(GOLD), 0.95)
        for old, new in (pair_samples(before, worse), pair_samples(worse, mended))
    )
    assert loss
    assert gain
    assert (loss.n, loss.wins, loss.losses) == (GOLD, 0, GOLD)
    assert (gain.n, gain.wins, gain.losses) == (GOLD, GOLD, 0)


def recalls(tree: Tree) -> list[SuiteLine]:
    """Of the candidate."""
    model = digest.of_tree(tree.root / layout.MERGED).digest
    lines = files.read_jsonl(tree.root / LINES, SuiteLine)
    return [each for each in lines if each.metric == "recall-at-k" and each.model == model]


FOUND = {"id": "q", "question": "key?", "passages": ["d"]}
NO_RECORD: dict[str, tuple[list[Any], str]] = {
    "no line of JSON": (["d"], r"1: Input should be an object; record the search again"),
    "no question": ([{"id": "q", "passages": ["d"]}], r"1: question: Field required; record"),
    "an unknown key": ([FOUND | {"scores": [1]}], r"1: scores: Extra inputs are not permitted; record"),
    "ids that are no text": ([FOUND | {"passages": [3]}], r"1: passages\.0: Input should be a valid string; record"),
    "one id in place of several": ([FOUND | {"passages": "d"}], r"1: passages: Input should be a valid array; record"),
    "a row that the suite lacks": ([FOUND, FOUND | {"id": "r"}], r"2: the suite's file has no row 'r'; record"),
    "a row twice": ([FOUND, FOUND], r"2: row 'q' has a line already; keep one of them"),
    "another question": (
        [FOUND | {"question": "lock?"}], r"1: row 'q': 'lock\?' was searched for, and the row asks 'key\?'; record",
    ),
    "a passage that the corpus lacks": (
        [FOUND | {"passages": ["d", "d#0"]}], r"1: row 'q': no passage of the corpus is called 'd#0'; pin the passages",
    ),
    "a passage twice": ([FOUND | {"passages": ["d", "d"]}], r"1: row 'q': has a passage twice; name each passage once"),
    "a missing row": ([], r"has no line for row 'q'; record the search again"),
    "fewer than top_k": ([FOUND], r"no question has more than 1 passages, and 2 are asked for; record more"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_RECORD)
def test_a_record_that_does_not_fit_is_refused_with_its_line(case: str, tree: Tree) -> None:
    lines, said = NO_RECORD[case]
    tree.suite.update(unanswerable=None, samples=1)
    tree.document["gates"] = {"sound": {"kind": "data"}}
    pin_corpus(tree, [TEXT, TEXT | {"id": "e"}])
    tree.pin([QUESTION])
    record(tree, "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(Refusal, match=rf"^params\.yaml: suites\.chat\.retriever\.log: {said}") as refused:
        suites(tree.params(), tree.root)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 8


HARD = GOLD // 2  # questions for which BM25 finds a shorter passage first


def rerank(tree: Tree, folder: Path, **more: Any) -> None:
    """Let the suite rank again by a cross-encoder, with one passage to read and the candidate alone."""
    shutil.copytree(folder, tree.root / "cross")
    sha = digest.of_tree(tree.root / "cross").digest.removeprefix("sha256:")
    reranker = {"model": {"uri": "cross", "sha256": sha, "license": "MIT"}, "candidates": 5} | more
    tree.suite.update(reranker=reranker, top_k=1, models=["candidate"])
    tree.document["gates"] = {"finds": {**GATES["finds"], "suite": "chat", "at_least": 0.7, "resolution": 0.2}}


def test_the_gain_of_ranking_again_is_a_paired_figure_and_gates_need_no_model_for_it(
    tree: Tree, tmp_path: Path
) -> None:
    short = [{"id": f"short{n}", "text": each["text"].rpartition(" name")[0]} for n, each in enumerate(corpus()[:HARD])]
    pin_corpus(tree, [*corpus(), *short])
    rerank(tree, cross_encoder(tmp_path / "cross", seen="name"))
    reranker = tree.suite.pop("reranker")
    assert tree.judged().findings[0].value == 0.5  # the first of the short ones, which has both words
    before = [each for each in files.read_jsonl(tree.root / LINES, SuiteLine) if each.metric == "recall-at-k"]
    tree.suite["reranker"] = reranker
    verdict = tree.judged()
    after = [each for each in files.read_jsonl(tree.root / LINES, SuiteLine) if each.metric == "recall-at-k"]
    old, new = pair_samples(before, after)
    groups = together([each.group for each in old], [each.group for each in new])
    gain = two_sided([each.value for each in old], [each.value for each in new], groups, 0.95)
    assert gain is not None
    assert (gain.n, gain.wins, gain.losses, gain.value) == (GOLD, HARD, 0, 0.5)
    assert gain.low > 0.3
    shutil.rmtree(tree.root / "cross")
    assert (verdict.findings[0].value, verdict.findings[0].status) == (1, "pass")
    assert hold(Records(tree.root)).verdict == verdict
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert set(result.files) == {"file", "corpus", "reranker.model"}


NO_CROSS_ENCODER: dict[str, tuple[dict[str, Any], Callable[[Path], object], str]] = {
    "several labels": ({"labels": 3}, Path.exists, r"has 3 labels, and a cross-encoder has 1; pin a model with one label"),
    "no model": ({}, lambda folder: (folder / "config.json").unlink(), r"does not load: .*; pin a cross-encoder's folder"),
    "pickled weights": (
        {}, lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), r"does not load: ",
    ),
    "an encoder without the last layer": (
        {}, lambda folder: _without(folder, "classifier."), r"the weights have no classifier\.bias: it is no cross-encoder",
    ),
    "weights that are no numbers": ({}, lambda folder: _without(folder, ""), r"gives a score that is no number"),
    "a pair that is too long": ({}, Path.exists, r"'vault .*'… has \d+ tokens, and the model holds 24; lower chunker"),
}  # fmt: skip


def _without(folder: Path, start: str) -> None:
    """Drop the weights whose name starts so; with no start, make all of them NaN."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not start or not name.startswith(start)}
    kept = kept if start else {name: value * float("nan") for name, value in kept.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", NO_CROSS_ENCODER)
def test_a_model_that_cannot_rank_again_is_refused_in_one_line(case: str, tree: Tree, tmp_path: Path) -> None:
    options, spoil, said = NO_CROSS_ENCODER[case]
    folder = cross_encoder(tmp_path / "cross", **options)
    spoil(folder)
    rerank(tree, folder)
    tree.suite.update(max_words=60)
    if "long" in case:
        pin_corpus(tree, [*corpus(), {"id": "long", "text": "vault " * 50}])
    with pytest.raises(EvaluationRefused, match=r"^params\.yaml: suites\.chat\.reranker\.model: " + said) as refused:
        suites(tree.params(), tree.root)
    assert "\n" not in str(refused.value)


def _never(*_: object) -> Any:
    raise AssertionError("no model is needed")


TEXT_OF_PARTS = "key list show vault disk image vault 7 table create"
READ: dict[str, tuple[dict[str, Any], list[Any], list[str], list[str], float]] = {
    # parameters, gold, the passages of gold and of what is retrieved, recall
    "a quote names its passage": ({}, [{"id": "d", "quote": "vault  7"}], ["d#2"], ["d#1", "d#2"], 1.0),
    "another passage with a word of it is not found": ({}, [{"id": "d", "quote": "key list"}], ["d#0"], ["d#1", "d#2"], 0.0),
    "any passage of a document without a quote": ({}, ["d"], ["d#0", "d#1", "d#2", "d#3"], ["d#1", "d#2"], 1.0),
    "half of the gold": ({}, ["e", {"id": "d", "quote": "image"}], ["e#0", "d#1"], ["d#1", "d#2"], 0.5),
    "a passage of two gold quotes": (
        {}, [{"id": "d", "quote": "vault 7"}, {"id": "d", "quote": "7"}], ["d#2"], ["d#1", "d#2"], 1.0,
    ),
    "fewer passages": ({"top_k": 1}, [{"id": "d", "quote": "7"}], ["d#2"], ["d#1"], 0.0),
    "fewer words": ({"max_words": 5}, [{"id": "d", "quote": "7"}], ["d#2"], ["d#1"], 0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_gold_and_retrieved_passages_are_those_that_are_read(case: str, made: Tree, tmp_path: Path) -> None:
    more, gold, right, found, share = READ[case]
    document = json.loads(json.dumps(made.document))
    document["gates"] = {"sound": {"kind": "data"}}
    document["suites"]["chat"] |= {"chunker": {"words": 3, "overlap": 0}, "samples": 2, "models": ["candidate"]}
    document["suites"]["chat"] |= {"unanswerable": {"rows": 1, "abstains": "none"}, **more}
    suite = as_params(document).suites["chat"]
    texts = [{"id": "d", "text": TEXT_OF_PARTS}, {"id": "e", "text": "the of"}]
    rows = [
        {"id": "q", "prompt": "vault 77 7 disk?", "reference": "7", "gold": gold},
        {"id": "n", "prompt": "?", "gold": []},
    ]
    for name, lines in (("file", rows), ("corpus", texts)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = {name: tmp_path / name for name in ("file", "corpus")}
    models: dict[Role, str] = {"candidate": f"sha256:{'1' * 64}"}

    def ask(role: str, asked: Sequence[Row], limit: int) -> list[str]:
        return ["none" if row.id == "n" else "disk 8" for row in asked]

    made_of = suite.scored(Material("chat", tmp_path, paths, models, (), {}, _never, ask, _never))
    read = {
        (a.sample, a.reading.setting): [p.id for p in a.reading.passages]
        for a in made_of.given["candidate"]
        if a.reading
    }
    assert read == {("q", "gold"): right, ("q", "retrieved"): found, ("n", "retrieved"): []}
    scores = {(line.sample, line.metric): line.value for line in made_of.scored["candidate"]}
    assert scores == {
        ("q", "retrieved/exact-match"): 0, ("q", "gold/exact-match"): 0, ("q", "recall-at-k"): share, ("q", "grounded"): 0,
        ("q", "attempted"): 1,
        ("n", "retrieved/exact-match"): 1, ("n", "abstains"): 1, ("n", "grounded"): 1,
    }  # fmt: skip


def test_the_documented_suite_reads_the_documents_of_its_package(tmp_path: Path, document: dict) -> None:
    text = (REPOSITORY / "docs/how-to/rag.md").read_text()
    document |= dict(read_yaml(text[text.index("suites:\n  aws_topics:") :].partition("```")[0]))
    document["suites"]["aws_topics"]["file"]["uri"] = str(REPOSITORY / document["suites"]["aws_topics"]["file"]["uri"])
    suite = as_params(document).suites["aws_topics"]

    def ask(role: str, rows: Sequence[Row], limit: int) -> list[str]:
        return [row.reference or "It is not stated." for row in rows]

    with _files("aws_topics", suite, tmp_path) as paths:
        models: dict[Role, str] = {"candidate": f"sha256:{'1' * 64}"}
        made = suite.scored(Material("aws_topics", tmp_path, paths, models, (), {}, _never, ask, _never))
    found = defaultdict(list)
    for line in made.scored["candidate"]:
        found[line.metric].append(line.value)
    assert sum(found["recall-at-k"]) == pytest.approx(26)
    assert len(found["recall-at-k"]) == 32
    assert set(found["abstains"]) == {1.0}
