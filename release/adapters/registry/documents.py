"""The words of the OCI specifications that this tool speaks, and what every place that holds images can do.

Manifests and indexes are typed values: read strictly, in OCI's words and in Docker's (manifest v2, schema 2).

Sources: OCI image specification 1.1, OCI distribution specification 1.1.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from checks.process.errors import Refusal, RegistryRefused
from checks.records.record import Digest
from checks.storage import files

# The bytes of a manifest or index that registries must take (distribution specification 1.1).
LARGEST = 4 << 20
LARGEST_CONFIG = 16 << 20

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
# Docker's names of layers, and the same bytes' names in OCI.
LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    LAYER: LAYER,
    f"{LAYER}+gzip": f"{LAYER}+gzip",
    f"{LAYER}+zstd": f"{LAYER}+zstd",
}

Seen = Callable[[int], object]  # told how many bytes went by


class StoreUnavailable(RegistryRefused):
    """The store does not answer, lacks what is asked for, or denies this account. It need not be wrong."""


class Descriptor(BaseModel):
    """A blob or manifest by digest. Unknown fields are kept: they belong to whoever wrote them."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    media_type: Annotated[str, Field(alias="mediaType")]
    digest: Digest
    size: Annotated[int, Field(ge=0)]

    def plain(self) -> dict[str, Any]:
        """As JSON values, in OCI's spelling."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Document(NamedTuple):
    """A manifest or index: its bytes as they were had, their media type and digest."""

    data: bytes
    media_type: str
    digest: str


class Blob(Protocol):
    """Bytes that can be read more than once without being held in memory."""

    size: int

    def blocks(self) -> Iterator[bytes]:
        """Return all bytes, in blocks of some megabytes."""


class Store(Protocol):
    """A place that holds the blobs and manifests of one repository: an OCI layout folder, or a registry's repository.

    ``name`` is what messages and bars call it. Methods may be called from several threads at once. They raise
    RegistryRefused when the place refuses or holds other bytes than the digest says, StoreUnavailable when it does not
    answer or lacks what is asked for; BuildRefused when what is asked can never be done there.
    """

    name: str

    def has(self, digest: str, size: int) -> bool:
        """Tell whether the blob is there, whole."""

    def add(self, blob: Blob, digest: str | None, seen: Seen) -> str:
        """Read ``blob`` once, hash it and store it; return its digest. Nothing stays when it fails.

        With ``digest`` known the bytes must have it. ``seen`` is told bytes as they are stored.
        """

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """Return the blob's bytes, checked against digest and size before the last block is given."""

    def document(self, reference: str) -> Document:
        """Return the manifest or index by tag or digest, checked against the digest where it is one."""

    def put(self, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a manifest under its digest, and then under ``tag``; return the digest."""

    def referrers(self, digest: str) -> list[Descriptor]:
        """Return the manifests whose subject is ``digest``; artifactType and annotations are among their extra fields.

        None for an image that has none, or is not there. Whoever may write there may add to them.
        """


class Platform(BaseModel):
    """Of an index's entry. Unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Entry(Descriptor):
    """A manifest that an index names."""

    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Index(BaseModel):
    """Several manifests under one name."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    schema_version: Annotated[Literal[2], Field(alias="schemaVersion")]
    manifests: tuple[Entry, ...]


class Manifest(BaseModel):
    """One image: its config, its layers, the lowest first."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    schema_version: Annotated[Literal[2], Field(alias="schemaVersion")]
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: Annotated[str | None, Field(alias="artifactType")] = None
    annotations: dict[str, str] | None = None


def read(document: Document, where: str) -> Index | Manifest:
    """Return what a document says. ``where`` names it in the refusal.

    Raises RegistryRefused when it is no index and no manifest, or both at once: two readers would then see two images
    (CVE-2021-41190).
    """
    plain = parse(document.data, where)
    media_type = plain.get("mediaType", document.media_type)
    if media_type != document.media_type:
        raise _refused(
            where, f"calls itself {media_type!r} and is stored as {document.media_type!r}"
        )
    try:
        if media_type in INDEXES and not plain.keys() & {"config", "layers"}:
            return Index.model_validate(plain)
        if media_type in MANIFESTS and "manifests" not in plain:
            return Manifest.model_validate(plain)
    except ValidationError as error:
        raise _refused(where, files.first(error)) from error
    raise _refused(where, f"is no image manifest and no index, but {media_type!r}")


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object. Raises RegistryRefused when it is none."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused(where, "is no JSON") from error
    if not isinstance(plain, dict):
        raise _refused(where, "is no JSON object")
    return plain


def guess(data: bytes, where: str) -> str:
    """Return the media type of a document that came without one: its own word, or by its shape."""
    plain = parse(data, where)
    media_type = plain.get("mediaType")
    return (
        media_type if isinstance(media_type, str) else INDEX if "manifests" in plain else MANIFEST
    )


def referrer(manifest: Manifest, of: Descriptor) -> Descriptor:
    """Return how a list of referrers names ``manifest``, stored as ``of`` (distribution specification 1.1)."""
    value = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    value["artifactType"] = manifest.artifact_type or manifest.config.media_type
    if manifest.annotations:
        value["annotations"] = manifest.annotations
    return Descriptor.model_validate(value)


def _refused(where: str, what: str) -> RegistryRefused:
    return RegistryRefused(
        f"{where}: {what}", "name another image, or push this one again with a current tool"
    )


def checked(
    blocks: Iterable[bytes], digest: str, size: int, wrong: Callable[[int, str], Refusal]
) -> Iterator[bytes]:
    """Yield ``blocks``; the last one comes only once all have the digest and the size.

    Else raises what ``wrong`` makes of the number of bytes and their digest. Reading ends at the first block too many.
    """
    hasher = hashlib.sha256()
    count = 0
    last = b""
    for block in blocks:
        hasher.update(block)
        count += len(block)
        if count > size:
            break
        if last:
            yield last
        last = block
    actual = f"sha256:{hasher.hexdigest()}"
    if count != size or actual != digest:
        raise wrong(count, actual)
    if last:
        yield last
