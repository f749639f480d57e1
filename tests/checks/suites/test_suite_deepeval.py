"""Suites of kind deepeval: a test run of DeepEval becomes neutral lines, and one that does not say all is refused.

``tests/logs/deepeval.json`` is as DeepEval 4.3.1 wrote it. LOCKSTEP_DEEPEVAL names the Python of an environment with
DeepEval: then one more test lets it write another.
"""

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.storage import digest
from tests.conftest import REPOSITORY
from tests.suite_tree import OTHER, Run, ask_of_log, pin_document, refused, suite_lines
from tests.suite_tree import run as run  # a fixture

PYTHON = "LOCKSTEP_DEEPEVAL"
LOG = json.loads((REPOSITORY / "tests" / "logs" / "deepeval.json").read_text())
SCORES = {"sum": 1.0, "capital": 1.0, "river": 0.0, "sea": 0.0}
SCRIPT = """
import sys
from deepeval import evaluate
from deepeval.evaluate.configs import AsyncConfig, DisplayConfig
from deepeval.metrics import ExactMatchMetric
from deepeval.test_case import LLMTestCase

rows = [
    ("sum", "2 + 2?", "4", "4", "a", "maths"),
    ("capital", "Capital of France?", "Paris", "Paris", "b", "places"),
    ("river", "Longest river?", "I think the Nile", "Nile", "b", "places"),
    ("sea", "Largest sea?", "no idea", "Pacific", "b", "places"),
]
evaluate(
    [
        LLMTestCase(
            name=name, input=question, actual_output=answer, expected_output=expected,
            metadata={"family": family, "topic": topic},
        )
        for name, question, answer, expected, family, topic in rows
    ],
    [ExactMatchMetric()],
    hyperparameters={"lockstep_model": sys.argv[1]},
    async_config=AsyncConfig(run_async=False),
    display_config=DisplayConfig(show_indicator=False, print_results=False, inspect_after_run=False),
)
"""


@pytest.fixture
def evaluated(run: Run) -> Run:
    """The suite is a test run of DeepEval, about this candidate."""
    ask_of_log(run, "deepeval", "Exact-Match")
    _log(run, dict)
    return run


def _log(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    log = copy.deepcopy(LOG)
    log["hyperparameters"]["lockstep_model"] = run.merged
    change(log)
    pin_document(run, log)


@pytest.mark.slow
def test_a_test_run_of_deepeval_becomes_neutral_lines(evaluated: Run) -> None:
    (finding,) = evaluated.judged().findings
    assert (finding.value, finding.n, finding.evidence) == (0.5, 4, "witnessed")
    lines = suite_lines(evaluated)
    assert {(line.sample, line.value, line.group, line.slice) for line in lines} == {
        ("sum", 1.0, "a", "maths"), ("capital", 1.0, "b", "places"), ("river", 0.0, "b", "places"), ("sea", 0.0, "b", "places"),
    }  # fmt: skip
    metrics = {(line.metric, line.source, line.model) for line in lines}
    assert metrics == {("Exact-Match", "external", evaluated.merged)}
    assert lines[0].sample_sha == digest.of_json(["2 + 2?", "4", None, None])


def test_another_answer_is_the_same_question(evaluated: Run) -> None:
    before = suite_lines(evaluated)[0].sample_sha
    _log(evaluated, lambda log: log["testCases"][0].update(actualOutput="four"))
    assert suite_lines(evaluated)[0].sample_sha == before
    _log(evaluated, lambda log: log["testCases"][0].update(expectedOutput="four"))
    assert suite_lines(evaluated)[0].sample_sha != before


def _case(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda log: change(log["testCases"][1])


def _metric(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return _case(lambda case: change(case["metricsData"][0]))


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no hyperparameters": (
        lambda log: log.pop("hyperparameters"),
        r'names no model: call `evaluate` with hyperparameters=\{"lockstep_model": "sha256:…"\};',
    ),
    "another model": (
        lambda log: log["hyperparameters"].update(lockstep_model=OTHER), r"is about model sha256:999999999999…, the candidate",
    ),
    "conversations": (
        lambda log: log["conversationalTestCases"].append({}), "has conversations: only test cases of one turn are read;",
    ),
    "no scores": (_case(lambda case: case.pop("metricsData")), "sample 'capital' has no score;"),
    "an error": (
        _metric(lambda metric: (metric.pop("score"), metric.update(error="no key"))),
        "sample 'capital': Exact Match ended with an error;",
    ),
    "no score": (
        _metric(lambda metric: metric.pop("score")), "sample 'capital': Exact-Match is None, which is no number;",
    ),
    "a case that is gone": (lambda log: log["testCases"].pop(), "has 3 samples, and the suite has 4;"),
    "a case twice": (
        lambda log: log["testCases"].append(log["testCases"][1]), "sample 'capital' is scored more than once by Exact-Match;",
    ),
    "two metrics of one name": (
        _case(lambda case: case["metricsData"][1].update(name="Exact-Match")),
        "sample 'capital' is scored more than once by Exact-Match;",
    ),
    "no metadata": (_case(lambda case: case.pop("metadata")), "sample 'capital' has no 'family' in its metadata;"),
    "no cases": (lambda log: log.pop("testCases"), r"no test run of DeepEval with test cases \(KeyError: 'testCases'\);"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_test_run_that_does_not_say_all_is_refused_in_one_line(evaluated: Run, case: str) -> None:
    change, line = REFUSED[case]
    _log(evaluated, change)
    refused(evaluated, line)


@pytest.mark.slow
def test_deepeval_itself_writes_such_a_test_run(evaluated: Run, tmp_path: Path) -> None:
    """DeepEval evaluates four answers with a metric that asks no model."""
    if not (python := os.environ.get(PYTHON)):
        pytest.skip(
            f"{PYTHON} is not set: python3 -m venv FOLDER && FOLDER/bin/pip install deepeval makes an environment"
        )
    (work := tmp_path / "deepeval").mkdir()
    environment = {"PATH": os.defpath, "HOME": str(work), "DEEPEVAL_TELEMETRY_OPT_OUT": "YES"}
    environment["DEEPEVAL_RESULTS_FOLDER"] = str(work / "results")
    command = [python, "-c", SCRIPT, evaluated.merged]
    subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
    (log,) = (work / "results").glob("*.json")
    pin_document(evaluated, json.loads(log.read_text()))
    assert {line.sample: line.value for line in suite_lines(evaluated)} == SCORES
