"""Artifacts attached to an image: manifests whose subject is the image (OCI image specification 1.1).

Nothing found here is trusted, because anyone who may push may attach. Callers verify the bytes.

A statement that a key on disk signed becomes a Sigstore bundle: the form in which cosign, Kyverno and `model_signing`
look for signatures. cosign and Kyverno read every bundle whose subject is the image. ``annotations`` say what is in
one.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused
from checks.storage.digest import canonical_json, of_bytes
from release.adapters.registry import documents
from release.adapters.registry.documents import MANIFEST, Descriptor, Store
from release.evidence import keys, sigstore
from release.image.layout import Bytes

EMPTY = "application/vnd.oci.empty.v1+json"
_NOTHING = b"{}"
_NOTHING_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
_MOST = 100  # artifacts of one type that are read of one image


class Artifact(NamedTuple):
    """An attached artifact: its manifest's digest, and the bytes of its only layer."""

    digest: str
    data: bytes


def subject(store: Store, image: str) -> Descriptor:
    """Return the descriptor of the image with digest ``image``. Raises RegistryRefused if it is missing."""
    document = store.document(image)
    return Descriptor(media_type=document.media_type, digest=image, size=len(document.data))


def has_layers(store: Store, image: str, report: ImageReport) -> bool:
    """Tell whether the layers of an image are those of its base and then exactly those of the report."""
    manifest = documents.read(store.document(image), f"{store.name}@{image}")
    layers = (
        [(layer.digest, layer.size) for layer in manifest.layers]
        if isinstance(manifest, documents.Manifest)
        else []
    )
    reported = [(layer.digest, layer.size) for layer in report.layers]
    below = report.base.layers if report.base else 0
    return len(layers) == below + len(reported) and layers[below:] == reported


def attach(
    store: Store,
    to: Descriptor,
    artifact_type: str,
    data: bytes,
    title: str,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Attach ``data`` to an image and return the artifact's digest. The same data is attached only once.

    A store in a folder must be locked (``Layout.held``). Raises as the store does.
    """
    if not store.has(_NOTHING_DIGEST, len(_NOTHING)):
        store.add(Bytes(_NOTHING), _NOTHING_DIGEST, lambda _: None)
    layer = store.add(Bytes(data), None, lambda _: None)
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": EMPTY, "digest": _NOTHING_DIGEST, "size": len(_NOTHING)},
            "layers": [
                {
                    "mediaType": artifact_type,
                    "digest": layer,
                    "size": len(data),
                    "annotations": {"org.opencontainers.image.title": title},
                }
            ],
            "subject": to.plain(),
            **({"annotations": dict(annotations)} if annotations else {}),
        }
    )
    return store.put(manifest, MANIFEST, None)


def attached(
    store: Store,
    image: str,
    artifact_type: str,
    largest: int,
    report: Callable[[str], object] = lambda _: None,
) -> Iterator[Artifact]:
    """Yield the artifacts of one type attached to ``image``. The reason why one is ignored is passed to ``report``.

    Raises EvidenceRefused if there are more than the limit, and as the store does if it does not answer.
    """
    referrers = store.referrers(image)
    descriptors = [
        one for one in referrers if (one.model_extra or {}).get("artifactType") == artifact_type
    ]
    if len(descriptors) > _MOST:
        raise EvidenceRefused(
            f"{store.name}: {len(descriptors)} artifacts of {artifact_type} are attached to {image}, {_MOST} are read",
            "remove those that are not yours",
        )
    for one in descriptors:
        name = f"{store.name}@{one.digest}"
        manifest = documents.read(store.document(one.digest), name)
        layers = manifest.layers if isinstance(manifest, documents.Manifest) else ()
        if (
            not isinstance(manifest, documents.Manifest)
            or manifest.subject is None
            or manifest.subject.digest != image
        ):
            report(f"{name}: is not attached to {image}")
        elif len(layers) != 1 or layers[0].media_type != artifact_type:
            report(f"{name}: is not an artifact with one layer of {artifact_type}")
        elif layers[0].size > largest:
            report(f"{name}: has {layers[0].size:,} bytes, at most {largest:,} are read")
        else:
            yield Artifact(one.digest, b"".join(store.blob(layers[0].digest, layers[0].size)))


def wrap(signed: bytes, key: CryptoSigner) -> bytes:
    """Return the bundle of an envelope that ``key`` signed: the same signature, so the same bytes each time."""
    plain = envelope(signed)
    signatures = [one | {"keyid": ""} for one in plain["signatures"]]  # the bundle's hint says it
    hint = of_bytes(keys.pem(key.public_key).encode()).removeprefix("sha256:")
    return canonical_json(
        {
            "mediaType": sigstore.BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": plain | {"signatures": signatures},
        }
    )


def envelope(data: bytes) -> dict[str, Any]:
    """Return the DSSE envelope in ``data``, which is one or is a bundle of one; its signature was checked."""
    plain: dict[str, Any] = json.loads(data)
    signed: dict[str, Any] = plain.get("dsseEnvelope", plain)
    return signed


def annotations(bundle: bytes) -> dict[str, str]:
    """Return what cosign writes beside a bundle of a statement."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type(bundle),
    }


def predicate_type(data: bytes) -> str:
    """Return the predicate's type of the statement in an envelope or bundle whose signature was checked."""
    statement: dict[str, str] = json.loads(base64.b64decode(envelope(data)["payload"]))
    return statement["predicateType"]
