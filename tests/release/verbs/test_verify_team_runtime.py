"""`lockstep verify` with a real server that Lockstep does not ship, by the file of a team's repository alone."""

import json
import shutil
from pathlib import Path

import pytest

from checks.formats.serving import ImageReport, ServingCheck, ServingReport
from checks.process.errors import ParamsRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.image.layout import Layout
from release.serving import examine
from release.serving.probes import life
from release.serving.probes.context import ProbeContext, failed
from release.verbs.build import BuildOptions, build
from release.verbs.verify import VerifyOptions, verify
from tests import acme_server, build_tree, team_runtime, tuned
from tests.team_runtime import FILE, NAME

pytestmark = pytest.mark.slow

PROCESS = VerifyOptions(runtime=NAME)


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tuned_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's repository whose serve.runtime is its own server, with an image. Read-only by custom."""
    root = tmp_path_factory.mktemp("verify") / "run"
    tuned.record(root, tiny_base, tuned_model, tuned.document(runtime=NAME))
    team_runtime.write(root)
    build_tree.commit(root, "a server of our own")
    build(root, BuildOptions())
    acme_server.install(root / layout.STATE / "acme")
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def by_name(report: ServingReport) -> dict[str, ServingCheck]:
    return {check.name: check for check in report.checks}


def test_a_server_that_lockstep_does_not_ship_serves_as_the_offline_model_answers(run: Path) -> None:
    (run / layout.IMAGE_REPORT).unlink()  # its weights were not built yet: they are served from their folder
    report = verify(run, PROCESS)
    assert report.status == "pass", report
    assert report.image is None
    assert (report.runtime, report.how) == (NAME, "process")
    seen = by_name(report)
    assert {name for name, check in seen.items() if check.status == "unavailable"} == {"egress", "read-only"}
    assert seen["template"].reason == "the token ids of 8 chats are the offline ones"
    assert "nats apart" in seen["parity"].reason
    assert "where nothing ends an answer" in seen["parity"].reason
    assert "refused: too long 400, malformed 400, unknown model 404" in seen["errors"].reason
    assert "acme:generated_tokens_total at /metrics grew with requests" in seen["metrics"].reason
    assert seen["drain"].status == "pass"


def test_the_image_has_the_digest_of_the_file_and_names_the_commit_that_has_it(run: Path) -> None:
    report = files.read_json(run / layout.IMAGE_REPORT, ImageReport)
    store = Layout(run / layout.IMAGE)
    labels = json.loads(store.document(report.image).data)["annotations"]
    assert labels["lockstep.runtime"] == NAME
    assert labels["lockstep.runtime.file"] == digest.of_bytes((run / FILE).read_bytes())
    assert report.commit == commits.resolve(run, "HEAD")  # the record is older than the file
    (run / FILE).write_text(team_runtime.text().replace("port: 8000", "port: 8080"))
    assert build_tree.commit(run, "another port") != report.commit
    assert build(run, BuildOptions()).image != report.image


@pytest.mark.exhaustive
def test_another_model_in_that_server_is_found(run: Path, tiny_base: Path) -> None:
    """The program starts, and serves other weights than it was given."""
    program = run / layout.STATE / "acme" / "bin" / "acme-serve"
    program.write_text(program.read_text().replace("Model(given.model,", f"Model({str(tiny_base)!r},"))
    seen = by_name(verify(run, PROCESS))
    assert seen["identity"].status == "pass"
    assert {"parity", "adapter", "score"} <= {name for name, check in seen.items() if check.status == "fail"}


def only_started(context: ProbeContext, began: float) -> tuple[ServingCheck, ...]:
    """Ask whether the server starts, and nothing else."""
    others = (name for name in examine.names(context.serve) if name != "start")
    return (life.start(context, began), *(failed(name, "not asked") for name in others))


def test_a_file_that_changed_after_the_build_starts_nothing_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's commit decides, whatever the work tree says; without an image, the last commit and no edit of it."""
    monkeypatch.setattr(examine, "examine", only_started)
    (run / FILE).write_text(team_runtime.text().replace("[acme-serve]", "[false]"))
    report = verify(run, PROCESS)
    assert by_name(report)["start"].status == "pass"
    (run / layout.IMAGE_REPORT).unlink()
    with pytest.raises(ParamsRefused, match=f"{FILE}: is not committed in its current state"):
        verify(run, PROCESS)
