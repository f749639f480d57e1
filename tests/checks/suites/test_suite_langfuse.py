"""Suites of kind langfuse: items of an experiment become neutral lines, and those that do not say all are refused.

``tests/logs/langfuse.json`` was written by the types of Langfuse's SDK 5.2.0, and no server was asked. Where
LOCKSTEP_LANGFUSE names the Python of an environment with the SDK, its types read and write it again.
"""

import copy
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from checks.process.errors import EvidenceRefused
from checks.storage import digest
from tests.conftest import REPOSITORY
from tests.suite_tree import OTHER, Run, ask_of_log, pin_document, refused, suite_lines
from tests.suite_tree import run as run  # a fixture

PYTHON = "LOCKSTEP_LANGFUSE"
LOG = json.loads((REPOSITORY / "tests" / "logs" / "langfuse.json").read_text())
SCRIPT = """
import json, sys
from langfuse.api import ExperimentItemsResponse
from langfuse.api.core.pydantic_utilities import parse_obj_as
pages = [parse_obj_as(ExperimentItemsResponse, page) for page in json.load(sys.stdin)]
json.dump([json.loads(page.json()) for page in pages], sys.stdout)
"""


@pytest.fixture
def evaluated(run: Run) -> Run:
    """The suite is an experiment of Langfuse, about this candidate."""
    ask_of_log(run, "langfuse", "contains-it")
    _log(run, list)
    return run


def _log(run: Run, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """``change`` gets all items; the last of them is on the second page."""
    log = copy.deepcopy(LOG)
    items = [item for page in log for item in page["data"]]
    for item in items:
        item["experimentMetadata"]["lockstep_model"] = run.merged
    change(items)
    pin_document(run, log)


@pytest.mark.slow
def test_items_of_an_experiment_become_neutral_lines(evaluated: Run) -> None:
    (finding,) = evaluated.judged().findings
    assert (finding.value, finding.n, finding.evidence) == (0.75, 4, "witnessed")
    lines = suite_lines(evaluated)
    assert {(line.sample, line.value, line.group, line.slice) for line in lines} == {
        ("sum", 1.0, "a", "maths"), ("capital", 1.0, "b", "places"), ("river", 1.0, "b", "places"), ("sea", 0.0, "b", "places"),
    }  # fmt: skip
    metrics = {(line.metric, line.source, line.model) for line in lines}
    assert metrics == {("contains-it", "external", evaluated.merged)}
    assert lines[0].sample_sha == digest.of_json(["2 + 2?", "4"])


REFUSED: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "no metadata of the experiment": (
        lambda items: [item.pop("experimentMetadata") for item in items],
        r'names no model: call `run_experiment` with metadata=\{"lockstep_model": "sha256:…"\}, and list fields=',
    ),
    "another model": (
        lambda items: [item["experimentMetadata"].update(lockstep_model=OTHER) for item in items],
        r"is about model sha256:999999999999…, the candidate",
    ),
    "two models": (
        lambda items: items[1]["experimentMetadata"].update(lockstep_model=OTHER),
        "has not one experiment: list items with experiment_id;",
    ),
    "two experiments": (
        lambda items: items[3].update(experimentId="e2"), "has not one experiment: list items with experiment_id;",
    ),
    "an error": (lambda items: items[1].update(level="ERROR"), "sample 'capital' ended with an error;"),
    "no scores": (lambda items: items[1].pop("scores"), "sample 'capital' has no score: list fields=scores;"),
    "no input": (lambda items: items[1].pop("input"), "sample 'capital' has no input: list fields=io;"),
    "a word": (
        lambda items: items[1]["scores"][1].update(value="good"), "sample 'capital': contains-it is 'good', which is no number;",
    ),
    "two scores of one name": (
        lambda items: items[1]["scores"][0].update(name="contains it"),
        "sample 'capital' is scored more than once by contains-it;",
    ),
    "no metadata of the item": (
        lambda items: items[1].pop("experimentItemMetadata"), "sample 'capital' has no 'family' in its metadata;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_items_that_do_not_say_all_are_refused_in_one_line(evaluated: Run, case: str) -> None:
    change, line = REFUSED[case]
    _log(evaluated, change)
    refused(evaluated, line)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (LOG[:1], "its last page is missing: list items until the answer has no cursor;"),
        (LOG[0], r"no pages of items of an experiment of Langfuse \(TypeError"),
        ([], r"no pages of items of an experiment of Langfuse \(IndexError"),
    ],
)
def test_a_log_without_every_page_is_refused(evaluated: Run, log: Any, line: str) -> None:
    pin_document(evaluated, log)
    with pytest.raises(EvidenceRefused, match=line):
        suite_lines(evaluated)


def test_the_types_of_the_sdk_read_and_write_the_same_pages() -> None:
    if not (python := os.environ.get(PYTHON)):
        pytest.skip(
            f"{PYTHON} is not set: python3 -m venv FOLDER && FOLDER/bin/pip install langfuse makes an environment"
        )
    done = subprocess.run([python, "-c", SCRIPT], input=json.dumps(LOG), check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == LOG
