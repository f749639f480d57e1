"""Loads an image from an OCI layout into the Docker Engine, for as long as it is needed, without a registry."""

import contextlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from docker.errors import DockerException, ImageNotFound

from checks.process.errors import EvidenceRefused, ServingRefused
from checks.storage.digest import canonical_json
from release.adapters.registry import documents
from release.adapters.registry.documents import Descriptor, Document, Manifest, Store
from release.serving import containers
from release.serving.progress import Progress

_RECORD = 512
_LOADING = 3600  # seconds that the engine may be silent: it unpacks before it answers


@contextmanager
def loaded(store: Store, digest: str) -> Iterator[str]:
    """The image's id in the engine; the image is removed at the end, unless the engine had it before.

    Every blob is hashed on its way, and the id that the engine computes is compared. Raises RegistryRefused if the
    layout lacks the image or has other bytes, EvidenceRefused if ``digest`` is not an image, ServingRefused if the
    engine does not accept it, MachineRefused if there is no engine.
    """
    engine = containers.connect(_LOADING)
    document = store.document(digest)
    manifest = documents.read(document, store.name)
    if not isinstance(manifest, Manifest):
        raise EvidenceRefused(
            f"{store.name}: {digest} is no image but an index", "name an image in it by its digest"
        )
    ids = (manifest.config.digest, document.digest)  # the classic store's, containerd's
    known = _known(engine, ids)
    if known is None:
        try:
            size = sum(blob.size for blob in (manifest.config, *manifest.layers))
            with Progress("load", size, "B") as bar:
                for event in engine.api.load_image(_archive(store, manifest, document, bar)):
                    if "error" in event:
                        raise DockerException(event["error"])
        except (DockerException, OSError) as error:
            reason = containers.line(error)
            raise ServingRefused(
                f"{store.name}: the engine does not take the image: {reason}", "free its disk"
            ) from error
    found_image = known or _known(engine, ids)
    if found_image is None:
        raise ServingRefused(
            f"{store.name}: the engine took {digest} for another image",
            "run `lockstep build` again",
        )
    try:
        yield found_image
    finally:
        if known is None:
            # Somebody else's container may still use the image.
            with contextlib.suppress(DockerException, OSError):
                engine.images.remove(found_image)


def _known(engine: Any, ids: tuple[str, ...]) -> str | None:
    for image_id in ids:
        try:
            return str(engine.images.get(image_id).id)
        except ImageNotFound:
            continue
        except (DockerException, OSError) as error:
            raise containers.no_engine(error) from error
    return None


def _archive(store: Store, manifest: Manifest, document: Document, bar: Any) -> Iterator[bytes]:
    """A tar that is both a layout of this one image and Docker's older archive, which its classic store reads."""
    named = {
        "mediaType": document.media_type,
        "digest": document.digest,
        "size": len(document.data),
    }
    old = {
        "Config": _path(manifest.config.digest),
        "RepoTags": None,
        "Layers": [_path(layer.digest) for layer in manifest.layers],
    }
    small = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": canonical_json({"schemaVersion": 2, "manifests": [named]}),
        "manifest.json": json.dumps([old]).encode(),
        _path(document.digest): document.data,
    }
    for name, content in small.items():
        yield _header(name, len(content)) + content + bytes(-len(content) % _RECORD)
    blobs: dict[str, Descriptor] = {
        blob.digest: blob for blob in (manifest.config, *manifest.layers)
    }
    for blob in blobs.values():
        yield _header(_path(blob.digest), blob.size)
        for block in store.blob(blob.digest, blob.size):
            yield block
            bar.update(len(block))
        yield bytes(-blob.size % _RECORD)
    yield bytes(2 * _RECORD)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
