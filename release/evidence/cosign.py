"""An image's attestations where cosign looks for them, and Kyverno and policy-controller, which use its code.

cosign 3 reads every Sigstore bundle whose subject is the image (``attach``); ``annotations`` say what is in one.
cosign 2 and the admission controllers read the tag ``sha256-<hex>.att``: an image whose layers are DSSE envelopes.
Nobody trusts that tag. Whoever may push can move it, and each envelope in it is verified by whoever reads it.
"""

from collections.abc import Iterable
from typing import Any

from checks import digest
from checks.errors import RegistryRefused
from checks.formats.statement import ENVELOPE
from release.adapters.registry import documents
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import Manifest
from release.adapters.registry.types import CONFIG, MANIFEST
from release.evidence import bundles, strict
from release.image.layout import Bytes

_NEVER = "0001-01-01T00:00:00Z"  # as cosign writes it: the same attestations give the same digest


def annotations(bundle: bytes) -> dict[str, str]:
    """What cosign 3 writes beside a bundle of a statement."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": bundles.predicate_type(bundle),
    }


def tag(image: str) -> str:
    """The tag of the attestations of the image with this digest."""
    return f"{image.replace(':', '-')}.att"


def write_tag(store: Repository, image: str, signed: Iterable[bytes]) -> None:
    """Add envelopes, or the envelopes of bundles signed by a key, to the tag of ``image``; what is there stays.

    Raises RegistryRefused if the registry refuses or the tag is no image.
    """
    layers = _there(store, tag(image))
    missing = [
        data for data in map(_envelope, signed) if digest.of_bytes(data) not in {one["digest"] for one in layers}
    ]
    if not missing:
        return
    for data in missing:
        layers.append(
            {
                "mediaType": ENVELOPE,
                "digest": store.add(Bytes(data), digest.of_bytes(data), lambda _: None),
                "size": len(data),
                "annotations": {
                    "dev.cosignproject.cosign/signature": "",
                    "predicateType": bundles.predicate_type(data),
                },
            }
        )
    config = _config([one["digest"] for one in layers])
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": store.add(Bytes(config), digest.of_bytes(config), lambda _: None),
            "size": len(config),
        },
        "layers": layers,
    }
    store.put(documents.write(manifest), MANIFEST, tag(image))


def _there(store: Repository, name: str) -> list[dict[str, Any]]:
    document = store.tagged(name)
    if document is None:
        return []
    found = documents.read(document, f"{store.name}:{name}")
    if not isinstance(found, Manifest):
        raise RegistryRefused(f"{store.name}:{name}: is an index, not attestations", "remove that tag, and sign again")
    return [layer.plain() for layer in found.layers]


def _envelope(data: bytes) -> bytes:
    return strict.write(bundles.envelope(data))


def _config(layers: list[str]) -> bytes:
    """An image's configuration; cosign reads it when it adds an attestation."""
    return documents.write(
        {
            "architecture": "",
            "config": {},
            "created": _NEVER,
            "history": [{"created": _NEVER} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": layers},
        }
    )
