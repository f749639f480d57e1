"""Suites of kind promptfoo: its results become neutral lines, and those that do not say all are refused.

``tests/logs/promptfoo.json`` is as promptfoo 0.121.20 wrote it, without each ``tokenUsage``. Where the program
promptfoo is on PATH (``npm install --global promptfoo``), one more test lets it write others.
"""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.storage import digest
from tests.conftest import REPOSITORY
from tests.suite_tree import OTHER, Run, ask_of_log, pin_document, refused, suite_lines
from tests.suite_tree import run as run  # a fixture

LOG = json.loads((REPOSITORY / "tests" / "logs" / "promptfoo.json").read_text())
PROVIDER = """
const ANSWERS = { '2 + 2?': '4', 'Capital of France?': 'Paris', 'Longest river?': 'I think the Nile' };
module.exports = class {
  id() { return 'router'; }
  async callApi(prompt) { return { output: ANSWERS[prompt] || 'no idea' }; }
};
"""


@pytest.fixture
def evaluated(run: Run) -> Run:
    """The suite is results of promptfoo, about this candidate."""
    ask_of_log(run, "promptfoo", "contains-it")
    _log(run, dict)
    return run


def _log(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    log = copy.deepcopy(LOG)
    log["config"]["tags"]["lockstep_model"] = run.merged
    change(log)
    pin_document(run, log)


def _result(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda log: change(log["results"]["results"][1])


@pytest.mark.slow
def test_results_of_promptfoo_become_neutral_lines(evaluated: Run) -> None:
    (finding,) = evaluated.judged().findings
    assert (finding.value, finding.n, finding.evidence) == (0.75, 4, "witnessed")
    lines = suite_lines(evaluated)
    assert {(line.sample, line.value, line.group, line.slice) for line in lines} == {
        ("sum", 1.0, "a", "maths"), ("capital", 1.0, "b", "places"), ("river", 1.0, "b", "places"), ("sea", 0.0, "b", "places"),
    }  # fmt: skip
    metrics = {(line.metric, line.source, line.model) for line in lines}
    assert metrics == {("contains-it", "external", evaluated.merged)}
    first = LOG["results"]["results"][0]
    asked = ["2 + 2?", {"question": "2 + 2?", "expected": "4"}, first["testCase"]["assert"]]
    assert lines[0].sample_sha == digest.of_json(asked)


def test_the_score_of_a_whole_test_and_a_test_without_a_name(evaluated: Run) -> None:
    evaluated.suite["metrics"]["score"] = {"low": 0.0, "high": 1.0}
    _log(evaluated, _result(lambda result: result["testCase"].pop("description")))
    scores = {line.sample: line.value for line in suite_lines(evaluated) if line.metric == "score"}
    assert scores == {"sum": 1.0, "1": 1.0, "river": 0.5, "sea": 0.0}


def test_another_answer_is_the_same_question(evaluated: Run) -> None:
    before = suite_lines(evaluated)[1].sample_sha
    _log(evaluated, _result(lambda result: result["response"].update(output="Lyon")))
    assert suite_lines(evaluated)[1].sample_sha == before
    _log(evaluated, _result(lambda result: result["prompt"].update(raw="France's capital?")))
    assert suite_lines(evaluated)[1].sample_sha != before


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no tags": (
        lambda log: log["config"].pop("tags"),
        r"names no model: write `tags: \{lockstep_model: 'sha256:…'\}` into promptfooconfig\.yaml;",
    ),
    "a tag that is no digest": (
        lambda log: log["config"]["tags"].update(lockstep_model="{{env.MODEL}}"), "model: String should match",
    ),
    "another model": (
        lambda log: log["config"]["tags"].update(lockstep_model=OTHER), r"is about model sha256:999999999999…, the candidate",
    ),
    "two providers": (
        lambda log: log["results"]["prompts"].append({}),
        "has several providers or prompts: run one provider with one prompt;",
    ),
    "an error": (_result(lambda result: result.update(failureReason=2)), "sample 'capital' ended with an error;"),
    "an answer from the cache": (
        _result(lambda result: result["response"].update(cached=True)),
        "sample 'capital' was answered from promptfoo's cache: run it with --no-cache;",
    ),
    "a test that is gone": (lambda log: log["results"]["results"].pop(), "has 3 samples, and the suite has 4;"),
    "a test twice": (
        lambda log: log["results"]["results"].append(log["results"]["results"][1]),
        "sample 'capital' is scored more than once by contains-it;",
    ),
    "a metric that one test lacks": (
        _result(lambda result: result["namedScores"].pop("contains it")), "has 3 samples, and the suite has 4;",
    ),
    "no number": (
        _result(lambda result: result["namedScores"].update({"contains it": None})),
        "sample 'capital': contains-it is None, which is no number;",
    ),
    "no metadata": (
        _result(lambda result: result["testCase"].pop("metadata")), "sample 'capital' has no 'family' in its metadata;",
    ),
    "another shape": (lambda log: log.update(results=[]), r"no results of promptfoo in JSON \(TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_results_that_do_not_say_all_are_refused_in_one_line(evaluated: Run, case: str) -> None:
    change, line = REFUSED[case]
    _log(evaluated, change)
    refused(evaluated, line)


@pytest.mark.slow
def test_promptfoo_itself_writes_such_results(evaluated: Run, tmp_path: Path) -> None:
    """Promptfoo asks a provider that answers without a model, with the configuration that it recorded."""
    if not (program := shutil.which("promptfoo")):
        pytest.skip("promptfoo is not on PATH: npm install --global promptfoo")
    (work := tmp_path / "promptfoo").mkdir()
    (work / "provider.js").write_text(PROVIDER)
    config = {key: LOG["config"][key] for key in ("prompts", "providers", "defaultTest", "tests")}
    tags = {"lockstep_model": "{{env.LOCKSTEP_MODEL}}"}
    (work / "promptfooconfig.json").write_text(json.dumps({**config, "tags": tags}))
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(work), "LOCKSTEP_MODEL": evaluated.merged,
        "PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1",
    }  # fmt: skip
    command = [program, "eval", "-c", "promptfooconfig.json", "--no-cache", "--no-write", "--output", "out.json"]
    done = subprocess.run(command, cwd=work, env=environment, check=False, capture_output=True, text=True)
    assert (work / "out.json").is_file(), done.stderr  # it ends with 100 where a test fails
    pin_document(evaluated, json.loads((work / "out.json").read_text()))
    assert {line.sample: line.value for line in suite_lines(evaluated)} == {
        "sum": 1.0,
        "capital": 1.0,
        "river": 1.0,
        "sea": 0.0,
    }
