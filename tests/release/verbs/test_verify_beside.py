"""`lockstep verify --beside`: one server with the adapters of three projects, brought through DVC from their commits."""

import json
import re
import shutil
from pathlib import Path

import pytest

from checks.formats import pointer
from checks.formats.serving import ServingReport
from checks.process.errors import EvidenceRefused, ServingRefused
from checks.storage import digest, files, layout
from release.adapters import dvc
from release.serving.options import VerifyOptions
from release.verbs import render
from release.verbs.verify import refusal, verify
from tests import adapters_tree as adapters
from tests import promotion_tree as tree
from tests import vllm_process
from tests.conftest import dumped
from tests.ledger_tree import keep
from tests.release.serving.test_verify_checks import few_requests

pytestmark = pytest.mark.slow

alone, place, promoted, top = tree.alone, adapters.place, adapters.promoted, adapters.top
few_requests = few_requests
BESIDE = VerifyOptions(runtime="vllm", beside="staging")
ADAPTER = layout.MERGED / layout.SHIPPED_ADAPTER


def learned(root: Path, kept: Path) -> dict[Path, Path]:
    """Copy what a project released last. Return the copy of its adapter, with that of its offline answers."""
    home = kept / f"{root.name}-{len(list(kept.glob('*')))}"
    adapter, probes = home / "adapter", home / "probes.json"
    shutil.copytree(root / ADAPTER, adapter)
    shutil.copy(root / layout.PROBES, probes)
    return {adapter: probes}


def serve(router: Path, known: dict[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a stand-in for vLLM that knows these adapters."""
    python = vllm_process.install(tmp_path / "vllm", known, router / layout.PREDICTIONS / "candidate.jsonl")
    monkeypatch.setenv("LOCKSTEP_VLLM", str(python))
    for other in ("support", "writer"):  # What another project has in this work tree is not what it released.
        shutil.rmtree(router.with_name(other) / "models")
        shutil.rmtree(router.with_name(other) / "data")


@pytest.fixture
def router(top: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project router with a new release, and a stand-in for vLLM that knows the adapters of all three projects."""
    router, kept = top / "router", tmp_path / "offline"
    adapters.released(router, place, 7)
    known = learned(top / "support", kept) | learned(router, kept) | learned(top / "writer", kept)
    serve(router, known, tmp_path, monkeypatch)
    return router


def named(report: ServingReport) -> list[tuple[str, str]]:
    assert refusal(report) is None, report
    assert report.beside is not None
    assert report.beside.server == "support"
    return [(adapter.project, adapter.version) for adapter in report.beside.adapters]


def test_a_canary_is_loaded_beside_the_adapter_that_it_is_to_follow(
    top: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two is verified, the server has both, by the names that clients use."""
    kept = tmp_path / "offline"
    known = learned(top / "router", kept) | learned(top / "writer", kept)
    router = adapters.with_canary(top)
    adapters.with_room(top, place)
    known |= learned(top / "support", kept)
    adapters.released(router, place, 9)
    known |= learned(router, kept)
    tree.move(router, "canary")
    adapters.released(router, place, 7)
    known |= learned(router, kept)
    serve(router, known, tmp_path, monkeypatch)
    others = [("support", "v0.2.0"), ("writer", "v0.1.0")]
    report = verify(router, BESIDE)
    assert sorted(named(report)) == [("router (canary)", "v0.2.0"), *others]
    (check,) = (check for check in report.checks if check.name == "neighbours")
    assert "under 5 more names" in check.reason
    assert "6 names share 4 slots, and each answers so after it was loaded again" in check.reason

    report = verify(router, BESIDE._replace(beside="canary"))
    assert sorted(named(report)) == [("router", "v0.1.0"), *others]


def test_the_server_has_all_adapters_of_the_environment_and_the_report_names_them(router: Path) -> None:
    report = verify(router, BESIDE)
    assert named(report) == [("support", "v0.1.0"), ("writer", "v0.1.0")]
    assert {check.name: check.status for check in report.checks}["neighbours"] == "pass"
    assert report.beside is not None
    assert report.beside.environment == "staging"
    assert files.read_json(router / layout.SERVING_REPORT, ServingReport) == report


def test_bytes_that_dvc_lacks_or_has_otherwise_are_not_loaded(router: Path) -> None:
    top = router.parent
    cache = top / ".dvc/cache"
    shutil.move(cache, top / "elsewhere")
    with pytest.raises(EvidenceRefused) as refused:
        verify(router, BESIDE)
    assert re.match(r"support/models/merged/adapter at [0-9a-f]{12}: DVC cannot fetch it \(", refused.value.what)
    assert refused.value.todo == "push it where it was made: `lockstep -C support dvc push`"
    shutil.move(top / "elsewhere", cache)


def test_an_adapter_whose_evidence_nobody_signed_is_not_brought(router: Path, brings: list[Path]) -> None:
    home = router.with_name("writer") / adapters.STAGING
    evidence, runs = home / layout.EVIDENCE, home / layout.POINTER
    envelope = json.loads(evidence.read_bytes())
    evidence.write_text(json.dumps(envelope | {"signatures": [{"keyid": "nobody", "sig": "AAAA"}]}))
    edited = pointer.parse(runs.read_bytes(), "writer").model_copy(update={"evidence": digest.of_file(evidence).sha256})
    runs.write_bytes(pointer.write(edited))
    keep(router.parent, "edited by hand")
    with pytest.raises(EvidenceRefused, match=r"^writer: staging runs .*, and no current signer signed its evidence: "):
        verify(router, BESIDE)
    assert brings == []


@pytest.fixture
def brings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A DVC that brings another adapter than the one of the commit."""
    brought = list[Path]()

    def get(root: Path, commit: str, path: Path, to: Path) -> None:
        to.mkdir()
        (to / "adapter_model.safetensors").write_bytes(b"another")
        brought.append(to)

    monkeypatch.setattr(dvc, "get", get)
    return brought


def test_an_adapter_that_is_not_the_released_one_is_refused_and_removed(router: Path, brings: list[Path]) -> None:
    with pytest.raises(EvidenceRefused) as refused:
        verify(router, BESIDE)
    assert re.match(
        r"support/models/merged at [0-9a-f]{12}: is not what support v0.1.0 was released with", refused.value.what
    )
    assert [path for path in brings if path.exists()] == []


def test_an_adapter_on_another_base_is_refused_before_anything_is_brought(
    top: Path, place: str, brings: list[Path]
) -> None:
    adapters.released(top / "router", place, 7, base=2)
    with pytest.raises(
        ServingRefused, match=r"--beside: support v0.1.0 has the base sha256:\w{64}, this record sha256"
    ):
        verify(top / "router", BESIDE)
    assert brings == []


def test_an_environment_that_shares_no_server_is_refused(top: Path, place: str) -> None:
    support = top / "support"
    adapters.released(support, place, 5)
    (support / adapters.STAGING / "environment.yaml").write_text(dumped({"namespace": "support-staging"}))
    render.render(support, "staging")
    keep(top, "no adapters beside it")
    with pytest.raises(ServingRefused, match="--beside: staging shares no server with other adapters"):
        verify(support, BESIDE)
    with pytest.raises(EvidenceRefused, match="no project lists router in `adapters` of staging"):
        verify(top / "router", BESIDE)
