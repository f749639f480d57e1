"""Manifests and indexes as typed values: read strictly, in OCI's words and in Docker's (manifest v2, schema 2)."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from checks.process.errors import RegistryRefused
from checks.storage import files
from release.adapters.registry.types import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
    Document,
)

# The bytes of a manifest or index that registries must take (distribution specification 1.1).
LARGEST = 4 << 20
LARGEST_CONFIG = 16 << 20
INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)


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
