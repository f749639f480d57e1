"""Checks that images and their evidence are in the registries that the pointers name, by digest.

A missing image cannot be made from git. Its evidence can be attached again, because git has the signed bytes.
"""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from checks.formats.pointer import Pointer
from checks.formats.statement import ENVELOPE
from checks.process.errors import BuildRefused, EvidenceRefused, Refusal, RegistryRefused
from checks.storage import digest
from release.adapters import deadline
from release.adapters.registry import documents, reference
from release.adapters.registry.documents import Store
from release.evidence import attach, attached_statements, dsse, sigstore
from release.image import stores
from release.image.layout import Layout
from release.ledger.released_pointers import Envelope
from release.mirrors.types import MirrorFinding, MirrorUnavailable

DEADLINE = 30.0  # seconds for the answers about one image
_NOTHING = digest.of_bytes(b"a blob that no image has")
_TITLE = "release.json"


class Image(NamedTuple):
    """A release that must still exist. ``why``: such as "staging runs it"."""

    pointer: Pointer
    envelope: Envelope | None
    why: str


def check(root: Path, images: Iterable[Image], fix: bool) -> list[MirrorFinding]:
    """Return what is missing where the pointers say it is. ``fix`` attaches missing evidence again."""
    return [finding for image in images for finding in _image(root, image, fix)]


def _image(root: Path, image: Image, fix: bool) -> list[MirrorFinding]:
    pointer = image.pointer
    what = f"image of {pointer.version}"
    try:
        place = reference.parse(pointer.image)
        if place.host is None and not (root / place.name).is_dir():
            raise MirrorUnavailable(f"{place.name} is not on this machine")
        store = stores.open_store(place, root)
        failures = deadline.within(DEADLINE, lambda: _failures(store, pointer.digest))
        if failures:
            git = f"{pointer.image}: {image.why}"
            todo = "push it again (`lockstep build --push`), or restore the registry"
            return [_drift(what, git, failure, todo=todo) for failure in failures]
        return _evidence(root, store, place, image, fix)
    except (MirrorUnavailable, BuildRefused, TimeoutError) as trouble:
        return [MirrorFinding(
            where="registry", what=what, git=f"{pointer.image}: {image.why}", mirror=str(trouble),
            severity="unreachable", todo="ask again where it can be reached",
        )]  # fmt: skip


def _failures(store: Store, image: str) -> list[str]:
    """Return what of an image is missing. Raises MirrorUnavailable if the store does not answer."""
    try:
        manifest = documents.read(store.document(image), f"{store.name}@{image}")
        if not isinstance(manifest, documents.Manifest):
            return [f"{store.name}@{image} is an index, not an image"]
        layers = ((f"layer {number}", layer) for number, layer in enumerate(manifest.layers, 1))
        blobs = (("its config", manifest.config), *layers)
        return [
            f"{name} {one.digest} is gone"
            for name, one in blobs
            if not store.has(one.digest, one.size)
        ]
    except RegistryRefused as refused:
        _answers(store)
        return [refused.what]


def _evidence(
    root: Path, store: Store, where: reference.Reference, image: Image, fix: bool
) -> list[MirrorFinding]:
    pointer = image.pointer
    if deadline.within(DEADLINE, lambda: _attached(store, pointer)):
        return []
    envelope = image.envelope
    finding = _drift(
        f"evidence of {pointer.version}", pointer.evidence, f"is not attached to {pointer.image}",
        fix="" if envelope is None else "attach it", todo="sign it again: `lockstep sign`" if envelope is None else "",
    )  # fmt: skip
    if not fix or envelope is None:
        return [finding]
    try:
        _attach(stores.open_store(where, root, push=True), pointer.digest, envelope.data)
        return [
            finding.model_copy(
                update={"fixed": deadline.within(DEADLINE, lambda: _attached(store, pointer))}
            )
        ]
    except Refusal as refused:
        todo = refused.todo
        return [
            finding.model_copy(
                update={"mirror": f"{finding.mirror}; {refused.what}", "fix": "", "todo": todo}
            )
        ]


def _attached(store: Store, its: Pointer) -> bool:
    """Tell whether the evidence that the pointer names is attached."""
    try:
        return any(
            digest.of_bytes(one.data) == its.evidence
            for kind in attached_statements.TYPES
            for one in attach.attached(store, its.digest, kind, dsse.LARGEST)
        )
    except EvidenceRefused as refused:
        raise MirrorUnavailable(refused.what) from None
    except RegistryRefused:
        _answers(store)
        return False


def _attach(store: Store, image: str, envelope: bytes) -> None:
    kind = sigstore.BUNDLE if "dsseEnvelope" in json.loads(envelope) else ENVELOPE
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        attach.attach(store, attach.subject(store, image), kind, envelope, _TITLE)


def _answers(store: Store) -> None:
    """Raise MirrorUnavailable if the store does not report a blob that nobody has as missing."""
    try:
        store.has(_NOTHING, 1)
    except RegistryRefused as refused:
        raise MirrorUnavailable(refused.what) from None


def _drift(what: str, git: str, mirror: str, *, fix: str = "", todo: str = "") -> MirrorFinding:
    return MirrorFinding(
        where="registry", what=what, git=git, mirror=mirror, severity="drift", fix=fix, todo=todo
    )
