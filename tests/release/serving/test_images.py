"""Images out of an OCI layout, given to a real Docker Engine."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import EvidenceRefused, RegistryRefused
from release import runtimes
from release.image.layout import Layout
from release.serving import containers, images
from tests import serving_base
from tests.release.serving.test_containers import IDLES

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Layout, str]:
    """An image that the engine wrote as a layout and forgot; and its manifest's digest."""
    made = serving_base.baked(serving_base.plain_image(), f"RUN echo {tmp_path} > /mark\n{IDLES}")
    folder = serving_base.layout(made, tmp_path / "layout")
    serving_base.remove(made)
    (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
    return Layout(folder), entry["digest"]


def there(digest: str) -> list[Any]:
    return [each.id for each in serving_base.docker_engine().images.list(all=True) if each.id == digest]


def test_an_image_of_a_layout_is_loaded_run_and_forgotten(stored: tuple[Layout, str]) -> None:
    layout, digest = stored
    with images.loaded(layout, digest) as image:
        config = json.loads(layout.document(digest).data)["config"]["digest"]
        assert image in (config, digest)
        with closing(containers.start(image, runtimes.load("transformers"), "/m")) as started:
            assert started.gone() is None
        with images.loaded(layout, digest) as again:
            assert again == image
        assert there(image)
    assert not there(image)


def test_a_damaged_layer_is_never_run(stored: tuple[Layout, str]) -> None:
    layout, digest = stored
    manifest = json.loads(layout.document(digest).data)
    layer = layout.folder / "blobs" / manifest["layers"][-1]["digest"].replace(":", "/")
    data = bytearray(layer.read_bytes())
    data[700] ^= 1
    layer.chmod(0o644)
    layer.write_bytes(data)
    with pytest.raises(RegistryRefused), images.loaded(layout, digest):
        pytest.fail("it was loaded")
    assert not there(manifest["config"]["digest"])


def test_an_image_that_is_not_there_is_refused(stored: tuple[Layout, str]) -> None:
    with pytest.raises(RegistryRefused), images.loaded(stored[0], f"sha256:{'0' * 64}"):
        pytest.fail("it was loaded")


def test_an_index_is_no_image(stored: tuple[Layout, str]) -> None:
    layout, digest = stored
    size = len(layout.document(digest).data)
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    )
    with layout.held():
        found = layout.put(index.encode(), "application/vnd.oci.image.index.v1+json", None)
    with pytest.raises(EvidenceRefused, match="no image but an index"), images.loaded(layout, found):
        pytest.fail("it was loaded")
