"""The base image of a build: found by digest, for one platform; read and never unpacked."""

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from checks.formats.serving import BaseImage
from checks.process.errors import BuildRefused, RegistryRefused
from checks.records.record import Digest
from checks.storage import files
from release.adapters.registry import documents
from release.adapters.registry.documents import (
    CONFIG,
    LAYERS,
    Descriptor,
    Entry,
    Index,
    Manifest,
    Platform,
    Store,
)
from release.adapters.registry.reference import Reference

_CONFIGS = (CONFIG, "application/vnd.docker.container.image.v1+json")


class _Part(BaseModel):
    """A part of an image's config; fields that are not named here are copied unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Settings(_Part):
    Env: list[str] | None = None
    Labels: dict[str, str] | None = None
    Volumes: dict[str, Any] | None = None


class _Layers(_Part):
    diff_ids: list[Digest]


class _Config(_Part):
    os: str
    architecture: str
    variant: str | None = None
    config: _Settings | None = None
    rootfs: _Layers
    history: list[dict[str, Any]] | None = None


class Base(NamedTuple):
    """A base image: its entry for the report, its layers with OCI media types, its config as JSON values."""

    image: BaseImage
    reference: Reference
    layers: tuple[Descriptor, ...]
    config: dict[str, Any]


def resolve(store: Store, reference: Reference, platform: str, name: str) -> Base:
    """Read the base image for ``platform`` (such as linux/amd64); ``name`` is its name in params.yaml.

    Raises BuildRefused if it is not pinned, is for another platform, or has layers that cannot be copied;
    StoreUnavailable if it cannot be had, RegistryRefused if it is malformed or has other bytes.
    """
    if reference.digest is None:
        tag = reference.tag or ("latest" if reference.host else None)
        pinned = str(reference._replace(tag=tag, digest=store.document(tag or "").digest))
        raise BuildRefused(f"{name}: is not pinned: a tag moves", f"write serve.base: {pinned}")
    document = store.document(reference.digest)
    manifest = documents.read(document, name)
    index = None
    if isinstance(manifest, Index):
        index = reference.digest
        entry = _choose(manifest, platform, name)
        document = store.document(entry.digest)
        manifest = documents.read(document, f"{name}, {platform}")
        if not isinstance(manifest, Manifest):
            raise BuildRefused(
                f"{name}: is an index of indexes", "pin the manifest of one platform"
            )
    config, plain = _config(store, manifest, name)
    wanted = Platform(
        os=config.os, architecture=config.architecture, variant=config.variant or None
    )
    if not _same(wanted, platform):
        raise BuildRefused(
            f"{name}: is for {wanted}, not for {platform}",
            "pin an image for it, or change serve.platform",
        )
    layers = tuple(_layer(layer, name) for layer in manifest.layers)
    if len(config.rootfs.diff_ids) != len(layers):
        raise RegistryRefused(
            f"{name}: its config has {len(config.rootfs.diff_ids)} layers, its manifest {len(layers)}",
            "name another image",
        )
    image = BaseImage(
        name=name,
        index=index,
        manifest=document.digest,
        platform=platform,
        layers=len(layers),
        size=sum(layer.size for layer in layers),
    )
    return Base(image, reference, layers, plain)


def _choose(index: Index, platform: str, name: str) -> Entry:
    fitting = [
        entry for entry in index.manifests if entry.platform and _same(entry.platform, platform)
    ]
    chosen = [entry for entry in fitting if str(entry.platform) == platform] or fitting
    if len({entry.digest for entry in chosen}) == 1:
        return chosen[0]
    has = ", ".join(sorted({str(entry.platform) for entry in index.manifests if entry.platform}))
    what = "has no" if not chosen else "has several images for"
    raise BuildRefused(
        f"{name}: {what} {platform}; it has {has or 'no platforms'}",
        "pin an image for it, or change serve.platform",
    )


def _same(found: Platform, wanted: str) -> bool:
    """Whether a platform is the requested one; the variant counts only if one is requested."""
    return str(found).split("/")[: len(wanted.split("/"))] == wanted.split("/")


def _config(store: Store, manifest: Manifest, name: str) -> tuple[_Config, dict[str, Any]]:
    described = manifest.config
    if described.media_type not in _CONFIGS:
        raise BuildRefused(
            f"{name}: is not a container image but {described.media_type!r}",
            "pin a container image",
        )
    if described.size > documents.LARGEST_CONFIG:
        raise RegistryRefused(f"{name}: its config has {described.size} bytes", "pin another image")
    plain = documents.parse(
        b"".join(store.blob(described.digest, described.size)), f"{name}: config"
    )
    try:
        return _Config.model_validate(plain), plain
    except ValidationError as error:
        raise RegistryRefused(
            f"{name}: config: {files.first(error)}", "name another image"
        ) from error


def _layer(layer: Descriptor, name: str) -> Descriptor:
    if layer.media_type not in LAYERS:
        raise BuildRefused(
            f"{name}: layer {layer.digest} is {layer.media_type!r}, which cannot be passed on",
            "pin an image whose layers are its own tars",
        )
    return layer.model_copy(update={"media_type": LAYERS[layer.media_type]})
