"""`lockstep verify` of weights that come alone, in a container of the server that an environment names: real Docker."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.formats.serving import ImageReport
from checks.process.errors import ServingRefused
from checks.storage import files, layout
from release.evidence import verification
from release.overlay import named_server as servers
from release.verbs import build
from release.verbs.verify import VerifyOptions, verify
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


def _name(
    root: Path, *environments: str, server: str = overlay_sample.SERVER, digest: str = overlay_sample.OTHER
) -> None:
    for name in environments:
        overlay_sample.pin(root / layout.ENVIRONMENTS, name, server=f"{server}@{digest}")


def test_without_one_server_that_is_named_nothing_is_started(run: Path) -> None:
    with pytest.raises(ServingRefused, match="no server, and no environment names one; name one by --server"):
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
    tag, digest = serving_base.serving_image(), tmp_path / "digest"
    with registry_service.registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/servers/transformers"
        copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
        subprocess.run([*copy, f"--digestfile={digest}", f"docker-daemon:{tag}", f"docker://{name}:1"], check=True)
        yield name, digest.read_text().strip()
        serving_base.remove(f"{name}@{digest.read_text().strip()}")


def test_weights_alone_are_verified_in_the_server_that_will_run_them(run: Path, pushed: tuple[str, str]) -> None:
    name, digest = pushed
    _name(run, "staging", "production", server=name, digest=digest)
    report = verify(run, VerifyOptions())
    assert report.status == "pass", report
    assert (report.how, report.server) == ("container", f"{name}@{digest}")
    assert {check.name for check in report.checks if check.status == "unavailable"} == {"metrics"}
    image = files.read_json(run / layout.IMAGE_REPORT, ImageReport)
    assert report.image == image.image
    lying = overlay_sample.lying(run / layout.ENVIRONMENTS)
    named = servers.named("production", lying)
    assert verification.differences(image, report, named) == []
    assert "the environment names" in verification.differences(image, report, f"{name}@sha256:{'d' * 64}")[0]
    assert serving_base.left() == set()
    assert list((run / layout.STATE).glob("serving-*")) == []
