"""The gate: what passes, what fails, what is inconclusive, and when a verdict does not hold."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from checks.config import params_file
from checks.config.params import Params
from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.evaluation_reports import NoiseReport
from checks.formats.verdict import Finding, Status, Verdict, combine
from checks.gating import chain
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from release.cli import main, tables
from release.record import pipeline_lock
from stages.gate import gate
from tests import evidence_tree, spoil
from tests.conftest import REPOSITORY, as_params, read_yaml, scaled_down, written


def _write_params(root: Path, document: dict) -> Params:
    (root / layout.PARAMS).write_text(written(document))
    return as_params(document)


def _verdict(root: Path, params: Params) -> Verdict:
    return evidence_tree.judged(root, params)


def _finding(verdict: Verdict, name: str) -> Finding:
    return next(f for f in verdict.findings if f.gate == name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after a good run: parameters, record, a verdict that passes. Read-only by custom."""
    root = tmp_path_factory.mktemp("finished")
    params = _write_params(root, scaled_down())
    evidence_tree.build(root, params)
    gate(params, root)
    evidence_tree.recorded(root)
    assert files.read_json(root / layout.VERDICT, Verdict).status == "pass"
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the good run, to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def _lockstep(root: Path, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["-C", str(root), *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.slow
def test_a_good_run_passes_and_the_verdict_names_every_digest(run: Path) -> None:
    verdict = files.read_json(run / layout.VERDICT, Verdict)
    assert {f.status for f in verdict.findings} == {"pass"}
    assert {"models/base", "models/adapter", "models/merged", "data/raw"} <= set(verdict.judged)
    assert {"data/splits/test.jsonl", "data/predictions/candidate.jsonl", "reports/metrics.json"} <= set(verdict.judged)
    assert verdict.model == verdict.judged["models/merged"]
    assert _lockstep(run, "gate")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "rows", "at_least", "resolution", "status", "word"),
    [
        (36, 40, 0.7, 0.3, "pass", "lower 95% bound"),
        (10, 40, 0.7, 0.3, "fail", "is not at least 0.7"),
        (32, 40, 0.75, 0.3, "inconclusive", "but its lower 95% bound"),
        (40, 40, 0.7, 0.1, "inconclusive", "40 rows cannot resolve ±0.1; about 97 rows would"),
        (0, 40, 0.01, 0.3, "fail", "0.000"),
    ],
)
def test_a_threshold_is_cleared_by_the_bound_and_not_by_the_point(
    tmp_path: Path, document: dict, right: int, rows: int, at_least: float, resolution: float, status: str, word: str
) -> None:
    document["gates"]["routes_well"] |= {"at_least": at_least, "resolution": resolution}
    document["validate"]["min_rows"]["test"] = 400
    params = _write_params(tmp_path, document)
    evidence_tree.build(tmp_path, params, rows, right)
    verdict = _verdict(tmp_path, params)
    finding = _finding(verdict, "routes_well")
    assert (finding.status, verdict.status) == (status, status)
    assert word in finding.reason
    assert finding.n == rows


@pytest.mark.slow
def test_an_upper_bound_is_read_from_above(tmp_path: Path, document: dict) -> None:
    document["gates"]["routes_well"] |= {"at_most": 0.5, "at_least": None}
    params = _write_params(tmp_path, document)
    evidence_tree.build(tmp_path, params, 40, 2)
    assert _finding(_verdict(tmp_path, params), "routes_well").status == "pass"
    evidence_tree.evaluated(tmp_path, params, [evidence_tree.predict(r, True) for r in evidence_tree.rows("test", 40)])
    assert _finding(_verdict(tmp_path, params), "routes_well").status == "fail"


@pytest.mark.parametrize(
    ("change", "word"),
    [({"max_logprob_diff": 0.9}, "differ by up to 0.900"), ({"top1": 0.5}, "50.0%"), ({"positions": 0}, "no token")],
)
def test_parity_beyond_the_bound_fails(tmp_path: Path, document: dict, change: dict, word: str) -> None:
    params = _write_params(tmp_path, document)
    evidence_tree.build(tmp_path, params, **change)
    verdict = _verdict(tmp_path, params)
    assert verdict.status == "fail"
    assert word in _finding(verdict, "merge_is_faithful").reason


@pytest.mark.slow
def test_a_bound_of_parity_below_the_noise_of_one_model_means_nothing(run: Path, document: dict) -> None:
    change = {"max_logprob_diff": 0.3}
    noise = files.read_json(run / layout.NOISE, NoiseReport)
    document["gates"]["merge_is_faithful"] |= {"max_logprob_diff": 0.2}
    files.write_json(run / layout.NOISE, noise.model_copy(update=change))
    finding = _finding(_verdict(run, as_params(document)), "merge_is_faithful")
    assert finding.status == "fail"
    assert "0.2 nats means nothing: one unchanged model differs from itself by 0.300" in finding.reason
    files.write_json(run / layout.NOISE, noise.model_copy(update=change | {"base": OTHER}))
    assert _finding(_verdict(run, as_params(document)), "merge_is_faithful").status == "pass"


EVIDENCE = {
    "reports/prepare.json": "data_is_sound",
    "reports/data.json": "data_is_sound",
    "data/splits/train.jsonl": "data_is_sound",
    "reports/parity.json": "merge_is_faithful",
    "reports/evaluation.json": "routes_well",
    "data/predictions/candidate.jsonl": "routes_well",
    "data/splits/test.jsonl": "routes_well",
}


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "truncated": lambda text: text[: len(text) // 2],
    "not an object": lambda _: "0.9",
    "not a number": lambda _: '{"schema_version": 1, "top1": NaN}',
    "a newer schema": lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
    "an unknown key": lambda text: text.replace("{", '{"extra": 1, ', 1),
}


DAMAGED_IN_EVERY_WAY = ("reports/parity.json", "data/predictions/candidate.jsonl")  # One of each format.


def _assert_fails_over(root: Path, document: dict, path: str) -> None:
    verdict = _verdict(root, as_params(document))
    assert verdict.status == "fail"
    finding = _finding(verdict, EVIDENCE[path])
    assert finding.status == "fail"
    assert path in finding.reason or "different bytes" in finding.reason


@pytest.mark.parametrize("path", EVIDENCE)
@pytest.mark.parametrize("how", ["absent", "a folder"])
def test_a_gate_without_evidence_fails_and_says_which(run: Path, document: dict, path: str, how: str) -> None:
    (run / path).unlink()
    if how == "a folder":
        (run / path).mkdir()
    _assert_fails_over(run, document, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "how"),
    [
        *(
            (path, how)
            for path in DAMAGED_IN_EVERY_WAY
            for how in DAMAGE
            if path.endswith(".json") or "schema" not in how
        ),
        *((path, "truncated") for path in EVIDENCE if path not in DAMAGED_IN_EVERY_WAY),
    ],
)
def test_a_gate_with_unreadable_evidence_fails_and_says_which(run: Path, document: dict, path: str, how: str) -> None:
    text = (run / path).read_text()
    assert DAMAGE[how](text) != text
    (run / path).write_text(DAMAGE[how](text))
    _assert_fails_over(run, document, path)


def _lines(path: str, change: Callable[[list[str]], list[str]]) -> spoil.Spoil:
    return spoil.edit(path, lambda text: "".join(change(text.splitlines(keepends=True))))


def _predictions(change: Callable[[list[Prediction]], list[Prediction]]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / layout.PREDICTIONS / "candidate.jsonl"
        files.write_jsonl(path, change(files.read_jsonl(path, Prediction)))

    return edit


OTHER = "sha256:" + "1" * 64
TAMPERS: dict[str, Callable[[Path], object]] = {
    "weights edited": lambda root: (root / "models/merged/weights.bin").write_bytes(b"other"),
    "weights renamed": lambda root: (root / "models/merged/weights.bin").rename(root / "models/merged/w.bin"),
    "a file added to the model": lambda root: (root / "models/merged/extra").write_bytes(b""),
    "adapter edited": lambda root: (root / "models/adapter/weights.bin").write_bytes(b"other"),
    "base gone": spoil.remove("models/base"),
    "raw data edited": lambda root: (root / "data/raw/weights.bin").write_bytes(b"other"),
    "test split shortened": _lines("data/splits/test.jsonl", lambda lines: lines[:-1]),
    "train split shortened": _lines("data/splits/train.jsonl", lambda lines: lines[:-1]),
    "a prediction left out": _predictions(lambda p: p[:-1]),
    "a prediction twice": _predictions(lambda p: [*p[:-1], p[0]]),
    "predictions reordered": _predictions(lambda p: p[::-1]),
    "a score raised": _predictions(lambda p: [*p[:-1], p[-1].model_copy(update={"score": 1.0, "scores": {"exact-match": 1.0}})]),
    "an answer fixed": _predictions(lambda p: [*p[:-1], p[-1].model_copy(update={"prediction": p[-1].reference})]),
    "a reference changed": _predictions(lambda p: [*p[:-1], p[-1].model_copy(update={"reference": p[-1].prediction})]),
    "no prediction": _predictions(lambda _: []),
    "metrics edited": spoil.edit_json("reports/metrics.json", lambda v: v["valid"]["exact-match"].update(value=1.0)),
    "evaluation of another model": spoil.edit_json("reports/evaluation.json", lambda v: v.update(merged=OTHER)),
    "evaluation on another test set": spoil.edit_json("reports/evaluation.json", lambda v: v.update(test=OTHER)),
    "evaluation by other scorers": spoil.edit_json("reports/evaluation.json", lambda v: v.update(scorers=OTHER)),
    "training on other rows": spoil.edit_json("reports/train.json", lambda v: v["splits"].update(train=OTHER)),
    "training from another base": spoil.edit_json("reports/train.json", lambda v: v.update(base=OTHER)),
    "merge of another adapter": spoil.edit_json("reports/parity.json", lambda v: v.update(adapter=OTHER)),
    "parity improved": spoil.edit_json("reports/parity.json", lambda v: v.update(max_logprob_diff=0.0)),
    "data report of other rows": spoil.edit_json("reports/data.json", lambda v: v["splits"].update(test=OTHER)),
    "prepared from other data": spoil.edit_json("reports/prepare.json", lambda v: v.update(raw=OTHER)),
    "rows not conserved": spoil.edit_json("reports/prepare.json", lambda v: v.update(input_rows=999)),
    "a finding turned to pass": spoil.edit_json("reports/verdict.json", lambda v: v["findings"][0].update(reason="trust me")),
    "the verdict about another model": spoil.edit_json("reports/verdict.json", lambda v: v.update(model=OTHER)),
    "a judged digest removed": spoil.edit_json("reports/verdict.json", lambda v: v["judged"].pop("models/merged")),
    "the verdict's policy replaced": spoil.edit_json("reports/verdict.json", lambda v: v.update(policy=OTHER)),
    "the verdict truncated": _lines("reports/verdict.json", lambda lines: lines[:-1]),
    "the test split reordered": _lines("data/splits/test.jsonl", lambda lines: lines[::-1]),
    "a test row twice": _lines("data/splits/test.jsonl", lambda lines: [*lines[:-1], lines[0]]),
    "a score that is no number": spoil.replace("data/predictions/candidate.jsonl", '"score":1.0', '"score":NaN'),
    "the predictions emptied": lambda root: (root / "data/predictions/candidate.jsonl").write_text(""),
    "the base given the candidate's answers": lambda root: shutil.copy(
        root / "data/predictions/candidate.jsonl", root / "data/predictions/base.jsonl"
    ),
    "the base's predictions deleted": spoil.remove("data/predictions/base.jsonl"),
    "production forgotten": spoil.edit_json("reports/references.json", lambda v: v.update(absent={})),
    "production invented": spoil.edit_json("reports/evaluation.json", lambda v: v["references"].clear()),
    "the noise lowered": spoil.edit_json("reports/noise.json", lambda v: v["floor"].update({"exact-match": 0.0})),
    "the noise deleted": spoil.remove("reports/noise.json"),
    "a licence rewritten": spoil.edit_json("reports/fetch.json", lambda v: v["base"].update(license="MIT-0")),
    "an earlier run's evaluation brought back": lambda root: _replay(root, layout.EVALUATION),
    "an earlier run's predictions brought back": lambda root: _replay(root, layout.PREDICTIONS / "candidate.jsonl"),
    "an earlier run's verdict brought back": lambda root: _replay(root, layout.VERDICT),
    "another learning rate after the run": spoil.replace("params.yaml", "learning_rate: 0.004", "learning_rate: 0.005"),
    "another base after the run": spoil.replace("params.yaml", "SmolLM2-135M", "SmolLM2-360M"),
    "another prompt for the base after the run": spoil.replace("params.yaml", "labels: true", "labels: false"),
    "a thinner dvc.yaml, and another base": lambda root: _thin(root),
    "code that is not the one that ran": lambda root: _in_lock(
        lambda stages: stages["train"]["params"]["code.lock"].update({"stages.train": OTHER})
    )(root),
    "a code.lock edited by hand": spoil.replace("code.lock", "  train: sha256:", "  train: sha256:0"),
    "a report that is not the one that was written": lambda root: _lock(root, "train", "reports/train.json", "0" * 32),
    "a judged path outside": spoil.edit_json("reports/verdict.json", lambda v: v["judged"].update({"/etc/passwd": OTHER})),
    "a judged path upwards": spoil.edit_json("reports/verdict.json", lambda v: v["judged"].update({"reports/../../x": OTHER})),
    "a judged path too long": spoil.edit_json("reports/verdict.json", lambda v: v["judged"].update({"reports/" + "x" * 5000: OTHER})),
    "a model's name with a way up": spoil.edit_json("reports/evaluation.json", lambda v: v["models"].update({"../x": v["models"]["base"]})),
    "a report by a way out and back": lambda root: _lock(root, "train", "reports/../../x.json", hashlib.md5(b"").hexdigest()),
    "a dvc.lock of tags": lambda root: (root / "dvc.lock").write_text("stages: !!bool x"),
    "no record in dvc.lock": spoil.remove("dvc.lock"),
    "a stage gone from dvc.lock": spoil.replace("dvc.lock", "  train:", "  trained:"),
    "a parameter gone from dvc.lock": spoil.replace("dvc.lock", "        merge:", "        merged:"),
    "a dvc.lock that is no YAML": lambda root: (root / "dvc.lock").write_text("{"),
    "a bound lowered after the verdict": spoil.replace("params.yaml", "at_least: 0.01", "at_least: 0.001"),
    "a gate removed after the verdict": lambda root: _drop_gate(root / "params.yaml", "merge_is_faithful"),
}  # fmt: skip


def _thin(root: Path) -> None:
    (root / layout.PIPELINE).write_text("stages:\n  gate:\n    cmd: 'true'\n")
    spoil.replace("params.yaml", "SmolLM2-135M", "SmolLM2-360M")(root)


def _lock(root: Path, stage: str, path: str, md5: str) -> None:
    lock = read_yaml((root / layout.LOCK).read_text())
    lock["stages"][stage]["deps"] = [{"path": path, "hash": "md5", "md5": md5}]
    (root / layout.LOCK).write_text(written(lock))


def _replay(root: Path, path: Path) -> None:
    """Put a file of a run in which every answer was right in the place of this run's."""
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    params = params_file.load(root / layout.PARAMS)
    rows = evidence_tree.rows("test", 40)
    evidence_tree.evaluated(root, params, [evidence_tree.predict(row, True) for row in rows])
    gate(params, root)
    replayed = (root / path).read_bytes()
    assert replayed != before[root / path]
    for name, content in before.items():
        name.write_bytes(content)
    (root / path).write_bytes(replayed)


def _drop_gate(path: Path, name: str) -> None:
    document = read_yaml(path.read_text())
    del document["gates"][name]
    path.write_text(yaml.safe_dump(document))


def _rewrite(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """An edit of the stages of dvc.yaml or dvc.lock."""

    def edit(root: Path) -> None:
        value = read_yaml((root / name).read_text())
        change(value["stages"])
        (root / name).write_text(written(value))

    return edit


def _in_lock(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return _rewrite("dvc.lock", change)


def _in_both(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """The same thinning of both files."""

    def edit(root: Path) -> None:
        for name in ("dvc.yaml", "dvc.lock"):
            _rewrite(name, change)(root)

    return edit


def _drop(stage: str, kind: str, path: str) -> Callable[[dict], object]:
    return lambda stages: stages[stage][kind].remove(next(e for e in stages[stage][kind] if e["path"] == path))


def _add(stage: str, kind: str, **entry: str) -> Callable[[dict], object]:
    return lambda stages: stages[stage][kind].append(entry)


def _of(stage: str, kind: str, path: str, **change: object) -> Callable[[dict], object]:
    return lambda stages: next(e for e in stages[stage][kind] if e["path"] == path).update(change)


MD5 = "0" * 32
# A record that DVC did not write, each with the line that says so. Only the cut ones changed a file that is hashed.
LOCKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no dependencies at all": (
        _in_lock(lambda stages: [stage.pop("deps") for stage in stages.values()]), "dvc.lock: prepare does not have data/raw among its deps",
    ),
    "no outputs at all": (
        _in_lock(lambda stages: [stage.pop("outs") for stage in stages.values()]), "dvc.lock: train does not have reports/train.json among its outs",
    ),
    "another command": (
        _in_lock(lambda stages: stages["evaluate"].update(cmd="cp better.json reports/evaluation.json")),
        "dvc.lock: evaluate ran cp better.json reports/evaluation.json, not python -P -m stages.evaluate",
    ),
    "no command": (_in_lock(lambda stages: stages["train"].pop("cmd")), "dvc.lock: train ran None, not python -P -m"),
    "its code left out": (_in_lock(lambda stages: stages["gate"]["params"].pop("code.lock")), "code.lock: gate ran other code than is here"),
    "a folder left out": (_in_lock(_drop("train", "deps", "models/base")), "dvc.lock: train does not have models/base among its deps"),
    "weights left out": (_in_lock(_drop("merge", "outs", "models/merged")), "dvc.lock: merge does not have models/merged among its outs"),
    "a dependency more": (
        _in_lock(_add("train", "deps", path="data/extra", hash="md5", md5=MD5)),
        "dvc.lock: train has data/extra among its deps, and dvc.yaml does not",
    ),
    "an output more": (
        _in_lock(_add("train", "outs", path="models/other", hash="md5", md5=MD5)),
        "dvc.lock: train has models/other among its outs, and dvc.yaml does not",
    ),
    "a dependency twice": (
        _in_lock(_add("merge", "deps", path="models/base", hash="md5", md5=f"{MD5}.dir")),
        "dvc.lock: merge has models/base twice among its deps",
    ),
    "a folder without its hash": (_in_lock(_of("train", "deps", "data/splits", md5=None)), "dvc.lock: train does not say the MD5 of data/splits"),
    "a hash of another kind": (_in_lock(_of("train", "deps", "data/splits", hash="crc")), "dvc.lock: train does not say the MD5 of data/splits"),
    "weights that merge did not write": (
        _in_lock(_of("evaluate", "deps", "models/merged", md5=f"{MD5}.dir")),
        "dvc.lock: models/merged of evaluate is not the one of merge",
    ),
    "a parameter that evaluate did not run with": (
        _in_lock(lambda stages: stages["evaluate"]["params"]["params.yaml"]["evaluate"].update(max_new_tokens=1)),
        "params.yaml: evaluate is not what evaluate ran with",
    ),
    "a parameter more": (
        _in_lock(lambda stages: stages["merge"]["params"]["params.yaml"].update(tracking={})),
        "dvc.lock: merge ran with tracking, and dvc.yaml names no such parameter",
    ),
    "a stage more": (_in_lock(lambda stages: stages.update(forge={"cmd": "true"})), "dvc.lock: has a stage forge, and dvc.yaml has none"),
    "a stage that is not a mapping": (_in_lock(lambda stages: stages.update(train=[])), "dvc.lock: no record of this pipeline"),
    "a team's own stage that never ran": (
        _rewrite("dvc.yaml", lambda stages: stages.update(mine={"cmd": "true"})), "dvc.lock: has no record of mine",
    ),
    "a pipeline without a stage": (_in_both(lambda stages: stages.pop("validate")), "dvc.yaml: has no stage validate"),
    "a pipeline that reads less": (
        _rewrite("dvc.yaml", lambda stages: stages["gate"].update(params=["gates"])), "dvc.yaml: gate does not read evaluate.scorers",
    ),
    "a pipeline that does not name a stage's code": (
        _rewrite("dvc.yaml", lambda stages: stages["train"].update(params=["train"])),
        "dvc.yaml: train does not depend on its code, stages.train of code.lock",
    ),
    "a pipeline that only DVC can read": (
        _rewrite("dvc.yaml", lambda stages: stages["train"].update(foreach=["a"])),
        "dvc.yaml: train: foreach cannot be compared with dvc.lock",
    ),
    "a pipeline with a template": (_rewrite("dvc.yaml", lambda stages: stages["train"].update(cmd="${run}")), "dvc.yaml: train: ${…} cannot be compared"),
    "no pipeline": (spoil.remove("dvc.yaml"), "dvc.yaml: no record of this pipeline"),
    "a pipeline that is no YAML": (lambda root: (root / "dvc.yaml").write_text("{"), "dvc.yaml: no record of this pipeline"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", LOCKS)
def test_a_lock_that_dvc_did_not_write_makes_the_verdict_void(run: Path, forgery: str) -> None:
    forge, line = LOCKS[forgery]
    forge(run)
    code, output = _lockstep(run, "gate")
    assert code == 8, output
    assert line in output
    assert "Traceback" not in output


def test_the_lock_of_this_repository_says_all_that_its_pipeline_asks() -> None:
    """DVC wrote it."""
    stages = [
        pipeline_lock.stages((REPOSITORY / path).read_bytes(), str(path)) for path in (layout.PIPELINE, layout.LOCK)
    ]
    assert pipeline_lock.incomplete(*stages) == []


@pytest.mark.parametrize("path", ["reports/metrics.json", "reports/references.json"])
def test_a_report_that_is_missing_leaves_nothing_to_judge(run: Path, document: dict, path: str) -> None:
    (run / path).unlink()
    verdict = _verdict(run, as_params(document))
    assert {finding.status for finding in verdict.findings} == {"fail"}
    assert all(path in finding.reason for finding in verdict.findings)


@pytest.mark.parametrize("path", [None, *EVIDENCE, "reports/noise.json", "reports/fetch.json", "reports/metrics.json"])
def test_the_same_evidence_gets_the_same_verdict_wherever_it_lies(
    run: Path, tmp_path: Path, document: dict, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is not None:
        (run / path).unlink()
    params = as_params(document)
    monkeypatch.chdir(shutil.copytree(run, tmp_path / "elsewhere"))
    scorers = scoring.digest_of(params.evaluate.scorers)
    one, other = (judging.judge(params, chain.gather(root, scorers)) for root in (run, Path()))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("tamper", TAMPERS)
def test_a_verdict_is_void_when_anything_it_judged_differs(run: Path, tamper: str) -> None:
    TAMPERS[tamper](run)
    code, output = _lockstep(run, "gate")
    assert code == 8, output
    assert "lockstep: " in output


LIES = (
    "evaluation", "an earlier run's e", "an earlier run's p", "a test row", "the test split", "the base", "production",
    "production", "the predictions", "training", "merge", "data report", "prepared", "a prediction", "predictions re",
    "a score", "a reference", "no pred",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [name for name in TAMPERS if name.startswith(LIES)])
def test_evidence_about_other_bytes_does_not_pass_even_when_judged_afresh(
    run: Path, document: dict, tamper: str
) -> None:
    TAMPERS[tamper](run)
    assert _verdict(run, as_params(document)).status == "fail"


def test_a_score_raised_in_predictions_and_report_alike_is_scored_again(run: Path, document: dict) -> None:
    params = as_params(document)
    path = run / layout.PREDICTIONS / "candidate.jsonl"
    lied = [
        p.model_copy(update={"score": 1.0, "scores": {"exact-match": 1.0}}) for p in files.read_jsonl(path, Prediction)
    ]
    evidence_tree.evaluated(run, params, lied)
    finding = _finding(_verdict(run, params), "routes_well")
    assert finding.status == "fail"
    assert "candidate.jsonl:37: claims exact-match 1.0, scored again it is 0" in finding.reason


def test_every_mismatch_is_listed(run: Path) -> None:
    for folder in ("base", "adapter", "merged"):
        (run / f"models/{folder}/weights.bin").write_bytes(b"other")
    _, output = _lockstep(run, "gate")
    for folder in ("base", "adapter", "merged"):
        assert f"models/{folder}" in output


def test_without_a_verdict_the_command_refuses(run: Path) -> None:
    (run / layout.VERDICT).unlink()
    code, output = _lockstep(run, "gate")
    assert code == 8
    assert "lockstep run" in output


@pytest.mark.parametrize(("right", "code"), [(40, 0), (5, 10), (28, 11)])
def test_the_command_exits_by_the_verdict(tmp_path: Path, document: dict, right: int, code: int) -> None:
    document["gates"]["routes_well"] |= {"at_least": 0.65}
    params = _write_params(tmp_path, document)
    evidence_tree.build(tmp_path, params, 40, right)
    status = _verdict(tmp_path, params).status
    exit_code, output = _lockstep(tmp_path, "gate")
    assert exit_code == code
    assert f"verdict: {status}" in output
    exit_code, output = _lockstep(tmp_path, "gate", "--json")
    assert exit_code == code
    assert json.loads(output[: output.rindex("}") + 1])["status"] == status


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((), "fail"),
        (("pass",), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("inconclusive", "fail", "pass"), "fail"),
    ],
)
def test_the_worst_finding_decides_and_none_is_a_failure(statuses: tuple[Status, ...], expected: Status) -> None:
    assert combine([Finding(gate="g", kind="k", status=status, reason="r") for status in statuses]) == expected


def _evaluation(**change: object) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        report = json.loads((root / layout.EVALUATION).read_text())
        for path, value in change.items():
            at = report
            *parents, last = path.split("__")
            for part in parents:
                at = at[part]
            if value is None:
                del at[last]
            else:
                at[last] = value
        (root / layout.EVALUATION).write_text(json.dumps(report))

    return edit


# Each passed once, judged afresh by its forger: one edit that no digest held.
FORGERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the candidate's answers freed of their digest": (
        _evaluation(models__candidate=None), "candidate predictions: reports/evaluation.json does not name them",
    ),
    "the training forgotten": (lambda root: (root / layout.TRAIN_REPORT).unlink(), "reports/train.json"),
    "the sources forgotten": (lambda root: (root / layout.FETCH_REPORT).unlink(), "reports/fetch.json"),
    "an artifact made small in the record": (
        spoil.edit_json("reports/parity.json", lambda v: v.update(files={"tiny": {"sha256": "sha256:" + "1" * 64, "size": 1}})),
        "its own list of files makes",
    ),
    "one right answer for every row": (lambda root: _one_row(root), "holds a row twice"),
    "an absent production with a model": (
        _evaluation(references__production={"how": "absent", "merged": "sha256:" + "1" * 64, "note": "x"}),
        "absent with a model",
    ),
    "a noise below what was measured": (spoil.edit_json("reports/noise.json", lambda v: v["floor"].update({"exact-match": 0.0})), "is not measured"),
    "an impossible parity": (spoil.edit_json("reports/parity.json", lambda v: v.update(max_logprob_diff=-5.0, top1=7.0)), "max_logprob_diff"),
}  # fmt: skip


def _one_row(root: Path) -> None:
    """Forty times the same row, each said to be of a group of its own, in a record that agrees with itself."""
    params = params_file.load(root / layout.PARAMS)
    first = evidence_tree.rows("test", 1)[0]
    many = [first.model_copy(update={"group": f"g{i}"}) for i in range(40)]
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", many)
    sha256 = digest.of_file(root / layout.SPLITS / "test.jsonl").sha256
    spoil.edit_json("reports/prepare.json", lambda v: v["splits"]["test"].update(sha256=sha256))(root)
    spoil.edit_json("reports/data.json", lambda v: v["splits"].update(test=sha256))(root)
    evidence_tree.evaluated(root, params, [evidence_tree.predict(row, True) for row in many])


@pytest.mark.parametrize("forgery", FORGERIES)
def test_one_forged_figure_does_not_pass_even_when_judged_afresh(run: Path, document: dict, forgery: str) -> None:
    forge, word = FORGERIES[forgery]
    document["gates"]["keeps_up"] = {
        "kind": "non_inferior", "metric": "exact-match", "against": "base", "margin": 0.3, "confidence": 0.95,
    }  # fmt: skip
    params = _write_params(run, document)
    forge(run)
    verdict = _verdict(run, params)
    assert verdict.status != "pass"
    assert word in " ".join(finding.reason for finding in verdict.findings)


def test_a_reason_is_one_printable_line(run: Path, document: dict) -> None:
    document["gates"]["keeps_up"] = document["gates"].pop("keeps_up_with_production")
    params = _write_params(run, document)
    evidence_tree.recorded(run)
    change = {"how": "unavailable", "merged": "sha256:" + "7" * 64, "note": "gone\n  ✓ all is well\x1b[2J"}
    evidence_tree.earlier(run, "production")
    evidence_tree.evaluated(run, params, [evidence_tree.predict(row, True) for row in evidence_tree.rows("test", 40)])
    _evaluation(references__production=change)(run)
    shown = tables.findings(_verdict(run, params))
    assert "gone ✓ all is well\N{REPLACEMENT CHARACTER}[2J" in shown
    assert len(shown.splitlines()) == 1 + len(params.gates)
