"""`lockstep verify` of weights that come alone, in a container of the server that an environment names: real Docker."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.formats.serving import ImageReport
from checks.process.errors import ServingRefused
from checks.storage import files, layout
from release import runtimes
from release.evidence import verification
from release.overlay import named_server as servers
from release.promotion import compared_server, context
from release.serving.against import RunningServer
from release.serving.expected import Expected
from release.verbs import build
from release.verbs.verify import LOG, VerifyOptions, verify
from tests import overlay_sample, registry_service, serving_base, tuned
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tuned_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that passes, its weights as an image without a server, and environments. Read-only by custom."""
    root = tmp_path_factory.mktemp("alone")
    tuned.record(root / "run", tiny_base, tuned_model, tuned.document())
    build.build(root / "run", build.BuildOptions())
    shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, root / "run" / layout.ENVIRONMENTS)
    return root / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def push(tag: str, name: str, folder: Path) -> str:
    """Copy an image of the engine to NAME:TAG in a registry, and return its digest there."""
    digest = folder / "digest"
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"--digestfile={digest}", f"docker-daemon:{tag}", f"docker://{name}"], check=True)
    return digest.read_text().strip()


def _name(
    root: Path, *environments: str, server: str = overlay_sample.SERVER, digest: str = overlay_sample.OTHER
) -> None:
    for name in environments:
        overlay_sample.pin(root / layout.ENVIRONMENTS, name, server=f"{server}@{digest}")


def test_without_one_server_that_is_named_nothing_is_started(run: Path) -> None:
    with pytest.raises(ServingRefused, match=r"no server, and no environment names one; name one in serve\.server"):
        verify(run, VerifyOptions())
    _name(run, "staging")
    _name(run, "production", digest=f"sha256:{'d' * 64}")
    with pytest.raises(ServingRefused, match="the environments name 2 servers"):
        verify(run, VerifyOptions())
    for server in ("registry.example/tgi:3", "a b@sha256:" + "d" * 64, f"sha256:{'d' * 64}"):
        with pytest.raises(ServingRefused, match="is not a server image with a digest"):
            verify(run, VerifyOptions(server=server))
    with pytest.raises(ServingRefused, match="is for weights alone, in a container"):
        verify(run, VerifyOptions(runtime="transformers", server=f"{overlay_sample.SERVER}@{overlay_sample.OTHER}"))


@pytest.fixture
def pushed(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The serving base in a registry, as the environments name it: its name and digest; the engine forgets that name.

    The engine would compress the layers, which takes a minute. It has the image, so of this one it pulls the manifest.
    """
    with registry_service.registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/servers/transformers"
        digest = push(serving_base.serving_image(), f"{name}:1", tmp_path)
        yield name, digest
        serving_base.remove(f"{name}@{digest}")


def test_weights_alone_are_verified_in_the_server_that_will_run_them_beside_the_one_that_runs_them(
    run: Path, pushed: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images that differ by a label, so every answer must be the same. The engine keeps both, and pulls manifests."""
    name, old = pushed
    upgraded = serving_base.baked(serving_base.serving_image(), "LABEL upgrade=1")
    new = push(upgraded, f"{name}:2", tmp_path)
    _name(run, "staging", "production", server=name, digest=new)

    def find(where: Path, record: Expected, server: str | None, options: VerifyOptions) -> RunningServer:
        """What the ledger would say: tests of promotions look for it there."""
        shown = f"{name}@{old}"
        if server == shown:
            raise ServingRefused("it runs already", "name another")
        assert (where, server, options.against) == (run, f"{name}@{new}", "production")
        return RunningServer(
            "production", "v1.2.0", shown, record, runtimes.load("transformers"), VerifyOptions(), shown
        )

    monkeypatch.setattr(context, "find", lambda root: root)
    monkeypatch.setattr(compared_server, "find", find)
    with pytest.raises(ServingRefused, match="it runs already"):  # the server of --server counts, if there is one
        verify(run, VerifyOptions(server=f"{name}@{old}", against="production"))
    try:
        report = verify(run, VerifyOptions(against="production"))
    finally:
        serving_base.remove(f"{name}@{new}")
        serving_base.remove(upgraded)
    assert report.status == "pass", (report, (run / LOG).read_bytes()[-2000:])
    assert (report.how, report.server) == ("container", f"{name}@{new}")
    assert {check.name for check in report.checks if check.status == "unavailable"} == {"metrics"}
    assert report.against is not None
    assert (report.against.differ, report.against.server) == (0, f"{name}@{old}")
    assert report.against.slower is not None
    image = files.read_json(run / layout.IMAGE_REPORT, ImageReport)
    assert report.image == image.image
    lying = overlay_sample.lying(run / layout.ENVIRONMENTS)
    named = servers.named("production", lying)
    assert verification.differences(image, report, named) == []
    assert "the environment names" in verification.differences(image, report, f"{name}@sha256:{'d' * 64}")[0]
    assert serving_base.left() == set()
    assert list((run / layout.STATE).glob("serving-*")) == []
