"""Each way of training, from `fetch` to a verdict, and then behind a real server: it answers as the offline model does.

The stages run in this process, on the tiny model. One server is asked for all merged models in turn, by their folders;
that a server refuses every model but its own is held by tests/release/verbs/test_verify.py.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.serving import ProbeReport
from checks.formats.training_reports import ParityReport, TrainReport
from checks.formats.verdict import Verdict
from checks.storage import files, layout
from release import runtimes
from release.runtimes import Runtime
from release.serving import processes
from release.serving.client import Client
from release.serving.probes import answers, life
from release.serving.probes.context import ProbeContext
from release.serving.server import Server
from stages.evaluate import evaluate
from stages.fetch import fetch
from stages.gate import gate
from stages.merge import merge
from stages.prepare import prepare
from stages.probe import probe
from stages.score import score
from stages.train import train
from stages.validate import validate
from tests import pipeline_repository as repository
from tests import training_tree, tuned
from tests.conftest import as_params

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tracked")]

WAYS: dict[str, dict[str, Any]] = {
    "sft": {},
    "packing": {"packing": "bfd", "batch_size": 2},
    "nf4": {"quantization": {"kind": "nf4", "double": True}},
    "full": {"full": {"layers": None}, "learning_rate": 0.002},
    **training_tree.METHODS,
}
# An adapter, and weights of its own. The others differ in what is learned and not in what is served: that a base in 4 bits
# is merged is held by test_quantised.py, and a training by pairs is judged by its end in test_steps.py.
OF_CI = ("sft", "full")


class Served(NamedTuple):
    """A server that answers for whichever model a request names."""

    server: Server
    runtime: Runtime


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve`, not pinned to a model."""
    pinned = runtimes.load("transformers")
    runtime = pinned.model_copy(update={"command": tuple(word for word in pinned.command if word != "{model}")})
    nothing = tmp_path_factory.mktemp("nothing")
    with closing(processes.start(runtime, as_params(tuned.document()).serve, nothing)) as server:
        yield Served(server, runtime)


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.exhaustive] if way not in OF_CI else []) for way in WAYS]
)
def test_what_was_trained_is_merged_judged_and_served_as_it_answers_offline(
    way: str, tmp_path: Path, tiny_base: Path, served: Served
) -> None:
    document = _document(way)
    root = tmp_path / "repository"
    repository.make(root, tiny_base, document, _rows())
    document["prepare"]["loader"]["columns"]["extra"] = {"rejected": "worse", "completion": "answer", "label": "good"}
    repository.write_params(root, document)
    params = as_params(document)
    for stage in (fetch, prepare, validate, train, merge, score, evaluate, probe, gate):
        stage(params, root)

    trained = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    evaluation = files.read_json(root / layout.EVALUATION, EvaluationReport)
    probes = files.read_json(root / layout.PROBES, ProbeReport)
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert parity.adapter == trained.adapter == verdict.judged["models/adapter"]
    assert {parity.merged} == {evaluation.merged, probes.merged, verdict.model}
    assert not any("different bytes" in each.reason or "no evidence" in each.reason for each in verdict.findings)

    with closing(Client(served.server.url)) as client:
        context = ProbeContext(
            client=client, server=served.server, runtime=served.runtime, model=str(root / layout.MERGED),
            serve=params.serve, probes=probes, rows=(), offline=(), scorer=params.evaluate.scorers[0], limit=0,
        )  # fmt: skip
        asked = (answers.template, answers.parity, answers.adapter)
        found = [life.start(context, time.monotonic()), *(check(context) for check in asked)]
    assert {check.status for check in found} == {"pass"}, found
    assert found[2].value == 1.0, found[2]


def _document(way: str) -> dict[str, Any]:
    """params.yaml of that way, in which the tiny model learns enough to answer otherwise than its base."""
    value = tuned.document()
    if way == "full":
        del value["train"]["lora"]
    value["train"] |= {"learning_rate": 0.02} | WAYS[way]
    value["serve"]["probes"] |= {"rows": 4, "max_new_tokens": 8}
    value["validate"]["preferences"] = training_tree.BOUNDS
    return value


def _rows() -> list[dict[str, Any]]:
    """The table with the further columns that the methods learn from."""
    services = sorted(repository.SERVICES)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(repository.table()):
        other, liked = services[(services.index(row["reference"]) + 1) % 4], number % 2 == 0
        rows.append(row | {"worse": other, "answer": row["reference"] if liked else other, "good": liked})
    return rows
