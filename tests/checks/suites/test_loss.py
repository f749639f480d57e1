"""Forgetting: bits per byte of pinned texts by real small models, and the gate that asks them."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import forgetting
from checks.config.params import Params
from checks.formats.suite_report import SuiteLine, SuitesReport
from checks.formats.verdict import Finding
from checks.process.errors import EvaluationRefused, EvidenceRefused, ParamsRefused, Refusal
from checks.stats.paired_mean import LEAST_GROUPS, MeanDifference
from checks.storage import digest, files, layout
from checks.suites.loss import Piece
from release.verbs import gate as verb
from stages.inference import loss
from stages.suites import suites
from tests import evidence_tree, model_tree
from tests.conftest import _WORDS, REPOSITORY, as_params, read_yaml
from tests.pipeline_repository import write_params

pytestmark = pytest.mark.slow

GATE = {
    "kind": "remembers", "suite": "english", "metric": "bits-per-byte", "against": "base", "allowance": 0.2,
    "confidence": 0.95,
}  # fmt: skip


def texts(count: int) -> list[dict[str, str]]:
    """Texts of words that the tiny tokenizer has as one token, so that even random weights beat the bytes' entropy."""
    draw = random.Random(3)
    return [{"id": f"t{i}", "text": " ".join(draw.choices(_WORDS.split(), k=40))} for i in range(count)]


class Tree:
    """A run whose models are real: the tiny base, and the same with another last layer."""

    def __init__(self, root: Path, document: dict[str, Any]) -> None:
        self.root, self.document = root, document

    def pin(self, lines: list[dict[str, Any]] | str) -> None:
        """Pin a file with these lines as the suite's text."""
        path = self.root / "texts.jsonl"
        path.write_text(lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines))
        sha256 = digest.of_file(path).sha256.removeprefix("sha256:")
        self.document["suites"]["english"]["text"] |= {"uri": path.name, "sha256": sha256}

    def params(self) -> Params:
        write_params(self.root, self.document)
        return as_params(self.document)

    def lines(self) -> list[SuiteLine]:
        suites(self.params(), self.root)
        return files.read_jsonl(self.root / layout.SUITES / "english.jsonl", SuiteLine)

    def found(self) -> Finding:
        (finding,) = evidence_tree.judged(self.root, self.params()).findings
        return finding


@pytest.fixture
def tree(tmp_path: Path, document: dict, tiny_base: Path) -> Tree:
    document["suites"] = {
        "english": {
            "kind": "loss", "text": {"uri": "", "sha256": "0" * 64, "license": "MIT"}, "precision": "fp32",
            "models": ["candidate", "base"],
        }
    }  # fmt: skip
    document["gates"] = {"remembers": dict(GATE)}
    made = Tree(tmp_path, document)
    made.pin(texts(24))
    model_tree.build(tmp_path, made.params(), tiny_base, 0.02)
    return made


def _directly(folder: Path, text: str) -> float:
    """Nats of a text, token by token, each from a forward pass of its own over all that is before it in its window."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    size, total = model.config.max_position_embeddings, 0.0
    with torch.inference_mode():
        for place in range(1, len(ids)):
            begin = (place - 1) // size * size
            logits = model(torch.tensor([ids[begin:place]])).logits[0, -1].double()
            total -= float(logits.log_softmax(-1)[ids[place]])
    return total


def test_a_loss_is_that_of_every_token_also_of_a_text_longer_than_the_model_reads(tiny_base: Path) -> None:
    read = ["queue table of a disk", "Ünlike ✓", "all the keys of my vault " * 40]
    found = loss.nats(tiny_base, "fp32", read, "tiny")
    assert found == pytest.approx([_directly(tiny_base, text) for text in read], rel=1e-5)


def test_a_loss_is_the_same_in_any_company_and_with_any_number_of_threads(tiny_base: Path) -> None:
    import torch

    read, threads = [each["text"] for each in texts(6)], torch.get_num_threads()
    found = loss.nats(tiny_base, "bf16", read, "tiny")
    try:
        torch.set_num_threads(4)
        assert loss.nats(tiny_base, "bf16", read[::-1], "tiny") == found[::-1]
    finally:
        torch.set_num_threads(threads)


def test_each_model_reads_each_text_once_and_the_lines_say_how_well(tree: Tree) -> None:
    lines = tree.lines()
    result = files.read_json(tree.root / layout.SUITES_REPORT, SuitesReport).suites["english"]
    merged, base = (digest.of_tree(tree.root / folder).digest for folder in (layout.MERGED, layout.BASE))
    assert [line.model for line in lines] == [merged] * 24 + [base] * 24
    for line, text in zip(lines, texts(24) * 2, strict=True):
        folder = tree.root / (layout.MERGED if line.model == merged else layout.BASE)
        if line.sample in ("t0", "t7"):
            bits = _directly(folder, text["text"]) / math.log(2)
            assert line.value == pytest.approx(bits / len(text["text"]), rel=1e-5)
    assert (lines[0].sample, lines[0].group, lines[0].slice, lines[0].source) == ("t0", "t0", "all", "pure")
    assert result.models == {"candidate": merged, "base": base}
    assert result.chance is not None
    assert result.means["base"]["bits-per-byte"] < result.chance < 5  # of some twenty letters
    again = (tree.root / layout.SUITES / "english.jsonl").read_bytes()
    tree.lines()
    assert (tree.root / layout.SUITES / "english.jsonl").read_bytes() == again


def test_a_candidate_that_lost_little_passes_and_one_that_lost_much_fails(tree: Tree) -> None:
    tree.lines()
    near = tree.found()
    assert (near.status, near.evidence, near.n, near.against) == ("pass", "witnessed", 24, "base")
    assert near.value is not None
    assert near.low is not None
    assert near.high is not None
    assert near.low < near.value < near.high < 0.2
    assert (
        "a loss of 0.2 is ruled out for texts like these, each taken for independent (witnessed: pure, suite"
        in near.reason
    )
    tree.document["gates"]["remembers"]["allowance"] = 1e-6
    lost = tree.found()
    assert lost.status == ("fail" if lost.low is not None and lost.low > 1e-6 else "inconclusive")
    said = verb.of("remembers", tree.params().gates["remembers"], evidence_tree.judged(tree.root, tree.params()))
    assert "gates.remembers.allowance" in said.change
    assert "data/suites/english.jsonl" in said.look


def test_a_text_that_the_base_does_not_know_the_language_of_shows_nothing(tree: Tree) -> None:
    shutil.copy(REPOSITORY / "stages/texts/english.jsonl", tree.root / "english.jsonl")
    tree.pin((tree.root / "english.jsonl").read_text())
    tree.lines()
    found = tree.found()
    assert found.status == "fail"
    assert "no fewer than the 4.237 of how often each byte comes: suite english cannot show" in found.reason


TEXTS: dict[str, tuple[Any, str]] = {
    "no lines": ("", "has no lines; pin a file with texts"),
    "no text": ([{"id": "a"}], "1: text: Field required; pin JSON lines with id and text"),
    "an empty text": ([{"id": "a", "text": ""}], "1: text: String should have at least 1 character"),
    "twice the same": ([{"id": "a", "text": "x"}] * 2, "two pieces are called 'a'; give each its own id"),
    "plain text": ("Once upon a time\n", "1: Invalid JSON"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_are_none_are_refused_in_one_line(case: str, tree: Tree) -> None:
    lines, said = TEXTS[case]
    tree.pin(lines)
    with pytest.raises(EvidenceRefused) as refused:
        tree.lines()
    assert str(refused.value).startswith(f"params.yaml: suites.english.text: {said}"), refused.value


def _other_weights(tree: Tree) -> None:
    model_tree.change(tree.root / layout.MERGED, 0.5)


def _not_finite(tree: Tree) -> None:
    before = digest.of_tree(tree.root / layout.MERGED).digest
    model_tree.change(tree.root / layout.MERGED, math.nan)
    model_tree.rename(tree.root, before, digest.of_tree(tree.root / layout.MERGED).digest)


MODELS: dict[str, tuple[Callable[[Tree], None], type[Refusal], str]] = {
    "another candidate": (_other_weights, EvidenceRefused, r"models/merged: is sha256:.*, the candidate is sha256:"),
    "not a number": (_not_finite, EvaluationRefused, "a log-probability is not finite; train with a lower"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_another_or_broken_is_refused(case: str, tree: Tree) -> None:
    spoil, kind, said = MODELS[case]
    spoil(tree)
    with pytest.raises(kind, match=said):
        tree.lines()


PARAMS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another kind of gate": (
        {"kind": "non_inferior", "margin": 0.1, "allowance": None}, {},
        "bits-per-byte of suite english has no scale, and kind non_inferior asks others; use kind remembers",
    ),
    "a model that reads nothing": (
        {"against": "base"}, {"models": ["candidate"]}, "gates.remembers.against: suite english has no scores of 'base'",
    ),
    "no candidate": ({}, {"models": ["base"]}, "suites.english: models: must name the candidate, and each model once"),
    "no suite": ({"suite": "other"}, {}, "gates.remembers.suite: 'other' is no suite; use one of english"),
    "no allowance": ({"allowance": 0.0}, {}, "gates.remembers.allowance"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARAMS)
def test_parameters_that_can_never_be_decided_are_refused(case: str, document: dict) -> None:
    gate, suite, said = PARAMS[case]
    text = {"uri": "t.jsonl", "sha256": "0" * 64, "license": None}
    loss_suite = {"kind": "loss", "text": text, "precision": "bf16", "models": ["candidate", "base"]}
    document["suites"] = {"english": loss_suite | suite}
    asked = {key: value for key, value in (GATE | gate).items() if value is not None}
    document["gates"] = {"remembers": asked}
    with pytest.raises(ParamsRefused) as refused:
        as_params(document)
    assert said in "; ".join(str(each) for each in (refused.value, *refused.value.others))


def test_the_test_says_what_scipy_says_where_nothing_is_skewed_and_more_where_it_is() -> None:
    from scipy import stats

    draw = np.random.default_rng(2)
    apart = draw.normal(0.1, 0.05, 15)
    even = np.r_[apart, 0.2 - apart, 0.1]  # symmetric about 0.1
    found = MeanDifference.of(even, np.arange(31))
    told = stats.ttest_1samp(even, 0.12, alternative="less")
    assert found.p_at_least(0.12) == pytest.approx(told.pvalue, rel=1e-6)
    assert found.upper(0.05) == pytest.approx(told.confidence_interval(0.95).high, rel=1e-6)
    for values in (draw.exponential(0.1, 24), -draw.exponential(0.1, 24), draw.normal(0, 1, 40)):
        found = MeanDifference.of(values, np.arange(len(values)))
        for level in (0.01, 0.05):
            assert found.p_at_least(found.upper(level)) == pytest.approx(level, rel=1e-6)
            assert found.p_at_most(found.lower(level)) == pytest.approx(level, rel=1e-6)
        assert (
            found.p_at_least(found.mean + 0.1) >= stats.ttest_1samp(values, found.mean + 0.1, alternative="less").pvalue
        )


def test_groups_count_once_whatever_their_size() -> None:
    values, groups = np.array([1.0, 1.0, 1.0, 4.0]), np.array([0, 0, 0, 1])
    found = MeanDifference.of(values, groups)
    assert (found.n, found.groups, found.mean) == (4, 2, 2.5)


DECIDED = {  # true loss, allowance, spread, groups; the status
    "lost less": (0.10, 0.20, 0.05, 24, "pass"),
    "lost more": (0.30, 0.20, 0.05, 24, "fail"),
    "too varied": (0.15, 0.20, 0.20, 24, "inconclusive"),
    "too few": (0.00, 0.20, 0.01, LEAST_GROUPS - 1, "inconclusive"),
    "unchanged": (0.00, 0.20, 0.00, 24, "pass"),
}


@pytest.mark.parametrize("case", DECIDED)
def test_the_gate_decides_by_its_bounds(case: str) -> None:
    mean, allowance, spread, groups, status = DECIDED[case]
    values = mean + spread * np.linspace(-1.7, 1.7, groups)
    found = forgetting.finding(values, np.arange(groups), allowance)
    assert found.status == status, found.reason
    if case == "too varied":
        assert found.groups_needed is not None
        assert found.groups_needed > 24
        assert f"about {found.groups_needed} groups like these would" in found.reason


def test_no_more_than_the_level_pass_at_the_allowance_as_the_benchmark_says() -> None:
    rate = forgetting.rate("some lose more", 24, 1, loss=0.2, allowance=0.2, runs=300, seed=5)
    assert 0.02 <= rate["pass"] <= min(0.08, rate["t"])


def test_the_default_asks_the_texts_that_are_here() -> None:
    params = as_params(read_yaml((REPOSITORY / "params.yaml").read_text()))
    suite = params.suites["english"]
    path = REPOSITORY / suite.sources["text"].uri
    assert digest.of_file(path).sha256 == f"sha256:{suite.sources['text'].sha256}"
    pieces = files.read_jsonl(path, Piece)
    assert len({piece.id for piece in pieces}) == len(pieces) >= LEAST_GROUPS
    assert all(1000 <= len(piece.text) <= 1300 for piece in pieces)
    assert any(gate.kind == "remembers" for gate in params.gates.values())
