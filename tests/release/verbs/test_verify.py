"""`lockstep verify` with a real server: `transformers serve`, as a process and in a container, of a model that learnt."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from checks.config.params import Params
from checks.formats.serving import ImageReport, ServingCheck, ServingReport
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused, Refusal, ServingRefused
from checks.storage import files, layout
from release import runtimes
from release.serving import processes
from release.verbs import build
from release.verbs.verify import LOG, VerifyOptions, refusal, verify
from tests import build_tree, evidence_tree, serving_base, tuned
from tests.conftest import as_params, written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_servers")]

PROCESS = VerifyOptions(runtime="transformers")


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tuned_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that passes, its probes, and its weights as an image without a base. Read-only by custom."""
    root = tmp_path_factory.mktemp("verify") / "run"
    tuned.record(root, tiny_base, tuned_model, tuned.document())
    build.build(root, build.BuildOptions())
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def params() -> Params:
    """Of the record."""
    return as_params(tuned.document())


def by_name(report: ServingReport) -> dict[str, ServingCheck]:
    return {check.name: check for check in report.checks}


def left_over(root: Path) -> list[Path]:
    return list((root / layout.STATE).glob("serving-*"))


def test_the_weights_of_the_image_serve_as_the_offline_model_answers(run: Path) -> None:
    shutil.rmtree(run / layout.MERGED)
    report = verify(run, PROCESS)
    assert report.status == "pass", report
    assert refusal(report) is None
    found = by_name(report)
    assert {name for name, check in found.items() if check.status == "unavailable"} == {
        "metrics",
        "egress",
        "read-only",
    }
    assert found["parity"].value == 1.0
    assert "8 answers are the judged model's and none is the base's" in found["adapter"].reason
    assert found["score"].value == 0.0
    assert [load.concurrency for load in report.load] == [1, 4, 16]
    assert report.image == files.read_json(run / layout.IMAGE_REPORT, ImageReport).image
    assert files.read_json(run / layout.SERVING_REPORT, ServingReport) == report
    assert left_over(run) == []


def test_other_weights_in_the_folder_are_refused_before_anything_starts(run: Path, tiny_base: Path) -> None:
    (run / layout.IMAGE_REPORT).unlink()
    shutil.rmtree(run / layout.MERGED)
    shutil.copytree(tiny_base, run / layout.MERGED)
    with pytest.raises(EvidenceRefused, match="verdict is about"):
        verify(run, PROCESS)


@pytest.fixture(scope="module")
def base_server(tiny_base: Path, params: Params) -> Iterator[str]:
    """The URL of a real server of the untuned base."""
    with closing(processes.start(runtimes.load("transformers"), params.serve, tiny_base)) as server:
        yield server.url


def test_a_server_of_the_base_is_found_by_what_it_answers(run: Path, base_server: str) -> None:
    report = verify(run, VerifyOptions(url=base_server))
    found = by_name(report)
    assert report.status == "fail"
    # It is pinned to another folder, and so refuses what is asked of the right one.
    assert found["start"].status == "fail"
    assert "HTTP 400" in found["start"].reason
    assert files.read_json(run / layout.SERVING_REPORT, ServingReport) == report
    refused = refusal(report)
    assert isinstance(refused, ServingRefused)
    assert len(refused.others) == len(report.checks) - 1


@pytest.mark.exhaustive
def test_the_base_in_the_models_own_folder_is_found_by_what_it_answers(
    run: Path, tiny_base: Path, params: Params, tmp_path: Path
) -> None:
    report, found = _served_from_the_right_place(run, tiny_base, params, tmp_path)
    assert report.status == "fail"
    assert found["identity"].status == "pass"
    assert {"parity", "adapter", "score"} <= {name for name, check in found.items() if check.status == "fail"}
    assert "untuned base's" in found["adapter"].reason


def _served_from_the_right_place(
    run: Path, weights: Path, params: Params, tmp_path: Path
) -> tuple[ServingReport, dict[str, ServingCheck]]:
    """``weights`` served at the path at which a server mounts the image of weights alone, below ``tmp_path``."""
    path = json.loads((run / layout.IMAGE_REPORT).read_text())["path"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.image.weights.VOLUME", str(tmp_path))
        folder = shutil.copytree(weights, Path(f"{tmp_path}{path}"))
        with closing(processes.start(runtimes.load("transformers"), params.serve, folder)) as server:
            report = verify(run, VerifyOptions(url=server.url))
    return report, by_name(report)


def test_weights_that_do_not_load_fail_at_the_start_with_the_end_of_the_log(run: Path, tmp_path: Path) -> None:
    value = tuned.document()
    broken = tmp_path / "broken"
    shutil.copytree(run / layout.MERGED, broken)
    (broken / "config.json").write_text("{")
    root = tmp_path / "root"
    weights = {path.relative_to(broken).as_posix(): path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    made = build_tree.make(root, weights, value)
    shutil.copy(run / layout.PROBES, root / layout.PROBES)
    model = files.read_json(root / layout.PARITY_REPORT, ParityReport).merged
    told = json.loads((root / layout.PROBES).read_text())
    (root / layout.PROBES).write_text(json.dumps(told | {"merged": model}))
    evidence_tree.recorded(root)
    assert made.serve.runtime == "transformers"
    report = verify(root, PROCESS)
    start = by_name(report)["start"]
    assert start.status == "fail"
    assert "its log says: " in start.reason
    assert "Error: " in start.reason
    assert report.status == "fail"
    assert b"Traceback" in (root / LOG).read_bytes()
    refused = refusal(report)
    assert refused is not None
    assert str(LOG) in str(refused)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (VerifyOptions(url="http://127.0.0.1:1", image="localhost/x"), "name one of them"),
        (VerifyOptions(url="http://127.0.0.1:1", gpus="all"), "to a container"),
        (VerifyOptions(runtime="transformers", gpus="all"), "to a container"),
        (VerifyOptions(), "weights and no server"),
        (VerifyOptions(runtime="tgi"), "in its image alone"),
        (VerifyOptions(runtime="nonesuch"), "is not a runtime"),
        (VerifyOptions(image="localhost/x@sha256:" + "0" * 64, runtime="transformers"), "not the image"),
        (VerifyOptions(image="localhost/x:tag", runtime="transformers"), "not the image"),
        (VerifyOptions(url="ftp://x"), "is not an address"),
    ],
)
def test_what_cannot_be_verified_is_refused_and_starts_nothing(options: VerifyOptions, word: str, run: Path) -> None:
    with pytest.raises(Refusal, match=word):
        verify(run, options)
    assert left_over(run) == []


def test_a_server_that_is_not_there_is_a_failed_start(run: Path) -> None:
    value = tuned.document()
    value["serve"]["verify"]["start_seconds"] = 2
    (run / layout.PARAMS).write_text(written(value))
    start = by_name(verify(run, VerifyOptions(url="http://127.0.0.1:9")))["start"]
    assert start.status == "fail"
    assert "no answer within 2 s: the connection was lost" in start.reason


def test_the_image_as_it_ships_runs_in_docker_and_answers_as_the_offline_model(
    tiny_base: Path, tuned_model: Path, tmp_path: Path
) -> None:
    tag = serving_base.serving_image()
    base = serving_base.layout(tag, tmp_path / "base")
    entry = json.loads((base / "index.json").read_text())["manifests"][0]
    root = tmp_path / "run"
    tuned.record(root, tiny_base, tuned_model, tuned.document(base=f"oci:{base}@{entry['digest']}"))
    built = build.build(root, build.BuildOptions())
    report = verify(root, VerifyOptions())
    assert report.status == "pass", report
    found = by_name(report)
    assert {name for name, check in found.items() if check.status == "unavailable"} == {"metrics"}
    assert report.image == built.image
    assert found["identity"].reason.endswith(Path(built.path).name)
    assert serving_base.left(built.model) == set()
