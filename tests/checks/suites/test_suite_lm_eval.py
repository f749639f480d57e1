"""Suites of kind lm-eval: a log that the harness wrote becomes neutral lines, and the harness itself runs offline."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.evaluation.suite_lines import problem
from checks.formats.suite_report import Scored, SuiteLine
from checks.kinds.suite import Material
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused, ParamsRefused, SourceRefused
from checks.storage import digest, files, layout
from checks.suites import lm_eval
from checks.suites.lm_eval import PYTHON, LmEval
from stages.suites import suites
from stages.tools import lm_eval as tool
from tests import evidence_tree, model_tree
from tests.conftest import REPOSITORY, as_params
from tests.pipeline_repository import write_params
from tests.stages.test_merge import make_adapter, peft_merged

VERSION = "0.4.13"
LOG = REPOSITORY / "tests" / "logs" / "lm-eval.jsonl"  # as lm-eval 0.4.13 wrote it, of the tiny model
TASKS = REPOSITORY / "tests" / "lm_eval_tasks"
MODEL = f"sha256:{'1' * 64}"
SUITE: dict[str, Any] = {
    "kind": "lm-eval", "names": ["colours"], "version": VERSION, "samples": 5, "models": ["candidate", "base"],
    "precision": "fp32", "chat": False, "metrics": {"acc": {"low": 0.0, "high": 1.0}}, "noise": 0.0,
    "tasks": {"uri": "tasks", "sha256": digest.of_tree(TASKS).digest.removeprefix("sha256:"), "license": "Apache-2.0"},
    "id": "id", "slice": "topic",
}  # fmt: skip
GATE = {
    "kind": "threshold", "suite": "colours", "metric": "acc", "at_least": 0.01, "confidence": 0.8, "resolution": 0.45,
}  # fmt: skip


def _suite(**change: Any) -> LmEval:
    return LmEval.model_validate(SUITE | change)


def _edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The real log, each line changed."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_log_of_the_harness_becomes_neutral_lines() -> None:
    lines = list(_suite().convert(LOG, "colours", MODEL))
    assert {(line.sample, line.group, line.slice) for line in lines} == {
        (f"colours/{name}", f"colours/{name}", topic)
        for name, topic in (
            ("grass", "plants"),
            ("blood", "body"),
            ("snow", "weather"),
            ("coal", "earth"),
            ("ash", "earth"),
        )
    }
    assert {(line.metric, line.value, line.model) for line in lines} <= {("acc", 0.0, MODEL), ("acc", 1.0, MODEL)}
    first = json.loads(LOG.read_text().splitlines()[0])
    assert lines[0].sample_sha == digest.of_json([first["doc_hash"], first["prompt_hash"], first["target_hash"]])
    bare = list(_suite(id=None, slice=None, group="topic").convert(LOG, "colours", MODEL))
    assert (bare[0].sample, bare[0].group, bare[0].slice) == ("colours/0", "plants", "colours")


def test_a_filter_stands_before_its_metric(tmp_path: Path) -> None:
    log = _edited(tmp_path / "log.jsonl", lambda line: line.update(filter="strict"))
    assert list(_suite().convert(log, "colours", MODEL)) == []
    found = _suite(metrics={"strict/acc": {"low": 0.0, "high": 1.0}}).convert(log, "colours", MODEL)
    assert {line.metric for line in found} == {"strict/acc"}


@pytest.mark.parametrize("key", ["doc_hash", "prompt_hash", "target_hash"])
def test_models_that_were_asked_otherwise_are_not_compared(key: str, tmp_path: Path) -> None:
    other = _edited(tmp_path / "log.jsonl", lambda line: line.update({key: "0"}) if line["doc_id"] == 2 else None)
    scored: dict[Any, list[Scored]] = {
        role: list(_suite().convert(log, "colours", MODEL)) for role, log in (("candidate", LOG), ("base", other))
    }
    wrong = problem(scored, _suite().scales, 5)
    said = "sample 'colours/snow' is not what the candidate was asked (sample_sha, group or slice)"
    assert wrong == ("base", said)


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no hash": (lambda line: line.pop("prompt_hash"), "KeyError: 'prompt_hash'"),
    "no such key": (lambda line: line["doc"].pop("id"), "KeyError: 'id'"),
    "a metric of two numbers": (lambda line: line.update(acc=[1.0, 2]), r"acc is \[1\.0, 2\], which is no number"),
    "NaN": (lambda line: line.update(acc=float("nan")), "value: Input should be a finite number"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_log_that_does_not_say_all_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, said = UNFIT[case]
    _edited(tmp_path / "samples_colours_1.jsonl", change)
    with pytest.raises(EvidenceRefused, match=rf"^params\.yaml: suites\.c\.names: colours: .*{said}"):
        list(_suite()._of_task(_material(tmp_path), "colours", str(tmp_path), MODEL))
    with pytest.raises(EvidenceRefused, match="names: other: lm-eval logged no samples of it; name tasks"):
        list(_suite()._of_task(_material(tmp_path), "other", str(tmp_path), MODEL))


def _material(root: Path) -> Material:
    def never(*_: object) -> Any:
        raise AssertionError("nothing is asked")

    return Material(
        "c", root, {"tasks": TASKS}, {"candidate": MODEL}, (), {}, never, never, lambda _: nullcontext(root)
    )


ENVIRONMENTS: dict[str, tuple[str | None, str]] = {
    "none": (None, r"\.lockstep/lm-eval/bin/python: No such file or directory: suites\.c needs lm-eval; run `python -m stages"),
    "another's": (sys.executable, rf"has no lm-eval, and suites\.c\.version is 0\.4\.13; run .* or set {PYTHON}"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment_without_the_harness_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, said = ENVIRONMENTS[case]
    monkeypatch.delenv(PYTHON, raising=False)
    if python:
        monkeypatch.setenv(PYTHON, python)
    with pytest.raises(MachineRefused, match=said):
        _suite().scored(_material(tmp_path))


@pytest.mark.parametrize("change", [{"models": ["base"]}, {"names": []}, {"version": ">=0.4"}, {"samples": 0}])
def test_parameters_that_cannot_be_run_are_refused(change: dict[str, Any], document: dict) -> None:
    document["suites"] = {"colours": SUITE | change}
    with pytest.raises(ParamsRefused, match=rf"suites\.colours.*{next(iter(change))}"):
        as_params(document)


@pytest.fixture(scope="module")
def harness() -> str:
    """The harness's Python. Making an environment and two runs take a minute of a core, so it must be there."""
    if not (python := os.environ.get(PYTHON)):
        pytest.skip(f"{PYTHON} is not set: `python -m {tool.__name__} {VERSION}` makes an environment")
    return python


@pytest.mark.slow
def test_the_harness_asks_a_real_model_and_a_gate_asks_its_scores(
    harness: str, tmp_path: Path, document: dict, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, harness)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of this process, and not of the harness
    shutil.copytree(TASKS, tmp_path / "tasks")
    document["suites"], document["gates"] = {"colours": SUITE | {"models": ["candidate"]}}, {"knows": GATE}
    model_tree.build(tmp_path, as_params(document), tiny_base, 0.02)
    write_params(tmp_path, document)
    suites(as_params(document), tmp_path)
    lines = files.read_jsonl(tmp_path / layout.SUITES / "colours.jsonl", SuiteLine)
    logged = list(_suite().convert(LOG, "colours", MODEL))
    assert [(line.sample, line.sample_sha) for line in lines] == [(each.sample, each.sample_sha) for each in logged]
    assert [line.model for line in lines] == [digest.of_tree(tmp_path / layout.MERGED).digest] * 5
    assert [line.value for line in lines] == [each.value for each in logged]  # the log is of this model
    assert {line.source for line in lines} == {"external"}
    (finding,) = evidence_tree.judged(tmp_path, as_params(document)).findings
    assert (finding.n, finding.evidence, finding.suite) == (5, "witnessed", "colours")
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["colours.jsonl", "colours.yaml"]
    (tmp_path / "tasks" / "colours.yaml").write_text("task: colours\ndataset_path: nowhere/such\n")
    with pytest.raises(SourceRefused, match=r"suites\.colours\.tasks\.sha256: \w+ is pinned, but tasks is \w+"):
        suites(as_params(document), tmp_path)


def test_a_model_with_two_names_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def ran(_suite: LmEval, _material: Material, _python: str, model: Path, out: Path) -> None:
        asked.append(model.name)
        shutil.copyfile(LOG, out / "samples_colours_1.jsonl")

    monkeypatch.setattr(lm_eval, "_python", lambda *_: "")
    monkeypatch.setattr(lm_eval, "_run", ran)
    models: dict[Any, str] = {"candidate": MODEL, "base": f"sha256:{'2' * 64}", "main": MODEL}
    material = replace(_material(tmp_path), models=models, weights=lambda role: nullcontext(tmp_path / role))
    made = _suite(models=[*models]).scored(material)
    assert {role: {each.model for each in found} for role, found in made.scored.items()} == {
        role: {model} for role, model in models.items()
    }
    assert asked == ["candidate", "base"]


def test_a_run_that_fails_is_refused_with_its_last_line(tmp_path: Path) -> None:
    """The pipeline's own Python has no harness."""
    said = (
        r"^params\.yaml: suites\.c: lm-eval ended with 1: .*No module named lm_eval; run `.* lm_eval run --include_path"
    )
    with pytest.raises(EvaluationRefused, match=said):
        lm_eval._run(_suite(), _material(tmp_path), sys.executable, tmp_path, tmp_path)


def _of_answers(log: Path) -> list[float]:
    """Return the log-probability of each answer, as the harness logged it."""
    lines = sorted(map(json.loads, log.read_text().splitlines()), key=lambda line: line["doc_id"])
    return [float(logprob) for line in lines for logprob, _ in line["filtered_resps"]]


def _of_model(model: Any, tokenizer: Any) -> list[float]:
    """Compute the same without the harness."""
    import torch

    found = []
    for line in map(json.loads, LOG.read_text().splitlines()):
        for question, answer in (each.values() for each in line["arguments"].values()):
            ids, start = tokenizer.encode(question + answer), len(tokenizer.encode(question))
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            found.append(sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids))))
    return found


@pytest.mark.slow
def test_the_harness_adds_the_adapter_that_ships_beside_its_base(harness: str, tmp_path: Path, tiny_base: Path) -> None:
    """It gives the answers the log-probabilities of PEFT's merge of the two, and not the base's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, base = AutoTokenizer.from_pretrained(tiny_base), Path(shutil.copytree(tiny_base, tmp_path / "base"))
    model_tree.change(base, 0.02)  # the log is of this model
    assert _of_model(AutoModelForCausalLM.from_pretrained(base), tokenizer) == pytest.approx(_of_answers(LOG), abs=1e-3)

    adapter = make_adapter(tmp_path / "adapter", tiny_base)
    shutil.copytree(tiny_base, tmp_path / "apart")
    shutil.copytree(adapter, tmp_path / "apart" / layout.SHIPPED_ADAPTER)
    lm_eval._run(_suite(), _material(tmp_path), harness, tmp_path / "apart", tmp_path / "out")
    (log,) = (tmp_path / "out").rglob("samples_colours_*.jsonl")
    assert _of_answers(log) == pytest.approx(_of_model(peft_merged(tiny_base, adapter), tokenizer), abs=1e-3)
    assert _of_answers(log) != pytest.approx(_of_answers(LOG), abs=1e-1)
