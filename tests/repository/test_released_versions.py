"""The repositories that released versions made are read by this one, and what a newer version wrote is refused."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checks.config import params_file
from checks.formats import pointer, quarantine
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.looks import LooksReport
from checks.formats.report import Report
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.training_reports import ParityReport, TrainReport
from checks.formats.verdict import Verdict
from checks.process import distribution
from checks.process.errors import EvidenceRefused
from checks.storage import files, layout
from release.adapters import pin
from release.cli import main
from release.evidence import statement
from release.ledger import released_pointers
from release.record import judged_models
from tests.ledger_tree import CLEAN, git, identify, keep
from tests.promotion_tree import NOBODY
from tests.released_repository import HOME, WORKFLOWS

pytestmark = pytest.mark.slow

BUNDLES = sorted(HOME.glob("*.bundle"))
NEWER = "which a newer Lockstep reads: `lockstep upgrade`; move to that version, then run this again$"
REPORTS: dict[Path, type[Report]] = {
    layout.VERDICT: Verdict, layout.EVALUATION: EvaluationReport, layout.LOOKS: LooksReport,
    layout.PARITY_REPORT: ParityReport, layout.TRAIN_REPORT: TrainReport, layout.IMAGE_REPORT: ImageReport,
    layout.SERVING_REPORT: ServingReport,
}  # fmt: skip


@pytest.fixture(params=BUNDLES, ids=lambda bundle: bundle.stem)
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository that a version made, whose remote it was pushed to."""
    for name, value in (CLEAN | {"MLFLOW_TRACKING_URI": NOBODY}).items():
        monkeypatch.setenv(name, value)
    git(tmp_path, "clone", "--quiet", "--bare", str(request.param), "origin.git")
    git(tmp_path, "clone", "--quiet", "--branch=main", "origin.git", "work")
    identify(tmp_path / "work", "Ada")
    return tmp_path / "work"


def lockstep(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), *arguments])


def test_there_is_a_repository_of_this_version() -> None:
    assert (HOME / f"{distribution.version()}.bundle") in BUNDLES, "run python -m tests.released_repository"


def test_what_runs_and_what_ran_is_read(root: Path) -> None:
    done = lockstep(root, "status", "--json")
    assert done.exit_code == 0, done.output
    environments = json.loads(done.stdout)["environments"]
    assert [state["runs"]["pointer"]["version"] for state in environments] == ["v0.1.0", "v0.1.0"]
    done = lockstep(root, "history", "production", "--json")
    assert done.exit_code == 0, done.output
    assert [move["kind"] for move in json.loads(done.stdout)["environments"]["production"]] == [
        "rollback",
        "promote",
        "promote",
    ]


def test_its_verdict_does_not_hold_without_the_defaults_of_policy_and_each_report_is_read(root: Path) -> None:
    git(root, "rm", "--quiet", pin.PATH.as_posix())  # Here Lockstep is not installed from a wheel.
    keep(root, "no pin")
    done = lockstep(root, "gate")
    assert done.exit_code == 8, done.output
    assert "lockstep: code.lock: does not say the defaults of policy" in done.stderr.splitlines()
    params_file.load(root / layout.PARAMS)
    for path, report in REPORTS.items():
        files.read_json(root / path, report)


def test_the_signed_evidence_of_what_runs_is_read(root: Path) -> None:
    home = root / layout.ENVIRONMENTS / "production"
    runs = pointer.parse((home / layout.POINTER).read_bytes(), "it")
    envelope = released_pointers.envelope((home / layout.EVIDENCE).read_bytes(), runs, "its evidence")
    assert envelope.statement.predicate.commit == runs.commit


def test_an_upgrade_says_what_is_of_the_version_before(root: Path) -> None:
    old = pin.read((root / pin.PATH).read_text())
    text = pin.replaced((root / pin.PATH).read_text(), old._replace(version=distribution.version()))
    (root / pin.PATH).write_text(text)
    done = lockstep(root, "upgrade", "--check", "--workflows", WORKFLOWS)
    assert done.exit_code == 8, done.output
    assert f"code.lock in .: not of Lockstep {distribution.version()}; run ./lockstep upgrade --files" in done.stderr
    assert lockstep(root, "upgrade", "--files", "--workflows", WORKFLOWS).exit_code == 0
    done = lockstep(root, "upgrade", "--check", "--workflows", WORKFLOWS)
    assert done.exit_code == 0, done.output


def test_a_list_of_looks_of_a_newer_format_in_git_is_no_empty_one(root: Path) -> None:
    path = root / layout.LOOKS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    keep(root, "of a later version")
    path.unlink()
    with pytest.raises(EvidenceRefused, match=rf"{layout.LOOKS} in git: has the format 2, {NEWER}"):
        judged_models.in_history(root, "HEAD")


def test_a_pointer_a_quarantine_and_a_statement_of_newer_formats_are_refused(root: Path) -> None:
    home = root / layout.ENVIRONMENTS
    data = (home / "production" / layout.POINTER).read_bytes()
    assert pointer.parse(data, "it").version == "v0.1.0"
    with pytest.raises(EvidenceRefused, match=rf"it: has the format 2, {NEWER}"):
        pointer.parse(b"format: 2\nruns: many\n" + data, "it")
    assert quarantine.parse((root / layout.QUARANTINE).read_bytes(), "it")
    with pytest.raises(EvidenceRefused, match=rf"it: has the format 2, {NEWER}"):
        quarantine.parse(b"format: 2\nentries: []\n", "it")
    later = b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"urn:lockstep:release:v2"}'
    with pytest.raises(EvidenceRefused, match=rf"it: has the format urn:lockstep:release:v2, {NEWER}"):
        statement.parse(later, "it")
    (home / "production" / layout.POINTER).write_bytes(b"format: 2\nruns: many\n" + data)
    keep(root, "a later version promotes")
    git(root, "push", "--quiet", "origin", "main")
    done = lockstep(root, "status")
    assert "has the format 2, which a newer Lockstep reads: `./lockstep upgrade`" in done.stderr
