"""`lockstep verify --beside`: one server with the adapters of three projects, brought through DVC from their commits."""

import shutil
from pathlib import Path

import pytest

from checks.formats.serving import Neighbours, ServingReport
from checks.process.errors import EvidenceRefused, Refusal
from checks.storage import files, layout
from release.overlay import overlays
from release.runtimes import lookup
from release.serving.options import VerifyOptions
from release.verbs import render
from release.verbs.verify import refusal, verify
from tests import promotion_tree as tree
from tests import vllm_process
from tests.conftest import dumped
from tests.ledger_tree import git, keep
from tests.promotion_tree import gaps, move
from tests.release.promotion import test_promote_adapters as adapters
from tests.release.serving.test_verify_checks import few_requests

pytestmark = pytest.mark.slow

alone, place, promoted, top = tree.alone, adapters.place, adapters.promoted, adapters.top
few_requests = few_requests
BESIDE = VerifyOptions(runtime="vllm", beside="staging")
ADAPTER = layout.MERGED / layout.SHIPPED_ADAPTER


@pytest.fixture
def router(top: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project router with a new release, and a stand-in for vLLM that knows the adapters of all three projects."""
    router = top / "router"
    adapters.released(router, place, 7)
    kept = tmp_path / "offline"
    known = {}
    for root in (top / "support", router, top / "writer"):
        for path in (ADAPTER, layout.PROBES):
            (kept / root.name / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(root / ADAPTER, kept / root.name / ADAPTER)
        shutil.copy(root / layout.PROBES, kept / root.name / layout.PROBES)
        known[kept / root.name / ADAPTER] = kept / root.name / layout.PROBES
    python = vllm_process.install(tmp_path / "vllm", known, router / layout.PREDICTIONS / "candidate.jsonl")
    monkeypatch.setenv("LOCKSTEP_VLLM", str(python))
    for other in ("support", "writer"):  # What another project has in this work tree is not what it released.
        shutil.rmtree(top / other / "models")
        shutil.rmtree(top / other / "data")
    return router


def test_the_server_has_all_adapters_of_the_environment_and_the_report_names_them(router: Path) -> None:
    report = verify(router, BESIDE)
    assert refusal(report) is None, report
    assert {check.name: check.status for check in report.checks}["neighbours"] == "pass"
    assert report.beside is not None
    assert (report.beside.environment, report.beside.server) == ("staging", "support")
    assert [(adapter.project, adapter.version) for adapter in report.beside.adapters] == [
        ("support", "v0.1.0"), ("writer", "v0.1.0"),
    ]  # fmt: skip
    assert files.read_json(router / layout.SERVING_REPORT, ServingReport) == report
