"""The weights of an image as a ModelPack (CNCF model specification 0.0.7), for tools that pull models and not images.

Its layers are the image's own layers of weights under ModelPack's media types, so no weights are stored or sent twice.
It follows from the image's manifest and the image report alone, so the same image gives the same bytes everywhere.

Source: https://github.com/modelpack/model-spec/tree/v0.0.7/docs
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from checks.formats.serving import ImageReport, Layer
from checks.storage import digest
from release.adapters.registry import documents
from release.adapters.registry.documents import MANIFEST, Descriptor, Store
from release.image import weights
from release.image.image import OCI
from release.image.layout import Bytes

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.tar"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.tar"
FILE_PATH = "org.cncf.model.filepath"

_GGUF = ".gguf"
# Fields of ModelPack's descriptor and the annotations of the image that hold them.
_DESCRIPTOR = {
    "createdAt": f"{OCI}created",
    "name": f"{OCI}title",
    "version": f"{OCI}version",
    "revision": f"{OCI}revision",
    "sourceURL": f"{OCI}source",
}


class ModelPack(NamedTuple):
    """The two documents of a ModelPack whose layers are in the store already."""

    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return digest.of_bytes(self.manifest)


def make(store: Store, subject: Descriptor, report: ImageReport) -> ModelPack:
    """Return the ModelPack of the image ``subject``, which has the layers of ``report``. Raises as the store does."""
    image = documents.read(store.document(subject.digest), f"{store.name}@{subject.digest}")
    labels = (image.annotations if isinstance(image, documents.Manifest) else None) or {}
    has_shards = any(
        path.endswith(weights.SHARD) for layer in report.layers for path in layer.files
    )
    config = digest.canonical_json(
        {
            "descriptor": _descriptor(labels),
            "config": {"format": "safetensors" if has_shards else "gguf"},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in report.layers]},
        }
    )
    manifest = digest.canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": {
                "mediaType": CONFIG,
                "digest": digest.of_bytes(config),
                "size": len(config),
            },
            "layers": [_layer(layer, report.path) for layer in report.layers],
            "subject": subject.plain(),
        }
    )
    return ModelPack(config, manifest)


def attach(store: Store, pack: ModelPack) -> str:
    """Store ``pack`` beside its image and return its digest. Raises as the store does."""
    config_digest = digest.of_bytes(pack.config)
    if not store.has(config_digest, len(pack.config)):
        store.add(Bytes(pack.config), config_digest, lambda _: None)
    return store.put(pack.manifest, MANIFEST, None)


def _descriptor(labels: Mapping[str, str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        field: labels[label] for field, label in _DESCRIPTOR.items() if label in labels
    }
    if spdx := labels.get(f"{OCI}licenses"):
        described["licenses"] = [spdx]
    return described


def _layer(layer: Layer, path: str) -> dict[str, Any]:
    home = weights.behind(path).lstrip("/")
    has_weights = any(name.endswith((weights.SHARD, _GGUF)) for name in layer.files)
    (only,) = layer.files if len(layer.files) == 1 else (None,)
    return {
        "mediaType": WEIGHT if has_weights else WEIGHT_CONFIG,
        "digest": layer.digest,
        "size": layer.size,
        "annotations": {
            FILE_PATH: f"{home}/{only}" if only else home,
            # oras writes a blob to a file of this name. The blob is a tar, so the name says that.
            f"{OCI}title": f"{only or 'configuration'}.tar",
        },
    }
