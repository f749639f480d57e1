"""Suites of kind inspect: a log of Inspect AI becomes neutral lines, and one that does not say all is refused."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from checks.formats.suite_report import SuiteLine
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from checks.suites.inspect import Inspect
from stages.suites import suites
from tests.conftest import REPOSITORY
from tests.suite_tree import OTHER, Run, ask_of_log, pin_document, pinned, suite_lines
from tests.suite_tree import run as run  # a fixture

AGENT = (
    REPOSITORY / "tests" / "logs" / "inspect_agent.json"
)  # the agent react with a tool, in two epochs, as it wrote it
INSPECT = json.loads((REPOSITORY / "tests" / "logs" / "inspect.json").read_text())  # as Inspect AI 0.3.285 wrote it


@pytest.fixture
def inspected(run: Run) -> Run:
    """The suite is a log of Inspect, about this candidate."""
    ask_of_log(run, "inspect", "match")
    _inspect(run, dict)
    return run


def _inspect(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    log = copy.deepcopy(INSPECT)
    log["eval"]["metadata"]["lockstep_model"] = run.merged
    change(log)
    pin_document(run, log)


@pytest.mark.slow
def test_a_log_of_inspect_becomes_neutral_lines(inspected: Run) -> None:
    (finding,) = inspected.judged().findings
    assert (finding.value, finding.n, finding.evidence) == (0.5, 4, "witnessed")
    lines = files.read_jsonl(inspected.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert {(line.sample, line.value, line.group, line.slice) for line in lines} == {
        ("sum", 1.0, "a", "maths"), ("capital", 1.0, "b", "places"), ("river", 0.0, "b", "places"), ("4", 0.0, "b", "places"),
    }  # fmt: skip
    assert {(line.metric, line.source, line.model) for line in lines} == {("match", "external", inspected.merged)}
    assert lines[0].sample_sha == digest.of_json(["Largest sea?", None, "Pacific"])


def test_messages_that_inspect_named_anew_are_the_same_question(inspected: Run) -> None:
    def asked(name: str) -> str:
        message = {"id": name, "role": "user", "content": "Largest sea?"}
        _inspect(inspected, lambda log: log["samples"][0].update(input=[message]))
        return suite_lines(inspected)[0].sample_sha

    assert asked("mejb7gQADWDXsGrDCwcAQe") == asked("BhUQEeE4nZwPzdAU4Gktzo")


def _sample(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda log: change(log["samples"][1])


NOT_OF_INSPECT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (
        lambda log: log["eval"].pop("metadata"), r"names no model: run `inspect eval` with --metadata lockstep_model=sha256:…;",
    ),
    "a model that is no digest": (
        lambda log: log["eval"]["metadata"].update(lockstep_model="router"), r"logs\.candidate: model: String should match",
    ),
    "another model": (
        lambda log: log["eval"]["metadata"].update(lockstep_model=OTHER), r"is about model sha256:999999999999…, the candidate",
    ),
    "a run that failed": (lambda log: log.update(status="error"), r"the run ended with 'error';"),
    "an invalidated run": (lambda log: log.update(invalidated=True), r"the run ended with 'success', and is invalidated"),
    "a sample that failed": (
        _sample(lambda sample: sample.update(error={"message": "no"})), r"sample 'capital' did not end well;",
    ),
    "a sample without scores": (_sample(lambda sample: sample.update(scores={})), r"sample 'capital' has no score;"),
    "a sample that is gone": (lambda log: log["samples"].pop(1), r"sample 'capital' of the data set is not in it;"),
    "a part of the data set": (
        lambda log: (log["samples"].pop(1), log["eval"]["dataset"]["sample_ids"].remove("capital")),
        r"logs\.candidate: has 3 samples, and the suite has 4;",
    ),
    "a sample twice": (
        lambda log: log["samples"].append(log["samples"][1]), r"sample 'capital' is not in each of the 1 epochs once;",
    ),
    "an epoch that is missing": (
        _sample(lambda sample: sample.update(epoch=2)), r"sample 4 is not in each of the 2 epochs once;",
    ),
    "NaN": (
        _sample(lambda sample: sample["scores"]["match"].update(value=float("nan"))), r"value: Input should be a finite number",
    ),
    "a value of another kind": (
        _sample(lambda sample: sample["scores"]["match"].update(value={"a": 1})),
        r"sample 'capital': match is \{'a': 1\}, which is no number;",
    ),
    "no such metadata": (
        _sample(lambda sample: sample["metadata"].pop("family")), r"sample 'capital' has no 'family' in its metadata;",
    ),
    "a metric that one sample lacks": (
        _sample(lambda sample: sample["scores"].pop("match")), r"logs\.candidate: has 3 samples, and the suite has 4;",
    ),
    "no samples": (lambda log: log.pop("samples"), r"no log of Inspect in JSON with samples \(KeyError: 'samples'\);"),
    "another shape": (lambda log: log.update(samples=3), r"no log of Inspect in JSON with samples \(TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_OF_INSPECT)
def test_a_log_of_inspect_that_does_not_say_all_is_refused(inspected: Run, how: str) -> None:
    change, line = NOT_OF_INSPECT[how]
    _inspect(inspected, change)
    with pytest.raises(EvidenceRefused, match=line) as caught:
        suites(inspected.params(), inspected.root)
    assert str(caught.value).startswith("params.yaml: suites.chat.logs.candidate: ")
    assert "\n" not in str(caught.value)


def test_epochs_are_no_further_samples_and_a_sample_can_be_asked_to_be_right_in_all(inspected: Run) -> None:
    def twice(log: dict[str, Any]) -> None:
        again = copy.deepcopy(log["samples"])
        for sample in again:
            sample["epoch"] = 2
            sample["scores"]["match"]["value"] = "I"
        log["samples"] += again

    once = list(Inspect.model_validate(inspected.suite).convert(inspected.root / "candidate.json"))
    _inspect(inspected, twice)
    both = {"low": 0.0, "high": 1.0}
    asked = inspected.suite | {"metrics": {"match": both, "match-in-all-draws": both}}
    scored = list(Inspect.model_validate(asked).convert(inspected.root / "candidate.json"))
    means = {line.sample: line.value for line in scored if line.metric == "match"}
    assert means == {line.sample: line.value / 2 for line in once}
    assert {line.value for line in scored if line.metric == "match-in-all-draws"} == {0.0}
    assert len(scored) == 2 * len(once)


def test_an_agent_that_calls_tools_has_the_mean_of_its_epochs(inspected: Run) -> None:
    log = json.loads(AGENT.read_text())
    assert all("tool" in [message["role"] for message in sample["messages"]] for sample in log["samples"])
    log["eval"]["metadata"]["lockstep_model"] = inspected.merged
    metrics = ("includes", "includes-in-all-draws", "includes-in-any-draw")
    inspected.suite.update(samples=2, metrics={metric: {"low": 0.0, "high": 1.0} for metric in metrics})
    inspected.document["gates"] = {"sound": {"kind": "data"}}
    pin_document(inspected, log)
    values = {(line.sample, line.metric): line.value for line in suite_lines(inspected)}
    assert values == {
        **{("one", metric): 1.0 for metric in metrics},
        ("two", "includes"): 0.5, ("two", "includes-in-all-draws"): 0.0, ("two", "includes-in-any-draw"): 1.0,
    }  # fmt: skip


def test_a_file_that_is_no_json_is_no_log_of_inspect(inspected: Run) -> None:
    (inspected.root / "candidate.json").write_bytes(b"PK\x03\x04\xff")  # as an .eval file begins
    inspected.suite["logs"]["candidate"] = pinned(inspected.root / "candidate.json")
    with pytest.raises(EvidenceRefused, match=r"logs\.candidate: no log of Inspect in JSON"):
        suites(inspected.params(), inspected.root)
