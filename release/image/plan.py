"""The plan of a build: every blob of the image, and which of them the target has."""

from collections.abc import Sequence
from typing import Literal

from checks.formats.report import Count
from checks.formats.serving import BaseImage, CommitHash
from checks.records.identity import Digest
from checks.records.rows import Record
from checks.storage import digest
from release.image import assembly
from release.image.image import Added
from release.image.recipe import Recipe
from release.image.weights import Cache


class PlannedBlob(Record):
    """One blob of the image. ``digest`` is None if it is known only after its files are read."""

    kind: Literal["base", "weights", "config", "manifest"]
    title: str
    digest: Digest | None
    size: Count
    there: bool  # the target has it


class Plan(Record):
    """The plan of `lockstep build`. Sizes are exact, in bytes."""

    target: str
    tag: str
    model: Digest
    path: str  # The path of the weights in the image.
    commit: CommitHash
    runtime: str
    platform: str
    base: BaseImage | None
    blobs: tuple[PlannedBlob, ...]
    total: Count
    # Bytes of blobs that the target lacks, including those that a registry can mount from the base.
    to_send: Count


def plan(recipe: Recipe, cache: Cache) -> Plan:
    """Return what building ``recipe`` would store. Raises as the target does."""
    about = recipe.about
    stored = [assembly.stored(recipe.target, cache, layer) for layer in recipe.layers]
    blobs = (*_base(recipe), *_weights(recipe, cache, stored), *_documents(recipe, stored))
    return Plan(
        target=recipe.target.name,
        tag=recipe.tag,
        model=about.model,
        path=about.path,
        commit=about.commit,
        runtime=recipe.runtime.name,
        platform=recipe.runtime.platform_for(recipe.params.serve),
        base=recipe.base.image if recipe.base else None,
        blobs=blobs,
        total=sum(blob.size for blob in blobs),
        to_send=sum(blob.size for blob in blobs if not blob.there),
    )


def _base(recipe: Recipe) -> list[PlannedBlob]:
    return [
        PlannedBlob(
            kind="base",
            title=f"layer {number} of the base",
            digest=layer.digest,
            size=layer.size,
            there=recipe.target.has(layer.digest, layer.size),
        )
        for number, layer in enumerate(recipe.base.layers if recipe.base else (), 1)
    ]


def _weights(recipe: Recipe, cache: Cache, stored: Sequence[str | None]) -> list[PlannedBlob]:
    return [
        PlannedBlob(
            kind="weights",
            title=layer.title,
            digest=cache.get(layer),
            size=layer.size,
            there=layer_digest is not None,
        )
        for layer, layer_digest in zip(recipe.layers, stored, strict=True)
    ]


def _documents(recipe: Recipe, stored: Sequence[str | None]) -> tuple[PlannedBlob, PlannedBlob]:
    """Return the config and the manifest. All digests are equally long, so their sizes are known before the layers."""
    added = [
        Added(layer_digest or recipe.about.model, layer.size, layer.title)
        for layer, layer_digest in zip(recipe.layers, stored, strict=True)
    ]
    config, manifest = assembly.documents(recipe, added)
    known = None not in stored
    config_digest = digest.of_bytes(config)
    return (
        PlannedBlob(
            kind="config",
            title="config",
            digest=config_digest if known else None,
            size=len(config),
            there=known and recipe.target.has(config_digest, len(config)),
        ),
        PlannedBlob(
            kind="manifest",
            title="manifest",
            digest=digest.of_bytes(manifest) if known else None,
            size=len(manifest),
            there=False,
        ),
    )
