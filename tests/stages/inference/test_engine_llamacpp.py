"""The engine llama.cpp: llama.cpp itself answers from a GGUF file of a model that learnt, and from planted other files."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from checks.config.params import Params
from checks.decision.judging import Sample, decision_params
from checks.evaluation import scoring
from checks.formats.engines import LLAMACPP_PYTHON, LlamaCpp
from checks.formats.evaluation_reports import EvaluationReport, ReferencesReport
from checks.formats.report import UNQUANTISED
from checks.formats.training_reports import GgufFile, MergedFile, ParityReport
from checks.formats.verdict import Finding
from checks.gating import chain
from checks.kinds.gate import Case
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused, ParamsRefused
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from stages import workers
from stages.calibrate import calibrate
from stages.evaluate import evaluate
from stages.inference import answers, llamacpp
from tests import evidence_tree, gguf_model
from tests.conftest import as_params
from tests.gguf_model import VERSION

pytestmark = pytest.mark.slow

ROWS = 40
GATE = {"kind": "non_inferior", "metric": "exact-match", "against": UNQUANTISED, "margin": 0.2, "confidence": 0.9}


def document(**change: Any) -> dict[str, Any]:
    value = gguf_model.exporting()
    value["evaluate"] |= {
        "precision": "fp32", "max_new_tokens": 8, "engine": {"kind": "llamacpp", "version": VERSION, "threads": 1},
    } | change  # fmt: skip
    value["gates"]["file_loses_nothing"] = dict(GATE)
    return value


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[pytest.MonkeyPatch]:
    """llama.cpp's server, and one store for all evaluations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        gguf_model.server(tmp_path_factory, patch)
        yield patch


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    """A folder with a base, and a model that learnt with its GGUF file in 8 bits. Read-only by custom."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(gguf_model.base(tmp_path_factory), folder / layout.BASE)
    merged = gguf_model.exported(tmp_path_factory, environment, gguf_model.tuned_model(tmp_path_factory))
    shutil.copytree(merged, folder / layout.MERGED)
    return folder


def before_evaluate(models: Path, folder: Path) -> Path:
    """Lay out in ``folder`` what the stages before evaluate leave."""
    shutil.copytree(models, folder, dirs_exist_ok=True)
    for split, count in (("train", 60), ("valid", 8), ("test", ROWS)):
        files.write_jsonl(folder / layout.SPLITS / f"{split}.jsonl", evidence_tree.rows(split, count))
    files.write_json(folder / layout.REFERENCES, ReferencesReport(found={}, absent={"main": "none yet"}))
    report(folder)
    return folder


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """What the stages before evaluate leave."""
    return before_evaluate(models, tmp_path)


class Measured(NamedTuple):
    """``root``: a repository whose model is evaluated, and whose noise is measured. Read-only by custom.

    ``before``: the gate's finding before the noise was measured.
    """

    root: Path
    before: Finding


@pytest.fixture(scope="module")
def measured(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    root, params = before_evaluate(models, tmp_path_factory.mktemp("measured")), as_params(document())
    evaluate(params, root)
    before = judged(root, params)
    calibrate(params, root)
    return Measured(root, before)


@pytest.fixture
def evaluated(measured: Measured, tmp_path: Path) -> Path:
    """A copy of that repository, to change."""
    return Path(shutil.copytree(measured.root, tmp_path / "evaluated"))


def report(root: Path) -> None:
    """Write the parity report of what lies in models/merged, as merge would, whatever the file is."""
    tree = digest.of_tree(root / layout.MERGED)
    listed = {name: MergedFile(sha256=file.sha256, size=file.size) for name, file in tree.files.items()}
    distance = {"max_logprob_diff": 0.0, "mean_logprob_diff": 0.0, "top1": 1.0}
    file = GgufFile(
        type="q8_0", converter=gguf_model.CONVERTER, sha256=listed[layout.GGUF].sha256, size=listed[layout.GGUF].size, **distance,
    )  # fmt: skip
    written = ParityReport(
        base=digest.of_tree(root / layout.BASE).digest, adapter=digest.of_bytes(b"adapter"), merged=tree.digest,
        files=listed, prompts=1, positions=2, gguf=file, **distance,
    )  # fmt: skip
    files.write_json(root / layout.PARITY_REPORT, written)


def evaluation(root: Path) -> EvaluationReport:
    return files.read_json(root / layout.EVALUATION, EvaluationReport)


def texts(root: Path, model: str) -> list[str]:
    return [p.prediction for p in files.read_jsonl(root / layout.PREDICTIONS / f"{model}.jsonl", Prediction)]


def judged(root: Path, params: Params) -> Finding:
    """What the gate finds, with the noise that calibrate measured."""
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    sample = Sample(evidence, params.evaluate.scorers, params.suites)
    gate = params.gates["file_loses_nothing"]
    result = gate.check(Case("file_loses_nothing", decision_params(params), evidence, sample))
    return result if isinstance(result, Finding) else result.decide(result.p, result.p_worse)


def breaks(root: Path, params: Params) -> list[str]:
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    return [line for line in evidence.breaks if line.startswith(("unquantised", "merged", layout.GGUF))]


def test_the_file_of_the_model_itself_passes_and_the_record_names_it(
    measured: Measured, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, params = evaluated, as_params(document())
    made = evaluation(root)
    assert list(made.models)[:3] == ["candidate", "base", UNQUANTISED]
    assert made.gguf == digest.of_file(root / layout.MERGED / layout.GGUF).sha256
    assert made.unquantised == made.merged
    assert made.models["candidate"].metrics["exact-match"].value > 0.3
    assert made.models["base"].metrics["exact-match"].value < 0.1  # transformers answers: it has no file
    assert f"Answered by llama.cpp {VERSION} from the GGUF file" in (root / layout.SUMMARY).read_text()
    assert measured.before.status == "inconclusive"  # the noise was not measured yet
    found = judged(root, params)
    assert (found.status, found.against, found.n) == ("pass", UNQUANTISED, ROWS)
    assert breaks(root, params) == []

    rows = evidence_tree.rows("test", ROWS)[::-1]
    again = answers.loaded(root, params.evaluate, root / layout.MERGED, log=False)
    shown = [row.messages for row in rows]
    assert again(params.evaluate, rows, shown, "reversed", Path("x")).texts == texts(root, "candidate")[::-1]

    monkeypatch.setattr(llamacpp, "answer", None)  # It is not asked again, and a change of the file would ask it.
    evaluate(params, root)
    with (root / layout.MERGED / layout.GGUF).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(EvidenceRefused, match=r"models/merged: is sha256:\w+…, reports/parity\.json is about"):
        evaluate(params, root)

    other = made.model_copy(update={"gguf": f"sha256:{'0' * 64}"})
    files.write_json(root / layout.EVALUATION, other)
    assert any(line.startswith("gguf/model.gguf: merge says") for line in breaks(root, params))
    files.write_json(root / layout.EVALUATION, made.model_copy(update={"gguf": None, "unquantised": None}))
    assert {line.partition(":")[0] for line in breaks(root, params)} == {"unquantised", layout.GGUF}


def test_draws_are_recorded_and_nothing_asks_for_them_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = as_params(document(decoding={"temperature": 0.6, "top_p": 0.95, "draws": 3, "seed": 4}))
    evaluate(params, root)
    calibrate(params, root)
    predictions = files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction)
    assert {len(prediction.draws) for prediction in predictions} == {3}
    assert sum(len({*prediction.draws}) > 1 for prediction in predictions) > 10
    made = evaluation(root)
    assert (made.engine, made.decoding) == (params.evaluate.engine, params.evaluate.decoding)
    right = [prediction.scores["exact-match"] for prediction in predictions]
    assert made.models["candidate"].metrics["exact-match"].value == pytest.approx(sum(right) / ROWS)
    assert set(right) - {0.0, 1.0}  # Means of three draws.

    rows = evidence_tree.rows("test", ROWS)[::-1]
    again = answers.loaded(root, params.evaluate, root / layout.MERGED, log=False)
    reversed_rows = again(params.evaluate, rows, [row.messages for row in rows], "reversed", Path("x"))
    assert reversed_rows.draws == [prediction.draws for prediction in predictions[::-1]]  # By seed, not by place.

    monkeypatch.setattr(llamacpp, "answer", None)
    finding = judged(root, params)
    assert (finding.n, breaks(root, params)) == (ROWS, [])
    candidate, unquantised = (made.models[name].metrics["exact-match"].value for name in ("candidate", UNQUANTISED))
    assert finding.value == pytest.approx(candidate - unquantised, abs=1e-6)  # Findings have six decimals.
    evaluate(params, root)
    assert files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction) == predictions


def _lost(path: Path) -> None:
    """Half of the numbers of each layer become others. A block of q8_0 has a scale of 2 bytes, and 32 numbers."""
    from gguf import GGMLQuantizationType, GGUFReader

    chance = np.random.default_rng(1)
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name.startswith("blk.") and tensor.tensor_type == GGMLQuantizationType.Q8_0:
            blocks = tensor.data.reshape(-1, 34)
            blocks[:, 2:18] = chance.integers(0, 256, (len(blocks), 16), dtype=np.uint8)


@pytest.mark.parametrize("fault", ["another model's file", "weights that were lost"])
def test_a_file_that_is_worse_fails_although_the_safetensors_are_good(
    fault: str, evaluated: Path, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, params = evaluated, as_params(document())
    assert judged(root, params).status == "pass"
    good = evaluation(root)
    if fault == "weights that were lost":
        _lost(root / layout.MERGED / layout.GGUF)
    else:
        other = gguf_model.exported(tmp_path_factory, environment, gguf_model.base(tmp_path_factory))
        shutil.copyfile(other / layout.GGUF, root / layout.MERGED / layout.GGUF)
    report(root)
    evaluate(params, root)
    bad = evaluation(root)
    assert good.gguf != bad.gguf
    assert good.models[UNQUANTISED].metrics == bad.models[UNQUANTISED].metrics
    found = judged(root, params)
    assert found.status == "fail", found
    assert found.value is not None
    assert found.value < -0.25


def test_a_file_that_is_damaged_is_refused_by_name(root: Path) -> None:
    path = root / layout.MERGED / layout.GGUF
    path.write_bytes(path.read_bytes()[:5000])
    report(root)
    with pytest.raises(
        EvaluationRefused, match=r"gguf/model\.gguf: row test\w+: llama\.cpp did not answer: .*llamacpp\.log"
    ):
        evaluate(as_params(document()), root)
    assert (root / llamacpp.LOG).exists()
    assert not (root / layout.EVALUATION).exists()


def test_a_model_without_the_file_is_refused(root: Path) -> None:
    shutil.rmtree(root / layout.MERGED / "gguf")
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    merged = digest.of_tree(root / layout.MERGED).digest
    files.write_json(root / layout.PARITY_REPORT, parity.model_copy(update={"merged": merged, "gguf": None}))
    with pytest.raises(
        EvidenceRefused, match=r"models/merged: has no gguf/model\.gguf, .* run `\./lockstep run merge`"
    ):
        evaluate(as_params(document()), root)


def test_another_version_in_a_named_environment_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = document(engine={"kind": "llamacpp", "version": "2025.1.1", "threads": 1})
    with pytest.raises(
        MachineRefused, match=rf"has xllamacpp {VERSION}, and evaluate\.engine\.version is 2025\.1\.1; install it there"
    ):
        evaluate(as_params(other), root)
    monkeypatch.setenv(LLAMACPP_PYTHON, str(root / "python"))
    with pytest.raises(MachineRefused, match=r"/python: has no xllamacpp, .*; .* unset LOCKSTEP_LLAMACPP"):
        evaluate(as_params(document()), root)


def test_the_server_is_installed_where_it_is_missing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = gguf_model.server(tmp_path_factory, monkeypatch)
    monkeypatch.delenv(LLAMACPP_PYTHON)
    engine = as_params(document()).evaluate.engine
    assert isinstance(engine, LlamaCpp)
    other = engine.model_copy(update={"version": "none"})
    with pytest.raises(MachineRefused, match=r"llamacpp none cannot be installed; fix what `python -m stages"):
        llamacpp.hold_installed(tmp_path, other)
    monkeypatch.setattr(workers, "install", None)  # It is not made a second time.
    python = llamacpp.hold_installed(root, engine)
    assert Path(python) == (root / layout.STATE / "llamacpp" / "bin" / "python").absolute()
    assert llamacpp._version(python) == VERSION


def test_where_rows_are_sealed_nothing_that_llama_cpp_prints_is_kept(root: Path) -> None:
    params, rows = as_params(document()), evidence_tree.rows("test", 2)
    model = answers.loaded(root, params.evaluate, root / layout.MERGED, log=False)
    assert len(model(params.evaluate, rows, [row.messages for row in rows], "sealed", Path("x")).texts) == 2
    assert not (root / layout.STATE).exists()


def test_what_answers_ends_with_the_stage(root: Path) -> None:
    row = {"messages": [{"role": "user", "content": "request"}]}
    request = {
        "file": str(root / layout.MERGED / layout.GGUF), "context": 256, "limit": 200, "threads": 1,
        "cache": "GGML_TYPE_F32", "rows": [row] * 5000,
    }  # fmt: skip
    command = [os.environ[LLAMACPP_PYTHON], *llamacpp._WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        assert "text" in json.loads(worker.stdout.readline())
        worker.stdin.close()  # As the system does when the stage was killed.
        assert worker.wait(60) == 1


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no file": (lambda d: d["merge"].pop("export"), r"evaluate\.engine: llamacpp answers from the GGUF file, and merge\.export is null"),
    "weights that nothing judges": (
        lambda d: (
            d["merge"].update(quantization={"kind": "int8", "parity": gguf_model.LOOSE}), d["serve"].update(runtime="vllm"),
        ),
        r"no gate would judge the weights of merge\.quantization",
    ),
    "no gate": (lambda d: d["gates"].pop("file_loses_nothing"), r"no gate rules out that the GGUF file lost .*add gates\.file_loses_nothing"),
    "batches": (lambda d: d["evaluate"].update(stable_batches=True), r"stable_batches has no effect with engine llamacpp"),
    "no thread": (lambda d: d["evaluate"]["engine"].update(threads=0), r"evaluate\.engine\.threads"),
    "a range of versions": (lambda d: d["evaluate"]["engine"].update(version=">=2026"), r"evaluate\.engine\.version"),
    "a key of vLLM": (lambda d: d["evaluate"]["engine"].update(gpus=1), r"evaluate\.engine\.gpus: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_parameters_that_cannot_be_run_are_refused(change: Callable[[dict[str, Any]], object], says: str) -> None:
    value = document()
    change(value)
    with pytest.raises(ParamsRefused, match=says):
        as_params(value)
