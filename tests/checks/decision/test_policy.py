"""Policies: that every parameter is policy unless it is declared not to be, and which difference asks for less."""

import copy
import functools
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from checks.config.params import Params
from checks.config.release_params import ReleaseParams
from checks.decision import policy
from checks.decision.policy import Policy
from checks.evaluation.answered import RatingSuite
from checks.gating.assisted_gate import AssistedGate
from checks.gating.compared import PairedGate
from checks.kinds import gate as gate_kinds
from checks.kinds.gate import GateKind, ScoreGate
from checks.kinds.judge import JudgeKind
from checks.kinds.loader import Loader
from checks.kinds.method import NoDropout, Train
from checks.kinds.retriever import RetrieverKind
from checks.kinds.scorer import ScorerKind
from checks.kinds.section import AddedSection
from checks.kinds.suite import AskedSuite, BoundedSuite, DocumentSuite, LogSuite, ScaledSuite, SizedSuite, SuiteKind
from checks.records.sections import Section, directions
from checks.scorers.json_valid import JsonValid
from checks.scorers.refusal import Refusal
from checks.suites.rows import Questions
from checks.training.preferences import Judged, Pairs
from stages.loaders.canaries import Canaries
from tests import gate_samples
from tests.conftest import REPOSITORY, ROUTER
from tests.training_tree import METHODS
from tests.vllm_offline import ENGINE

DEFAULT: dict[str, Any] = yaml.safe_load(ROUTER.read_text())
OLD_TEST, NEW_TEST = ("sha256:" + digit * 64 for digit in "12")
SAMPLES = gate_samples.samples()
GATES = gate_samples.gates()

_LOG = {"uri": "logs/candidate.json", "sha256": "1" * 64, "license": "MIT"}
_SUITE = {"metrics": {"match": {"low": 0.0, "high": 1.0}}, "noise": 0.01}
_OPENAI = {
    "kind": "openai", "url_from": "JUDGE_URL", "key_from": "JUDGE_KEY", "model": "m", "prompt": "$answer", "value": "(1)",
    "seed": 1, "max_tokens": 9,
}  # fmt: skip
_WORDS = {"k1": 1.5, "b": 0.75, "stopwords": "en"}
_VECTORS = {"model": {**_LOG}, "pooling": "mean", "max_tokens": 256, "question_prefix": "q: ", "passage_prefix": "p: "}
SUITES: dict[str, dict[str, Any]] = {
    "tool": {**_SUITE, "kind": "external", "source": "external", "samples": 100, "logs": {"candidate": {**_LOG}}},
    **{
        name: {**_SUITE, "kind": kind, "samples": 100, "logs": {"candidate": {**_LOG}}, "group": "g", "slice": "s"}
        for name, kind in (("general", "inspect"), ("cases", "deepeval"), ("experiment", "langfuse"), ("matrix", "promptfoo"))
    },
    "asked": {**_SUITE, "kind": "judged", "models": ["candidate"], "max_unparsed": 0.02, "judge": _OPENAI},
    "labels": {
        **_SUITE, "kind": "judged", "models": ["candidate"], "max_unparsed": 0.02,
        "judge": {"kind": "recorded", "source": "human", "log": {**_LOG}},
    },
    "harness": {
        **_SUITE, "kind": "lm-eval", "tasks": {**_LOG}, "names": ["one"], "version": "0.4.13", "samples": 100,
        "models": ["candidate"], "precision": "bf16", "chat": False, "id": "id", "group": "g", "slice": "s",
    },
    "chat": {
        "kind": "rows", "file": {**_LOG}, "columns": {"slice": "label"}, "instruction": "Be short.", "samples": 100,
        "scorers": [{"kind": "contains", "separator": "|"}], "max_new_tokens": 8, "models": ["candidate"], "noise": 0.01,
        "chance": 0.1, "served": True,
    },
    **{
        f"documents-{retriever['kind']}": {
            "kind": "rag", "file": {**_LOG}, "corpus": {**_LOG}, "documents": "*.md", "chunker": {"words": 9, "overlap": 1},
            "retriever": retriever, "reranker": {"model": {**_LOG}, "candidates": 50, "max_tokens": 512}, "top_k": 3, "max_words": 99, "prompt": "$passages $question", "samples": 100,
            "unanswerable": {"rows": 9, "abstains": "no"}, "scorers": [{"kind": "tool-call", "texts": "loose"}], "max_new_tokens": 8,
            "models": ["candidate"], "noise": 0.01,
        }
        for retriever in (
            {"kind": "bm25", **_WORDS}, {"kind": "dense", **_VECTORS},
            {"kind": "hybrid", "bm25": _WORDS, "dense": _VECTORS, "rank_constant": 60}, {"kind": "recorded", "log": {**_LOG}},
        )
    },
    **{f"{more}{name}": copy.deepcopy(suite) for name, suite in gate_samples.suites().items() for more in ("", "more_")},
}  # fmt: skip


DECODING = {"temperature": 0.7, "top_p": 0.9, "draws": 4, "seed": 17}


def _document(excepted: bool = True) -> dict[str, Any]:
    """The configuration service-router with one gate and one suite of every kind and two scorers.

    ``excepted``: whether people may except the gate keeps.
    """
    document = copy.deepcopy(DEFAULT)
    document["suites"] = copy.deepcopy(SUITES)
    document["gates"] = copy.deepcopy(GATES)
    document["evaluate"] |= {"scorers": [{"kind": "exact-match"}, {"kind": "token-f1"}], "engine": {**ENGINE}}
    document["validate"]["min_rows"]["test"] = 1000  # enough for every threshold here
    document["prepare"]["personal_data"] = {"detectors": ["email", "phone", "secret"], "allow": []}
    document["base"]["thinking"] = {"mode": "always"}
    document["validate"]["preferences"] = {"max_length_bias": 0.15, "max_auc": 0.75}
    document["validate"]["semantic_duplicates"] = {
        "model": {**_LOG}, "pooling": "mean", "max_tokens": 256, "similarity": 0.95, "max_share": 0.01,
    }  # fmt: skip
    document["validate"]["languages"] = {
        "expected": ["en"], "texts": ["request"], "min_characters": 20, "min_probability": 0.7, "max_share": 0.01,
    }  # fmt: skip
    document["train_budget"] = {"train_minutes": 30, "gpu_hours": 1, "cost": 3, "hourly_price": 2.5}
    document["promote"]["environments"]["production"] |= {
        "soak_hours": 24, "approvals": 1, "signatures": 2, "runtimes": ["tgi"], "verified": ["container"],
        "sealed": True, "budget": {"machine": "1 x NVIDIA L4", "watt_hours": 5, "price": 0.1, "hourly_price": 0.8},
        **({"emergency": {"gates": ["keeps"], "hours": 24, "signers": 3}} if excepted else {}),
    }  # fmt: skip
    document["serve"].setdefault("verify", {})["slower"] = 1.2
    asked = {name: copy.deepcopy(GATES[name]) for name in ("routes", "seen")}
    document["sealed"] = {"sha256": "1" * 64, "rows": 2000, "max_looks": 20, "gates": asked}
    return document


def _policy(document: dict[str, Any], test: str | None = OLD_TEST) -> Policy:
    return policy.of(Params.model_validate(document), test)


def _changed(change: Callable[[dict[str, Any]], object]) -> tuple[policy.Change, ...]:
    document = _document()
    change(document)
    return policy.changes(_policy(_document()), _policy(document))


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            document = document[parent]
        if value is None and parents[0] == "gates":
            del document[last]
        else:
            document[last] = value

    return change


@pytest.mark.parametrize(
    ("edits", "replaced"),
    [
        ({"data.uri": "other.csv"}, False),
        ({"prepare.loader.instruction": "Name the team."}, False),
        ({"data.uri": "other.csv", "prepare.loader.instruction": "Name the team."}, True),
        ({"data.sha256": "2" * 64, "prepare.loader.instruction": "Name the team."}, False),
        ({"gates.routes.at_least": 0.1}, False),
    ],
)
def test_a_task_is_replaced_by_other_data_that_another_loader_reads(edits: dict[str, Any], replaced: bool) -> None:
    def change(document: dict[str, Any]) -> None:
        for path, value in edits.items():
            _set(path, value)(document)

    assert bool(policy.replaced(_changed(change))) is replaced


# Path, a value that asks for less, a value that asks for more (None: there is none in this table).
DIRECTIONS: list[tuple[str, Any, Any]] = [
    *(
        (f"gates.{name}.{field}", sample.weaker.get(field), sample.stronger.get(field))
        for name, sample in SAMPLES.items()
        for field in sample.weaker | sample.stronger
    ),
    ("prepare.personal_data.detectors", ["phone", "email"], ["email", "phone", "secret", "iban"]),
    ("suites.compared.rows", 150, 300),
    ("suites.compared.max_unparsed", 0.1, 0.0),
    ("train_budget.train_minutes", 60, 20),
    ("train_budget.gpu_hours", 2, 0.5),
    ("train_budget.cost", 5, 1),
    ("train_budget.hourly_price", 1, 5),
    ("validate.min_rows.train", 1000, 2000),
    ("validate.preferences.max_length_bias", 0.2, 0.1),
    ("validate.preferences.max_auc", 0.8, 0.7),
    ("validate.semantic_duplicates.similarity", 0.97, 0.9),
    ("validate.semantic_duplicates.max_share", 0.02, 0.0),
    ("validate.languages.expected", ["en", "fr"], None),
    ("validate.languages.texts", None, ["request", "reference"]),
    ("validate.languages.max_share", 0.02, 0.0),
    ("validate.min_rows.valid", 50, 120),
    ("validate.min_rows.test", 950, 1100),
    ("validate.max_prompt_tokens", 100, 90),
    ("validate.max_reference_tokens", None, 7),
    ("validate.labels.max_distinct", 30, 10),
    ("validate.labels.min_share", 0.0, 0.02),
    ("validate.labels.max_share", 0.5, 0.09),
    ("suites.tool.noise", 0.0, 0.1),
    ("suites.asked.max_unparsed", 0.1, 0.0),
    ("suites.chat.noise", 0.0, 0.1),
    ("merge.parity.prompts", 64, 256),
    ("merge.parity.max_logprob_diff", 0.6, 0.4),
    ("merge.parity.min_top1", 0.9, 0.99),
    ("serve.probes.rows", 8, 32),
    ("serve.probes.max_new_tokens", 8, 32),
    ("serve.verify.max_logprob_diff", 1.0, 0.1),
    ("serve.verify.near_tie", 1.0, 0.1),
    ("serve.verify.margin", 0.5, 0.0),
    ("serve.verify.start_seconds", 900, 60),
    ("serve.verify.drain_seconds", 900, 60),
    ("serve.verify.slower", 1.5, 1.1),
    ("promote.environments.production.soak_hours", 1, 48),
    ("promote.environments.production.approvals", 0, 2),
    ("promote.environments.production.signatures", 1, 3),
    ("promote.environments.production.runtimes", ["tgi", "vllm"], None),
    ("promote.environments.production.verified", ["container", "url"], None),
    ("promote.environments.production.served_as_verified", False, None),
    ("promote.environments.production.server_compared", None, True),
    ("promote.environments.production.sealed", False, None),
    ("promote.environments.production.budget.watt_hours", 6, 4),
    ("promote.environments.production.budget.price", 0.2, 0.05),
    ("promote.environments.production.budget.hourly_price", 0.7, 0.9),
    ("promote.environments.production.emergency.gates", ["keeps", "routes"], None),
    ("promote.environments.production.emergency.hours", 25, 8),
    ("promote.environments.production.emergency.signers", 2, 4),
    ("evaluate.confidence", 0.9, 0.99),
    ("evaluate.baselines", ["majority"], None),
]
INCOMPARABLE: list[tuple[str, Any]] = [
    *((f"gates.{name}.{field}", value) for name, sample in SAMPLES.items() for field, value in sample.changed.items()),
    ("base.uri", "hf://someone/else@0123456789abcdef"),
    ("base.sha256", "0" * 64),
    ("base.license", "MIT"),
    ("data.uri", "pypi://azure-cli==2.90.0/azure/cli/command_modules"),
    ("data.sha256", "0" * 64),
    ("data.license", "Apache-2.0"),
    ("prepare.loader.instruction", "Answer."),
    ("prepare.loader.rows_per_service", 10),
    ("prepare.rules", ["drop-duplicates"]),
    ("prepare.max_prompt_words", 90),
    ("prepare.near_duplicates.similarity", 0.9),
    ("validate.semantic_duplicates.model.sha256", "2" * 64),
    ("validate.semantic_duplicates.pooling", "first"),
    ("validate.semantic_duplicates.max_tokens", 128),
    ("validate.languages.min_characters", 10),
    ("validate.languages.min_probability", 0.9),
    ("sealed.sha256", "0" * 64),
    ("sealed.rows", 3000),
    ("sealed.max_looks", 40),
    ("serve.name", "other"),
    ("serve.runtime", "vllm"),
    ("serve.base", "ghcr.io/somebody/server:1@sha256:" + "0" * 64),
    ("serve.source", "https://example.invalid/"),
    ("serve.dtype", "fp16"),
    ("serve.max_input_tokens", 512),
    ("serve.max_total_tokens", 2048),
    ("serve.max_concurrent_requests", 1),
    ("serve.shards", 2),
    ("serve.platform", "linux/arm64"),
    ("serve.prefix_caching", True),
    ("serve.speculation", {"kind": "ngram", "tokens": 4}),
    ("serve.tools", {"parser": "hermes"}),
    ("serve.reasoning", {"parser": "qwen3"}),
    ("serve.json_schema", {"type": "object"}),
    ("serve.decoding", {"temperature": 0}),
    ("promote.repository", "https://example.invalid/environments.git"),
    ("promote.branch", "elsewhere"),
    ("promote.environments.production.budget.machine", "1 x NVIDIA L40S"),
    ("suites.tool.samples", 101),
    ("suites.tool.logs", {"candidate": {**_LOG, "sha256": "2" * 64}}),
    ("suites.general.slice", "other"),
    ("suites.asked.judge.model", "other"),
    ("suites.asked.suite", "chat"),
    ("suites.asked.models", ["candidate", "base"]),
    ("suites.labels.judge.log.sha256", "2" * 64),
    ("suites.texts.text.sha256", "2" * 64),
    ("suites.texts.precision", "fp32"),
    ("suites.harness.tasks.sha256", "2" * 64),
    ("suites.harness.names", ["one", "two"]),
    ("suites.harness.version", "0.4.14"),
    ("suites.harness.chat", True),
    ("suites.chat.file.sha256", "2" * 64),
    ("suites.chat.columns.slice", "other"),
    ("suites.chat.instruction", None),
    ("suites.chat.samples", 101),
    ("suites.chat.chance", 0.2),
    ("suites.chat.scorers", [{"kind": "contains"}]),
    ("suites.chat.max_new_tokens", 16),
    ("suites.chat.models", ["candidate", "base"]),
    ("suites.chat.served", False),
    ("suites.texts.models", ["candidate", "base"]),
    ("suites.compared.labels.sha256", "2" * 64),
    ("suites.compared.anchor.sha256", "2" * 64),
    ("suites.compared.question", "What?"),
    ("suites.compared.seed", 2),
    ("suites.compared.judge.cost.at_most", 10.0),
    ("evaluate.max_new_tokens", 16),
    ("evaluate.precision", "fp32"),
    ("evaluate.base_prompt.labels", False),
    ("evaluate.base_prompt.shots", 0),
    ("promote.environments.production.runtimes", ["vllm"]),
    ("promote.environments.production.verified", ["url"]),
]


@pytest.mark.parametrize(("path", "less", "more"), DIRECTIONS)
def test_a_field_that_asks_for_less_needs_approval_and_one_that_asks_for_more_does_not(
    path: str, less: Any, more: Any
) -> None:
    for value, kind in ((less, "weaker"), (more, "stronger")):
        if value is None:
            continue
        (change,) = _changed(_set(path, value))
        assert (change.path, change.kind, change.needs_approval) == (path, kind, kind == "weaker")
        assert "\n" not in change.text
        assert path in change.text


@pytest.mark.parametrize(("path", "value"), INCOMPARABLE)
def test_what_cannot_be_compared_counts_as_changed(path: str, value: Any) -> None:
    (change,) = _changed(_set(path, value))
    assert (change.path, change.kind, change.needs_approval) == (path, "changed", True)


def test_a_schema_of_answers_is_policy_and_so_is_the_order_of_its_keys() -> None:
    before = _document()
    before["evaluate"] |= {"engine": None, "json_schema": '{"required": [], "type": "object"}'}
    before["base"]["thinking"] = {"mode": "never"}
    before["serve"] |= {"runtime": "vllm", "json_schema": {"required": [], "type": "object"}}
    after = copy.deepcopy(before)
    after["evaluate"]["json_schema"] = '{"type": "object", "required": []}'
    (change,) = policy.changes(_policy(before), _policy(after))
    assert (change.path, change.kind, change.needs_approval) == ("evaluate.json_schema", "changed", True)


def test_the_mid_p_test_waits_for_code_owners_whether_it_is_switched_on_or_off() -> None:
    name = next(name for name, gate in GATES.items() if gate["kind"] == "improves" and gate["margin"] == 0)
    on = _document()
    on["gates"][name]["mid_p"] = True
    for before, after, kind in ((_document(), on, "changed"), (on, _document(), "changed")):
        (change,) = policy.changes(_policy(before), _policy(after))
        assert (change.path, change.kind, change.needs_approval) == (f"gates.{name}.mid_p", kind, True)
        assert change.is_judged


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.8), ("top_p", 1.0), ("draws", 2), ("seed", 18)])
def test_other_draws_count_as_changed(field: str, value: float) -> None:
    before = _document()
    before["evaluate"] |= {"engine": None, "decoding": {**DECODING}}
    after = copy.deepcopy(before)
    after["evaluate"]["decoding"][field] = value
    (change,) = policy.changes(_policy(before), _policy(after))
    assert (change.path, change.kind, change.needs_approval) == (f"evaluate.decoding.{field}", "changed", True)


@pytest.mark.parametrize(
    "bound",
    [
        "gates.budget.parameters_millions",
        "gates.budget.artifact_mb",
        "train_budget.train_minutes",
        "serve.verify.slower",
    ],
)
def test_a_bound_that_is_dropped_is_removed_and_one_that_appears_is_added(bound: str) -> None:
    document = _document()
    *parents, last = bound.split(".")
    del functools.reduce(lambda at, part: at[part], parents, document)[last]
    before, after = _policy(_document()), _policy(document)
    (gone,), (come,) = policy.changes(before, after), policy.changes(after, before)
    assert (gone.path, gone.kind, gone.needs_approval) == (bound, "removed", True)
    assert (come.kind, come.needs_approval) == ("added", False)


def test_an_emergency_that_is_allowed_for_the_first_time_needs_approval() -> None:
    (come,) = policy.changes(_policy(_document(excepted=False)), _policy(_document()))
    assert (come.path, come.kind) == ("promote.environments.production.emergency", "changed")
    assert come.needs_approval


@pytest.mark.parametrize(("error", "needs_approval"), [(None, False), (0.05, True)])
def test_a_new_suite_whose_judge_may_label_requests_needs_approval(error: float | None, needs_approval: bool) -> None:
    suite = {**SUITES["asked"], "harvest_error": error}
    (come,) = _changed(lambda document: document["suites"].update(new=suite))
    assert (come.path, come.needs_approval) == ("suites.new", needs_approval)


def test_labels_that_are_switched_off_are_removed() -> None:
    (change,) = _changed(_set("validate.labels", None))
    assert (change.path, change.kind) == ("validate.labels", "removed")


def test_a_threshold_turned_round_loses_its_bound() -> None:
    def turn(document: dict[str, Any]) -> None:
        document["gates"]["routes"]["at_most"] = document["gates"]["routes"].pop("at_least")

    assert {(c.path, c.kind) for c in _changed(turn)} == {
        ("gates.routes.at_least", "removed"),
        ("gates.routes.at_most", "added"),
    }


def test_a_gate_of_another_kind_is_a_changed_gate() -> None:
    (change,) = _changed(_set("gates.keeps.kind", "improves"))
    assert (change.path, change.kind) == ("gates.keeps", "changed")
    assert "non_inferior to improves" in change.text


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_is_removed_needs_approval_and_one_that_is_added_does_not(name: str) -> None:
    document = _document(excepted=False)
    del document["gates"][name]
    before, after = _policy(_document(excepted=False)), _policy(document)
    (gone,), (come,) = policy.changes(before, after), policy.changes(after, before)
    assert (gone.path, gone.kind, gone.needs_approval) == (f"gates.{name}", "removed", True)
    assert (come.path, come.kind, come.needs_approval) == (f"gates.{name}", "added", False)


def test_a_gate_that_is_renamed_asks_the_same() -> None:
    def rename(document: dict[str, Any]) -> None:
        document["gates"]["routes_well"] = document["gates"].pop("routes")

    (change,) = _changed(rename)
    assert (change.path, change.kind, change.needs_approval) == ("gates.routes", "renamed", False)


def test_a_gate_that_is_renamed_and_weakened_is_removed() -> None:
    def rename(document: dict[str, Any]) -> None:
        document["gates"]["routes_well"] = document["gates"].pop("routes") | {"at_least": 0.1}

    assert {(c.path, c.kind) for c in _changed(rename)} == {("gates.routes", "removed"), ("gates.routes_well", "added")}


def test_two_equal_gates_cannot_hide_behind_one_new_name() -> None:
    twice = _document()
    twice["gates"]["again"] = twice["gates"]["routes"]
    once = _document()
    once["gates"]["new"] = once["gates"].pop("routes")
    assert sorted(c.kind for c in policy.changes(_policy(twice), _policy(once))) == ["removed", "renamed"]


def test_scorers_that_go_or_change_need_approval() -> None:
    two = [{"kind": "exact-match"}, {"kind": "token-f1"}]
    pattern = {"kind": "regex", "pattern": "a+"}

    def kinds(before: list[dict[str, str]], after: list[dict[str, str]]) -> list[tuple[str, str]]:
        one, other = _document(excepted=False), _document(excepted=False)
        for document, scorers in ((one, before), (other, after)):
            document["gates"] = {"data": {"kind": "data"}}
            document["evaluate"]["scorers"] = scorers
        found = policy.changes(_policy(one), _policy(other))
        assert all(change.is_judged for change in found)
        return [(change.path, change.kind) for change in found]

    assert kinds(two, two[:1]) == [("evaluate.scorers.token-f1", "removed")]
    assert kinds(two[:1], two) == [("evaluate.scorers.token-f1", "added")]
    assert kinds(two, two[::-1]) == [("evaluate.scorers", "changed")]
    assert kinds([*two, pattern], [*two, pattern | {"pattern": "a*"}]) == [("evaluate.scorers.regex", "changed")]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [(OLD_TEST, NEW_TEST, "changed"), (OLD_TEST, None, "removed"), (None, NEW_TEST, "added")],
)
def test_another_test_set_is_a_change_of_policy(old: str | None, new: str | None, kind: str) -> None:
    (change,) = policy.changes(_policy(_document(), old), _policy(_document(), new))
    assert (change.path, change.kind) == ("data/splits/test.jsonl", kind)


@pytest.mark.slow
def test_bounds_that_earlier_stages_held_are_not_answered_by_judging_again() -> None:
    for path in ("validate.max_prompt_tokens", "merge.parity.prompts", "evaluate.base_prompt.shots"):
        (change,) = _changed(_set(path, 99 if path.startswith("validate") else 3))
        assert not change.is_judged
    for path, value in INCOMPARABLE:
        (change,) = _changed(_set(path, value))
        assert change.is_judged == path.startswith("gates."), path
    (change,) = _changed(_set("gates.routes.at_least", 0.5))
    assert change.is_judged


def test_changes_that_ask_for_less_come_first_then_others_that_need_approval() -> None:
    def several(document: dict[str, Any]) -> None:
        document["base"]["sha256"] = "0" * 64
        document["gates"]["routes"]["confidence"] = 0.96
        document["gates"]["seen"]["ngram"] = 20

    assert [change.kind for change in _changed(several)] == ["weaker", "changed", "stronger"]


# Every parameter


def _full() -> list[Params]:
    """Parameters in which, together, every field of every kind is written."""
    table = _document()
    columns = {"prompt": "a", "reference": "b", "id": "c", "slice": "d", "group": "e"}
    table["prepare"]["loader"] = {"kind": "table", "files": "*.csv", "columns": columns, "instruction": "Route."}
    messages = copy.deepcopy(table)
    messages["prepare"]["loader"]["columns"] = {"messages": "a"}
    table["train"]["quantization"] = {"kind": "nf4", "double": True}
    table["base"]["chat_template"] = {"file": "chat.jinja", "sha256": "0" * 64}
    table["train"]["early_stopping"] = {"patience": 3, "per_epoch": 2}
    scaling = {"staging": {"most": 2}}
    table["monitor"] = {"cost": {"devices": 1, "hourly_price": 1.5}, "scaling": scaling}
    table["monitor"]["alerts"] = {"staging": {"page": {"secret": "on-call"}}}
    regex = _document()
    regex["evaluate"]["scorers"].append({"kind": "regex", "pattern": "a+"})
    regex["evaluate"]["scorers"].append({"kind": "json-schema", "json_schema": {"type": "object"}, "equal": True})
    regex["evaluate"] |= {"engine": None, "decoding": {**DECODING}}
    taught = [_document() for _ in METHODS]
    for document, method in zip(taught, METHODS.values(), strict=True):
        document["train"] |= method
    steps = _document()
    steps["train"] |= {"method": ["sft", "dpo"], "steps": [{"method": "sft"}, METHODS["dpo"]]}
    whole = _document()
    whole["train"] |= {"lora": None, "full": {"layers": 2}}
    several = _document()
    several["data"]["sources"] = {"old": _further()}
    several["data"]["contract"] = {"file": "contract.yaml", "sha256": None}
    read = _document()
    loader = {"kind": "documents", "files": "*", "column": "text", "id": "key"}
    read["data"]["sources"] = {
        "manual": {"uri": "manual", "sha256": None, "license": "MIT", "loader": loader, "splits": ["train"]}
    }
    read["train"] |= {"method": ["cpt", "sft"], "steps": [{"method": "cpt"}, {"method": "sft"}]}
    export = _document()
    export["merge"]["quantization"] = {
        "kind": "gptq", "calibration": {"version": "0.14.0.1", "rows": 128, "group": 64},
        "parity": {"max_logprob_diff": 3.0, "min_top1": 0.95},
    }  # fmt: skip
    export["merge"]["draft"] = {"uri": "small", "sha256": "0" * 64, "license": "MIT"}
    export["merge"]["export"] = [
        {"kind": "gguf", "type": "q8_0", "converter": "0.1.1", "parity": {"max_logprob_diff": 1.0, "min_top1": 0.9}}
    ]
    export["serve"] |= {
        "speculation": {"kind": "draft", "tokens": 4},
        "tools": {"parser": "hermes"},
        "reasoning": {"parser": "qwen3"},
        "json_schema": {"type": "object"},
        "decoding": {"temperature": 0},
    }
    export["gates"]["keeps"]["against"] = "unquantised"
    by_file = _document()
    by_file["merge"]["export"] = export["merge"]["export"]
    by_file["evaluate"]["engine"] = {"kind": "llamacpp", "version": "2026.10.11549", "threads": 1}
    by_file["gates"]["keeps"]["against"] = "unquantised"
    apart = _document()
    apart["merge"]["form"], apart["serve"]["adapter"] = "adapter", {"max_rank": 64}
    documents = (_document(), table, messages, regex, *taught, steps, whole, several, read, export, by_file, apart)
    return [Params.model_validate(document) for document in documents]


def _further() -> dict[str, Any]:
    """A further source of rows."""
    loader = {"kind": "table", "files": "*", "columns": {"prompt": "a", "reference": "b"}}
    return {"uri": "rows", "sha256": None, "license": "MIT", "loader": loader, "splits": ["train"], "share": 0.1}


@pytest.mark.parametrize(
    ("change", "path", "is_input"),
    [
        (lambda sources: sources.update(new=_further()), "data.sources.new", True),
        (lambda sources: sources.pop("older"), "data.sources.older", True),
        (lambda sources: sources["old"].update(share=0.2), "data.sources.old.share", True),
        (lambda sources: sources["old"].update(splits=None), "data.sources.old.splits", True),
        (lambda sources: sources["old"].update(license="Apache-2.0"), "data.sources.old.license", False),
        (lambda sources: sources["reviewed"].update(review=None), "data.sources.reviewed.review", False),
    ],
)
def test_a_source_of_rows_that_comes_goes_or_changes_needs_approval(
    change: Callable[[Any], Any], path: str, is_input: bool
) -> None:
    before, after = _document(), _document()
    for each in (before, after):
        reviewed = {**_further(), "review": "labels/harvest/production.json"}
        each["data"]["sources"] = {"old": _further(), "older": _further(), "reviewed": reviewed}
    change(after["data"]["sources"])
    (found,) = policy.changes(_policy(before), _policy(after))
    assert (found.path, found.needs_approval, found.is_input) == (path, True, is_input)


Path_ = tuple[str | int, ...]


def _leaves(value: Any, path: Path_ = (), kinds: tuple[type, ...] = ()) -> Iterator[tuple[Path_, tuple[type, ...]]]:
    """Paths, by attribute, key or place in a list, of everything that is no section, mapping or list of sections.

    With each come the types of the sections that it leads through, and of what is there.
    """
    if isinstance(value, Section):
        for name in set(type(value).model_fields) - {"kind"}:  # of another kind is another section: tested apart
            yield from _leaves(getattr(value, name), (*path, name), (*kinds, type(value)))
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, (*path, name), kinds)
    elif isinstance(value, tuple) and any(isinstance(each, Section) for each in value):
        for place, each in enumerate(value):
            yield from _leaves(each, (*path, place), kinds)
    else:
        yield path, (*kinds, type(value))


def _walks() -> list[tuple[Params, set[Any]]]:
    """All of ``_full``, each with those of its leaves that none before it has."""
    walks, known = [], set[Any]()
    for params in _full():
        leaves = set(_leaves(params))
        walks.append((params, leaves - known))
        known |= leaves
    return walks


def _edited(value: Any, path: Path_) -> Any:
    """``value`` with another value at ``path``; unchecked, so that any field can be changed alone."""
    if not path:
        return _other(value)
    first, *rest = path
    if isinstance(value, Section):
        return value.model_copy(update={str(first): _edited(getattr(value, str(first)), tuple(rest))})
    if isinstance(value, dict):
        return value | {first: _edited(value[first], tuple(rest))}
    return (*value[:first], _edited(value[int(first)], tuple(rest)), *value[int(first) + 1 :])


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return (*value, "x") if isinstance(value, tuple) else "x" if value is None else f"{value}x"


def _written(path: Path_) -> str:
    first, *rest = (str(part).removesuffix("_") for part in path)
    return ".".join(["train" if first == "training" else first, *rest])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of values that are no value of their field
@pytest.mark.parametrize(("params", "leaves"), _walks())
def test_every_parameter_is_policy_unless_it_is_declared_not_to_be(params: Params, leaves: set[Any]) -> None:
    """A new field is in this walk: whoever adds one need do nothing for it to be policy."""
    before, seen = Policy(params, OLD_TEST), set()
    for leaf in _leaves(params):
        written = _written(leaf[0])
        exempt = {each for each in policy.EXEMPT if written == each or written.startswith(f"{each}.")}
        seen |= exempt
        if leaf in leaves:
            after = Policy(_edited(params, leaf[0]), OLD_TEST)
            found = policy.changes(before, after)
            assert (before.digest == after.digest) == (found == ()) == bool(exempt), written
    assert seen == set(policy.EXEMPT), "an exemption names no parameter"


def test_the_walk_reaches_every_section_that_params_yaml_is_made_of() -> None:
    reached: set[type[Section]] = set()

    def types(value: Any) -> None:
        if isinstance(value, Section):
            reached.add(type(value))
            value = dict(value)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
            types(each)

    for params in _full():
        types(params)
    known, pending = set[type[Section]](), list(Section.__subclasses__())
    while pending:
        known.add(each := pending.pop())
        pending += each.__subclasses__()
    kindred = {Canaries, JsonValid, Refusal}  # have no field but their kind
    bases = {
        AddedSection, AskedSuite, AssistedGate, BoundedSuite, DocumentSuite, GateKind, Judged, JudgeKind, Loader, LogSuite, NoDropout, RatingSuite, PairedGate, Pairs, Questions, RetrieverKind, ScoreGate, ScorerKind,
        ScaledSuite, SizedSuite, SuiteKind, Train,
    }  # fmt: skip
    ours = {each for each in known if each.__module__.startswith(("checks.", "stages."))}
    assert ours - reached == bases | kindred | {ReleaseParams}  # it has sections of Params


def test_the_documentation_lists_what_is_no_policy() -> None:
    text = (REPOSITORY / "docs/reference/gates.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", text.partition("## Whose policy")[2], re.MULTILINE)
    assert dict(rows) == dict(policy.EXEMPT)
    assert all(reason.endswith(".") for reason in policy.EXEMPT.values())


def test_a_value_cannot_break_out_of_its_line() -> None:
    (change,) = _changed(_set("gates.license.allow", ["MIT\n::error::", "x"]))
    assert "\n" not in change.text


@pytest.mark.slow
@settings(deadline=None)
@given(st.permutations(sorted(GATES)), st.sets(st.sampled_from(sorted(GATES)), min_size=1))
def test_the_same_gates_in_any_order_are_the_same_policy(order: list[str], kept: set[str]) -> None:
    one, two = _document(excepted=False), _document(excepted=False)
    one["gates"] = {name: GATES[name] for name in sorted(kept)}
    two["gates"] = {name: GATES[name] for name in order if name in kept}
    assert policy.changes(_policy(one), _policy(one)) == ()
    assert policy.changes(_policy(one), _policy(two)) == ()
    assert _policy(one).digest == _policy(two).digest


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from([(path, value) for path, *values in DIRECTIONS + INCOMPARABLE for value in values if value]))
def test_every_change_changes_the_digest_and_is_seen_from_both_sides(case: tuple[str, Any]) -> None:
    document = _document()
    _set(*case)(document)
    before, after = _policy(_document()), _policy(document)
    (forth,), (back,) = policy.changes(before, after), policy.changes(after, before)
    assert before.digest != after.digest
    opposite = {"weaker": "stronger", "stronger": "weaker", "changed": "changed"}
    assert (back.path, back.kind, back.old, back.new) == (forth.path, opposite[forth.kind], forth.new, forth.old)


def _kinds() -> list[type[Section]]:
    return list(gate_kinds.GATES.kinds.values())


def test_an_environment_that_goes_or_comes_needs_approval() -> None:
    (gone,) = _changed(lambda document: document["promote"]["environments"].pop("production"))
    assert (gone.path, gone.kind, gone.needs_approval) == ("promote.environments.production", "removed", True)
    canary = {**DEFAULT["promote"]["environments"]["staging"], "after": "staging"}
    (come,) = _changed(_set("promote.environments.canary", canary))
    assert (come.path, come.needs_approval) == ("promote.environments.canary", True)


def _sections() -> set[type[Section]]:
    """All sections of Lockstep itself."""
    known, pending = set[type[Section]](), list(Section.__subclasses__())
    while pending:
        known.add(each := pending.pop())
        pending += each.__subclasses__()
    return {each for each in known if each.__module__.startswith("checks.")}


def test_every_direction_fits_the_type_of_its_field() -> None:
    for section in _sections():
        for name, way in directions(section).items():
            annotation = section.model_fields[name].annotation
            types = set(typing.get_args(annotation) or [annotation]) - {type(None)}
            if way in ("higher", "lower"):
                assert types <= {int, float, bool}, (section.__name__, name)
            elif way in ("fewer", "more"):
                assert typing.get_origin(annotation) is tuple, (section.__name__, name)
            else:
                assert all(issubclass(each, Section) for each in types), (section.__name__, name)


def test_the_tables_of_this_test_name_every_field_with_a_direction() -> None:
    named = {path for path, *_ in DIRECTIONS + INCOMPARABLE}
    kinds = {gate.kind: type(gate) for gate in _policy(_document()).params.gates.values()}
    assert set(kinds.values()) == set(_kinds())
    wanted = set()
    for name, values in GATES.items():
        for field in values:
            wanted.add(f"gates.{name}.{field}")
    wanted -= {f"gates.{name}.kind" for name in GATES}
    # the second threshold is here for its at_most
    wanted -= {f"gates.few_errors.{field}" for field in ("metric", "confidence", "resolution")}
    wanted -= {"gates.remembers.metric", "gates.secrets.metric"}  # there is one
    assert wanted <= named
    fields = {path.rpartition(".")[2] for path, *_ in DIRECTIONS}
    ways = [each for section in _sections() for each in directions(section).items()]
    assert len(ways) > 40
    assert {name for name, way in ways if way != "section"} <= fields
