"""The words of the OCI specifications that this tool speaks, and what every place that holds images can do.

Sources: OCI image specification 1.1, OCI distribution specification 1.1.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from checks.process.errors import RegistryRefused
from checks.records.identity import Digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# Docker's names of layers, and the same bytes' names in OCI.
LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    LAYER: LAYER,
    f"{LAYER}+gzip": f"{LAYER}+gzip",
    f"{LAYER}+zstd": f"{LAYER}+zstd",
}


class StoreUnavailable(RegistryRefused):
    """The store does not answer, lacks what is asked for, or denies this account. It need not be wrong."""


Seen = Callable[[int], object]  # told how many bytes went by


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

    @property
    def size(self) -> int:
        """Bytes in all."""

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

    def borrow(self, digest: str, size: int, source: "Store") -> bool:
        """Take the blob from another repository of the same registry without sending it; False where that cannot be."""

    def document(self, reference: str) -> Document:
        """Return the manifest or index by tag or digest, checked against the digest where it is one."""

    def put(self, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a manifest under its digest, and then under ``tag``; return the digest."""

    def referrers(self, digest: str) -> list[Descriptor]:
        """Return the manifests whose subject is ``digest``; artifactType and annotations are among their extra fields.

        None for an image that has none, or is not there. Whoever may write there may add to them.
        """
