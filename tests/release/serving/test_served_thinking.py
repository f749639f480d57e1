"""All stages on a tiny base that thinks, from its download to a verdict about its thoughts, and a server that agrees."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats.serving import ProbeReport
from checks.formats.thinking import Thinking, of_model
from checks.formats.verdict import Verdict
from checks.records.rows import Message, Prediction, Row
from checks.storage import files, layout
from release import runtimes
from release.serving import processes
from release.serving.client import Client
from release.serving.probes import answers, life
from release.serving.probes import score as served_score
from release.serving.probes.context import ProbeContext
from stages.evaluate import evaluate
from stages.fetch import fetch
from stages.gate import gate
from stages.merge import merge
from stages.prepare import prepare
from stages.probe import probe
from stages.score import score
from stages.suites import suites
from stages.train import train
from stages.validate import validate
from tests import pipeline_repository, tuned
from tests.conftest import scaled_down
from tests.stages.weights.test_thinking import _model
from tests.thinking_template import TEMPLATE

pytestmark = pytest.mark.slow


def _thoughtful() -> list[dict[str, str]]:
    """Rows whose references have a short thought."""
    return [
        {**row, "reference": f"<think>\n{row['slice']}\n</think>\n\n{row['reference']}"}
        for row in pipeline_repository.table()
    ]


def _document() -> dict[str, Any]:
    document = scaled_down()
    document["base"]["thinking"] = {"mode": "always"}
    document["validate"]["max_reference_tokens"] = 48
    document["validate"]["max_prompt_tokens"] = 120
    document["evaluate"] |= {"scorers": [{"kind": "exact-match"}], "max_new_tokens": 48, "precision": "fp32"}
    document["evaluate"]["base_prompt"] = {"labels": False, "shots": 0}
    document["serve"] |= {
        "max_input_tokens": 128, "max_total_tokens": 200, "dtype": "fp32", "runtime": "transformers",
    }  # fmt: skip
    document["train"]["max_length"] = 256
    document["gates"] = {
        "ends": {"kind": "thinking", "at_most": 0.5, "confidence": 0.9},
        "no_longer": {"kind": "thinking", "against": "base", "at_most": 2.0, "confidence": 0.9},
    }
    return document


def test_a_model_that_thinks_gets_a_verdict_about_its_thoughts(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, document = _thoughtful(), _document()
    plain = _model(tiny_base, tmp_path / "plain", TEMPLATE)
    asked = [
        (
            (Message(role="system", content="Name the service."), Message(role="user", content=row["prompt"])),
            row["reference"],
        )
        for row in rows
    ]
    tuned.tune(plain, tmp_path / "base", asked, steps=120)
    root = tmp_path / "repository"
    root.mkdir()
    pipeline_repository.make(root, tmp_path / "base", document, rows, code=())
    document["validate"]["labels"] = None
    pipeline_repository.write_params(root, document)
    monkeypatch.chdir(root)
    params = params_file.load(root / layout.PARAMS)
    with pipeline_repository.forked_ranks():
        for stage in (fetch, prepare, validate, train, merge, score, evaluate, suites, probe, gate):
            print(stage.__name__, stage(params, root))
    assert of_model(root / layout.MERGED) == Thinking(mode="always")
    predictions = files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction)
    closed = [p for p in predictions if p.thoughts[0].closed]
    assert len(closed) > 0.8 * len(predictions)
    assert any(p.score == 1 for p in closed)
    assert not any("think" in p.prediction for p in predictions)
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert {finding.gate: finding.status for finding in verdict.findings} == {"ends": "pass", "no_longer": "pass"}
    probes = files.read_json(root / layout.PROBES, ProbeReport)
    assert all("</think>" in one.text for one in probes.probes if one.ended)

    # Another implementation, transformers' server, is asked by the same template, and its answers are divided, too.
    pinned = runtimes.load("transformers")
    runtime = pinned.model_copy(update={"command": tuple(word for word in pinned.command if word != "{model}")})
    with closing(processes.start(runtime, params.serve, root)) as server, closing(Client(server.url)) as client:
        test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
        context = ProbeContext(
            client=client, server=server, runtime=runtime, model=str(root / layout.MERGED), serve=params.serve,
            probes=probes, rows=test[:8], offline=predictions[:8], scorer=params.evaluate.scorers[0],
            limit=params.evaluate.max_new_tokens, thinking=params.base.thinking,
        )  # fmt: skip
        checks = [life.start(context, time.monotonic()), answers.template(context), answers.parity(context)]
        checks.append(served_score.score(context))
    assert {check.status for check in checks} == {"pass"}, checks
    assert list(context.served) == [p.prediction for p in predictions[:8]]
