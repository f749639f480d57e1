"""Puts an image of an OCI layout into the Docker Engine, so that it can be run without a registry.

The engine reads the archive of `docker save`: an OCI layout with one more file, manifest.json, that names the config
and the layers. It is streamed; nothing is written beside the layout. The engine hashes every layer, and an image's id
there is the digest of its config, or of its manifest where containerd keeps the images.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from checks.errors import EvidenceRefused, MachineRefused, ServingRefused
from release.oci import documents
from release.oci.documents import Manifest
from release.oci.types import Store
from release.serving import containers

_AGAIN = "run `lockstep build` again"


@contextmanager
def loaded(store: Store, image: str) -> Iterator[str]:
    """The id of ``image`` (its digest) in the engine; it is taken out afterwards if it was not there before.

    Raises RegistryRefused when the store lacks it or holds other bytes, MachineRefused when no engine answers,
    ServingRefused when the engine does not take it.
    """
    from docker.errors import DockerException, ImageNotFound

    manifest = documents.read(store.document(image), store.name)
    if not isinstance(manifest, Manifest):
        raise EvidenceRefused(f"{store.name}: {image} is no image but an index", _AGAIN)
    client = containers.connect()
    try:
        for known in (manifest.config.digest, image):
            with suppress(ImageNotFound):
                yield str(client.images.get(known).id)
                return
        found = _load(client, store, manifest)
        if found not in (manifest.config.digest, image):
            raise ServingRefused(f"the Docker Engine made {found} of {image}", _AGAIN)
        try:
            yield found
        finally:
            with suppress(ImageNotFound):
                client.images.remove(found)
    except (DockerException, OSError) as error:
        raise MachineRefused(f"the Docker Engine does not take {image}: {error}", "make room, or mend it") from error
    finally:
        client.close()


def _load(client: Any, store: Store, manifest: Manifest) -> str:
    total = manifest.config.size + sum(layer.size for layer in manifest.layers)
    with tqdm(total=total, desc="into Docker", unit="B", unit_scale=True, disable=None) as bar:
        images = client.images.load(archive(store, manifest, bar))
    if len(images) != 1:
        raise ServingRefused(f"the Docker Engine made {len(images)} images of one", _AGAIN)
    return str(images[0].id)


def archive(store: Store, manifest: Manifest, bar: Any) -> Iterator[bytes]:
    """The archive in blocks; every blob is held to its digest as it is read."""
    blobs = {blob.digest: blob for blob in (manifest.config, *manifest.layers)}
    names = {found: f"blobs/sha256/{found.removeprefix('sha256:')}" for found in blobs}
    listed = [
        {
            "Config": names[manifest.config.digest],
            "RepoTags": None,
            "Layers": [names[layer.digest] for layer in manifest.layers],
        }
    ]
    told = json.dumps(listed).encode()
    yield _header("manifest.json", len(told)) + told + _padding(len(told))
    for blob in blobs.values():
        yield _header(names[blob.digest], blob.size)
        for block in store.blob(blob.digest, blob.size):
            bar.update(len(block))
            yield block
        yield _padding(blob.size)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)
