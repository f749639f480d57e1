"""The noise of one unchanged model, measured on a tiny real one: what is varied, what is written, what is refused."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.engines import PYTHON
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport, NoiseRun
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from release.adapters.dvc import StageRefused
from release.verbs import calibrate as verb
from stages import calibrate as stage
from stages.inference import answers, generate
from stages.weights import parity
from tests import pipeline_repository as repository
from tests import vllm_offline
from tests.conftest import REPOSITORY, as_params, scaled_down

pytestmark = pytest.mark.slow

LABELS = ("vm", "storage", "queue", "image")
TOKENS = 64  # so many prompt tokens a batch: several batches even here


def rows(start: int, count: int) -> list[Row]:
    """Rows whose prompts have from 4 to 14 words, so that batches are padded."""
    return [
        Row(
            id=f"{number:016x}",
            messages=(Message(role="user", content=" ".join(["show", "the"] * (2 + number % 6)) + f" disk {number}"),),
            reference=LABELS[number % 4], group=f"g{number}", slice="all", source=f"file:{number}",
        )
        for number in range(start, start + count)
    ]  # fmt: skip


def document(**change: Any) -> dict[str, Any]:
    value = scaled_down()
    value["evaluate"] |= {
        "scorers": [{"kind": "edit-similarity"}, {"kind": "exact-match"}], "batch_tokens": TOKENS, "baselines": [],
    } | change  # fmt: skip
    value["merge"]["parity"]["prompts"] = 9
    value["gates"] = {"data_is_sound": {"kind": "data"}}  # none compares what a random model is never right by
    return value


def lay_out(root: Path, base: Path, params: Params, count: int = 4) -> None:
    """What the stages up to evaluate leave, as far as calibrate reads it. ``count``: rows of the test split."""
    shutil.copytree(base, root / layout.MERGED)
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", rows(3000, count))
    files.write_jsonl(root / layout.SPLITS / "valid.jsonl", rows(1200, 12))
    report = EvaluationReport(
        merged=digest.of_tree(root / layout.MERGED).digest,
        base=digest.of_bytes(b"base"),
        test=digest.of_file(root / layout.SPLITS / "test.jsonl").sha256,
        rows=count,
        scorers=scoring.digest_of(params.evaluate.scorers),
        prompt_format=answers.prompt_format(root / layout.MERGED, params.evaluate),
        base_prompt=digest.of_bytes(b"asked"),
        confidence=0.95,
        references={},
        models={},
        summary=(),
    )
    files.write_json(root / layout.EVALUATION, report)


@pytest.fixture(scope="module")
def touchy(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A deep model of large random weights in bf16: it makes much of how a sum was rounded."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("touchy") / "model"
    config = AutoConfig.from_pretrained(tiny_base, num_hidden_layers=8, initializer_range=0.5)
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


def by_width(folder: Path, precision: str) -> tuple[Any, Any]:
    """A model whose logits depend on how wide a pass is, as those of wider models do on most processors."""
    model, tokenizer = LOAD(folder, precision)

    def rounded(_: Any, __: Any, kwargs: dict[str, Any], output: Any) -> Any:
        places = torch.arange(output.logits.shape[-1]) * kwargs["input_ids"].shape[-1]
        output.logits += 0.03 * output.logits.std() * places.cos()
        return output

    model.register_forward_hook(rounded, with_kwargs=True)
    return model, tokenizer


LOAD = generate.load


@pytest.fixture(scope="module", params=["fp32", pytest.param("bf16", marks=pytest.mark.exhaustive)])
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, touchy: Path
) -> Iterator[tuple[Path, Params, NoiseReport, str]]:
    """A calibration: its repository, parameters, report and line."""
    precision = request.param
    root = tmp_path_factory.mktemp("calibrated")
    params = as_params(document(precision=precision, max_new_tokens=24 if precision == "bf16" else 8))
    lay_out(root, touchy if precision == "bf16" else tiny_base, params, 30 if precision == "bf16" else 20)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        if precision == "bf16":
            patched.setattr(generate, "load", by_width)
        line = stage.calibrate(params, root)
        assert torch.get_num_threads() == threads
        yield root, params, files.read_json(root / layout.NOISE, NoiseReport), line


Done = tuple[Path, Params, NoiseReport, str]


def test_order_company_batch_size_and_threads_are_varied_one_at_a_time(done: Done) -> None:
    runs = done[2].runs
    first, *others = [(run.order, run.batch_tokens, run.threads) for run in runs]
    assert first == ("test order", TOKENS, torch.get_num_threads())
    assert {order for order, *_ in others} == {"test order", "reversed", "shuffled 1, in 4 parts"}
    assert {size for _, size, _ in others} == {TOKENS, 16, 32, 128, 1}
    assert len({threads for *_, threads in others}) == (
        2 if torch.get_num_threads() > 1 or (os.cpu_count() or 1) > 1 else 1
    )
    for other in others:
        assert sum(one != two for one, two in zip(first, other, strict=True)) == 1


def test_the_noise_of_an_engine_is_measured_with_that_engine(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, str(vllm_offline.environment(tmp_path / "vllm")))
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    params = as_params(document(engine=vllm_offline.ENGINE))
    lay_out(tmp_path / "run", tiny_base, params, 12)
    stage.calibrate(params, tmp_path / "run")
    report = files.read_json(tmp_path / "run" / layout.NOISE, NoiseReport)
    asked = [json.loads(line)["arguments"] for line in (tmp_path / "seen").read_text().splitlines()]
    passes = [(each["max_num_batched_tokens"], each["max_num_seqs"]) for each in asked]
    assert passes == [(TOKENS, 4), (TOKENS, 4), (TOKENS, 4), (TOKENS // 2, 4), (TOKENS, 1)]
    assert [run.changed for run in report.runs] == [0, 0, 0, 0]
    assert report.prompt_format == answers.prompt_format(tiny_base, params.evaluate)
    assert report.device.endswith(" AVX512")


def test_the_floor_is_the_largest_difference_between_two_runs(done: Done) -> None:
    _, _, report, line = done
    assert set(report.floor) == {"edit-similarity"}  # by the other one nothing is right, and no gate compares it
    for name, floor in report.floor.items():
        means = [run.metrics[name] for run in report.runs]
        assert floor == pytest.approx(max(abs(one - two) for one in means for two in means), abs=1e-9)
    assert f"edit-similarity {report.floor['edit-similarity']:.4f}" in line
    assert line.startswith(f"{len(report.runs)} runs on {report.rows} rows differ by up to ")


def test_each_run_is_the_models_own_answers_in_the_order_of_the_rows(done: Done) -> None:
    root, params, report, _ = done
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    model, tokenizer = generate.load(root / layout.MERGED, params.evaluate.precision)
    texts = answers.answer(model, tokenizer, params.evaluate, test, [row.messages for row in test], "again").texts
    assert len(set(texts)) > 2
    scorer = params.evaluate.scorers[0]
    mean = sum(scoring.score(scorer, text, row.reference) for text, row in zip(texts, test, strict=True)) / len(test)
    assert report.runs[0].metrics["edit-similarity"] == pytest.approx(mean, abs=1e-6)
    assert report.runs[0].changed == 0
    if params.evaluate.precision == "fp32":  # where no two tokens are nearly alike, nothing may differ
        assert {run.changed for run in report.runs} == {0}
        assert set(report.floor.values()) == {0.0}
    else:
        assert max(run.changed for run in report.runs) > 0
        assert report.floor["edit-similarity"] > 0


def test_the_report_names_what_was_evaluated(done: Done) -> None:
    root, _, report, _ = done
    evaluation = files.read_json(root / layout.EVALUATION, EvaluationReport)
    for name in ("merged", "base", "test", "scorers", "prompt_format", "rows"):
        assert getattr(report, name) == getattr(evaluation, name)
    assert report.device == answers.device()


def test_again_gives_the_same_bytes_and_asks_the_model_not_the_cache(done: Done) -> None:
    root, params, *_ = done
    before = (root / layout.NOISE).read_bytes()
    stage.calibrate(params, root)
    assert (root / layout.NOISE).read_bytes() == before
    assert not (root / layout.ANSWERS).exists()


def test_log_probabilities_are_compared_between_batches_of_other_sizes(done: Done) -> None:
    root, params, report, _ = done
    valid = files.read_jsonl(root / layout.SPLITS / "valid.jsonl", Row)
    assert report.max_logprob_diff == pytest.approx(parity.noise(root / layout.MERGED, valid[:9]), abs=1e-6)
    if params.evaluate.precision == "fp32":
        assert parity.noise(root / layout.MERGED, valid) < 1e-4
    else:
        assert report.max_logprob_diff > 0.01


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda root: (root / layout.EVALUATION).unlink(), "evaluation.json: No such file"),
        (lambda root: shutil.rmtree(root / layout.MERGED), "models/merged: not a directory"),
        (lambda root: (root / layout.MERGED / "LICENSE").write_text("x"), "models/merged: is .* is about"),
        (lambda root: (root / layout.SPLITS / "test.jsonl").unlink(), "test.jsonl: not a regular file"),
        (lambda root: (root / layout.SPLITS / "test.jsonl").write_text(""), "test.jsonl: is .* is about"),
        (lambda root: (root / layout.SPLITS / "valid.jsonl").unlink(), "valid.jsonl: No such file"),
        (lambda root: (root / layout.SPLITS / "valid.jsonl").write_text(""), "valid.jsonl: has no rows"),
    ],
)
def test_anything_but_what_was_evaluated_is_refused_and_the_old_report_stays(
    tmp_path: Path, tiny_base: Path, spoil: Spoil, problem: str
) -> None:
    params = as_params(document())
    lay_out(tmp_path, tiny_base, params)
    files.write_text(tmp_path / layout.NOISE, "of before")
    spoil(tmp_path)
    with pytest.raises(EvidenceRefused, match=problem):
        stage.calibrate(params, tmp_path)
    assert (tmp_path / layout.NOISE).read_text() == "of before"


def test_other_scorers_and_settings_than_those_of_the_evaluation_are_refused_together(
    tmp_path: Path, tiny_base: Path
) -> None:
    lay_out(tmp_path, tiny_base, as_params(document()))
    other = as_params(document(max_new_tokens=9, scorers=[{"kind": "exact-match"}]))
    with pytest.raises(EvidenceRefused, match=r"evaluate\.scorers: is ") as refused:
        stage.calibrate(other, tmp_path)
    assert len(refused.value.others) == 1
    assert "the chat template: is " in refused.value.others[0]


COMPARED = {
    "keeps": {"kind": "improves", "metric": "exact-match", "against": "base", "margin": 0.0, "confidence": 0.95}
}


def _run(**means: float) -> NoiseRun:
    return NoiseRun(order="test order", batch_tokens=TOKENS, threads=1, metrics=means, changed=0)


@pytest.mark.parametrize(
    ("exact", "other", "gates", "says"),
    [
        (
            (0, 0),
            (0.3, 0.4),
            COMPARED,
            "models/merged: is never right by exact-match on data/splits/test.jsonl, so it ",
        ),
        ((1, 1), (0.3, 0.4), COMPARED, None),
        ((0, 0), (0, 0), {}, "is never right by edit-similarity on data/splits/test"),
        ((0, 0), (0.3, 0.4), {}, None),
        ((0, 0.1), (0.3, 0.4), COMPARED, None),
        ((0.5, 0.5), (0.3, 0.3), COMPARED, None),
        ((1, 0), (0.3, 0.4), COMPARED, None),
    ],
)
def test_a_model_that_is_never_right_shows_no_noise(
    exact: tuple[float, ...], other: tuple[float, ...], gates: dict[str, Any], says: str | None
) -> None:
    value = document()
    params = as_params(value | {"gates": value["gates"] | gates})
    runs = [_run(**{"edit-similarity": two, "exact-match": one}) for one, two in zip(exact, other, strict=True)]
    if says is None:
        shown = ["edit-similarity"] + ["exact-match"] * (exact != (0, 0))
        assert stage._telling(params, runs) == shown
    else:
        with pytest.raises(EvaluationRefused, match=says):
            stage._telling(params, runs)


def test_a_model_that_is_never_right_by_what_a_gate_compares_leaves_the_report_of_before(
    tmp_path: Path, tiny_base: Path
) -> None:
    params = as_params(document() | {"gates": COMPARED})
    lay_out(tmp_path, tiny_base, params)
    files.write_text(tmp_path / layout.NOISE, "of before")
    with pytest.raises(
        EvaluationRefused, match=r"is never right by exact-match .*; calibrate with a model that is right"
    ):
        stage.calibrate(params, tmp_path)
    assert (tmp_path / layout.NOISE).read_text() == "of before"


def test_too_long_a_run_with_one_row_at_a_time_is_left_out() -> None:
    settings = as_params(document()).evaluate
    few, many = (stage.setups(settings, count, 1, "cuda") for count in (2500, 2501))
    assert min(setup.batch_tokens for setup in few) == 1
    assert min(setup.batch_tokens for setup in many) == 16
    assert {setup.threads for setup in many} == {1}


def test_every_setup_asks_every_row_once_even_of_a_single_one() -> None:
    settings = as_params(document(batch_tokens=1)).evaluate
    for count in (1, 3, 30):
        for setup in stage.setups(settings, count, 4, "cpu"):
            assert sorted(number for part in setup.parts for number in part) == list(range(count))
            assert setup.batch_tokens >= 1
            assert all(setup.parts)


def checkout(root: Path, base: Path) -> None:
    """A repository with the source of this one and a finished evaluation."""
    value = document()
    for name in ("checks", "stages"):
        (root / name).symlink_to(REPOSITORY / name)
    (root / layout.PARAMS).write_text(yaml.safe_dump(value, sort_keys=False))
    lay_out(root, base, as_params(value))


@pytest.mark.usefixtures("forking")
def test_the_verb_measures_in_its_own_process_and_returns_the_report(tmp_path: Path, tiny_base: Path) -> None:
    checkout(tmp_path, tiny_base)
    found = verb.calibrate(tmp_path)
    assert found == files.read_json(tmp_path / layout.NOISE, NoiseReport)
    (tmp_path / layout.MERGED / "LICENSE").write_text("x")
    with pytest.raises(StageRefused, match="calibrate refused") as refused:
        verb.calibrate(tmp_path)
    assert refused.value.exit_code == EvidenceRefused.exit_code


def test_a_measurement_that_is_killed_is_no_report(tmp_path: Path) -> None:
    files.write_text(tmp_path / "stages" / "__init__.py", "")
    files.write_text(tmp_path / "stages" / "calibrate.py", "import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(MachineRefused, match="calibrate ended with -9"):
        verb.calibrate(tmp_path)


def test_killed_half_way_it_leaves_the_report_of_before(tmp_path: Path, tiny_base: Path) -> None:
    checkout(tmp_path, tiny_base)
    files.write_text(tmp_path / layout.NOISE, "of before")
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from checks.config import params_file\n"
        "from stages import calibrate\n"
        "from stages.weights import parity\n"
        "parity.noise = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "calibrate.calibrate(params_file.load(Path('params.yaml')), Path())\n"
    )
    command, env = repository.script(script), repository.environment(PYTHONPATH=str(REPOSITORY))
    killed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert killed.returncode == -9
    assert (tmp_path / layout.NOISE).read_text() == "of before"
    assert [path.name for path in (tmp_path / layout.REPORTS).iterdir() if path.name != "evaluation.json"] == [
        "noise.json"
    ]
