"""What a key signed, where cosign, Kyverno and policy-controller look for it: in a registry only.

cosign 3 and Kyverno's type SigstoreBundle read every Sigstore bundle whose subject is the image; ``annotations`` say
what is in one. If there is any, cosign 3 looks no further, so the statement of the release needs a bundle too.
cosign 2 and policy-controller read the tag ``sha256-<hex>.att``: an image whose layers are DSSE envelopes.
`cosign verify` of version 2 reads ``sha256-<hex>.sig``: layers that say only which image was signed.
Lockstep trusts none of them. Whoever may push can move a tag, and whoever reads it verifies what is in it.
"""

import base64
import binascii
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signature  # type: ignore[attr-defined] # it has no __all__

from checks import digest
from checks.errors import RegistryRefused
from checks.formats.statement import ENVELOPE
from release.adapters.registry import documents
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import Manifest
from release.adapters.registry.types import CONFIG, MANIFEST, Descriptor
from release.evidence import attach, bundles, sigstore, strict
from release.image.layout import Bytes

_SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_NEVER = "0001-01-01T00:00:00Z"  # as cosign writes it: the same attestations give the same digest
_Layer = dict[str, Any]


def annotations(bundle: bytes) -> dict[str, str]:
    """What cosign 3 writes beside a bundle of a statement."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": bundles.predicate_type(bundle),
    }


def tag(image: str, kind: str = "att") -> str:
    """The tag of the attestations of the image with this digest, or with ``sig`` that of its signatures."""
    return f"{image.replace(':', '-')}.{kind}"


def write(store: Repository, to: Descriptor, release: bytes, provenance: bytes, key: CryptoSigner) -> None:
    """Write what ``key`` signed of the image ``to`` for other programs; what others wrote stays.

    ``release`` and ``provenance`` are envelopes, or bundles of one. The tags come last, because a registry may refuse
    to move one. Raises RegistryRefused if it does, or if a tag is no image.
    """
    bundle = bundles.wrap(release, key)
    attach.attach(store, to, sigstore.BUNDLE, bundle, "release.sigstore.json", annotations(bundle))
    name = tag(to.digest)
    layers = _there(store, name)
    known = {one["digest"] for one in layers}
    new = []
    for data in (strict.write(bundles.envelope(one)) for one in (release, provenance)):
        if digest.of_bytes(data) not in known:
            said = {_SIGNATURE: "", "predicateType": bundles.predicate_type(data)}
            new.append(_layer(store, ENVELOPE, data, said))
    _put(store, name, layers, new)
    name, claim = tag(to.digest, "sig"), _claim(store, to.digest)
    layers = _there(store, name)
    if not any(_by(one, claim, key) for one in layers):
        signature = base64.b64encode(bytes.fromhex(key.sign(claim).signature)).decode()
        _put(store, name, layers, [_layer(store, _SIMPLE, claim, {_SIGNATURE: signature})])


def _claim(store: Repository, image: str) -> bytes:
    """What `cosign sign` signs: a claim about an image, and nothing else."""
    critical = {
        "identity": {"docker-reference": f"{store.host}/{store.repository}"},
        "image": {"docker-manifest-digest": image},
        "type": "cosign container image signature",
    }
    return strict.write({"critical": critical, "optional": None})


def _by(layer: _Layer, claim: bytes, key: CryptoSigner) -> bool:
    """Whether a layer is ``claim`` signed by ``key``: another signer's has the same bytes, and another signature."""
    if layer["digest"] != digest.of_bytes(claim):
        return False
    try:
        signature = base64.b64decode((layer.get("annotations") or {}).get(_SIGNATURE, ""), validate=True)
        key.public_key.verify_signature(Signature(key.public_key.keyid, signature.hex()), claim)
    except (binascii.Error, ValueError, TypeError, AttributeError, UnverifiedSignatureError):
        return False
    return True


def _layer(store: Repository, media_type: str, data: bytes, annotations: dict[str, str]) -> _Layer:
    """Send ``data``; its descriptor."""
    found = store.add(Bytes(data), digest.of_bytes(data), lambda _: None)
    return {"mediaType": media_type, "digest": found, "size": len(data), "annotations": annotations}


def _put(store: Repository, name: str, there: list[_Layer], new: list[_Layer]) -> None:
    """Let a tag name an image of the layers that are there and the new ones, unless none is new."""
    if not new:
        return
    layers = [*there, *new]
    config = _config([one["digest"] for one in layers])
    found = store.add(Bytes(config), digest.of_bytes(config), lambda _: None)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": found, "size": len(config)},
        "layers": layers,
    }
    store.put(documents.write(manifest), MANIFEST, name)


def _there(store: Repository, name: str) -> list[_Layer]:
    document = store.tagged(name)
    if document is None:
        return []
    found = documents.read(document, f"{store.name}:{name}")
    if not isinstance(found, Manifest):
        raise RegistryRefused(
            f"{store.name}:{name}: is an index, not a list of signatures", "remove that tag, and sign again"
        )
    return [layer.plain() for layer in found.layers]


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
