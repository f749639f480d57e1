"""build: adds the merged weights to a serving image, if the verdict is `pass` and is about these bytes.

It needs no Docker daemon and makes no copies: each layer is read once, hashed and stored in the same pass. Layers that
the store already has are not read. The same record gives the same digest on every machine.
"""

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Literal

from checks.config.release_params import Promote
from checks.decision.held import refusal as verdict_refusal
from checks.formats.report import Count
from checks.formats.serving import BaseImage, CommitHash, ImageReport, Layer
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.records.identity import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from release import runtimes
from release.adapters.registry.types import MANIFEST, Seen, Store
from release.image import image, transfer, weights
from release.image import recipe as recipes
from release.image.image import Added
from release.image.layout import Bytes, Layout
from release.image.recipe import BuildOptions, Recipe
from release.ledger import Ledger
from release.record import committed_code, running_code
from release.record.held import hold
from release.record.records import Records

__all__ = ["BuildOptions", "Plan", "PlannedBlob", "build", "plan"]

# Not in the image; reports name these digests, and the verdict covers the reports.
_NOT_SHIPPED = (layout.BASE, layout.ADAPTER, layout.RAW)
# A layout keeps so many images of one environment; all of them where the ledger does not answer.
_KEPT = 2


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


def write_down(root: Path, options: BuildOptions) -> Recipe:
    """Check the verdict and its record, and find every part of the image. Raises as ``build``."""
    running_code.check(root, committed=True)
    records = Records(root)
    held = hold(records, trusting=(*_NOT_SHIPPED, layout.MERGED))
    if refused := verdict_refusal(held.verdict):
        raise refused
    recipe = recipes.write_down(root, held, options)
    if others := committed_code.differences(
        root, recipe.about.commit, held.params, records.work_tree.lock
    ):
        todo = "commit the code, run `lockstep run`, and build from that record"
        raise EvidenceRefused(others[0], todo, tuple(others[1:]))
    return recipe


def plan(root: Path, options: BuildOptions) -> Plan:
    """Say what ``build`` would do, without writing anything.

    Raises as ``build``, except for faults in bytes that it does not read.
    """
    recipe = write_down(root, options)
    cache = weights.Cache(root / layout.LAYERS)
    there = {layer.key: _there(recipe.target, cache, layer) for layer in recipe.layers}
    blobs = [
        PlannedBlob(
            kind="base", title=f"layer {number} of the base", digest=layer.digest, size=layer.size,
            there=recipe.target.has(layer.digest, layer.size),
        )
        for number, layer in enumerate(recipe.base.layers if recipe.base else (), 1)
    ]  # fmt: skip
    for layer in recipe.layers:
        found = there[layer.key]
        known = found or cache.get(layer)
        blobs.append(
            PlannedBlob(
                kind="weights",
                title=layer.title,
                digest=known,
                size=layer.size,
                there=found is not None,
            )
        )
    # Every digest is equally long, so the documents' sizes are known before the layers are.
    digests = [there[layer.key] for layer in recipe.layers]
    added = [
        _added(layer, found or recipe.about.model)
        for layer, found in zip(recipe.layers, digests, strict=True)
    ]
    config, manifest = _documents(recipe, added)
    settled = None not in digests
    found = digest.of_bytes(config) if settled else None
    blobs += [
        PlannedBlob(
            kind="config", title="config", digest=found, size=len(config),
            there=found is not None and recipe.target.has(found, len(config)),
        ),
        PlannedBlob(
            kind="manifest", title="manifest", digest=digest.of_bytes(manifest) if settled else None,
            size=len(manifest), there=False,
        ),
    ]  # fmt: skip
    return Plan(
        target=recipe.target.name, tag=recipe.tag, model=recipe.about.model, path=recipe.about.path,
        commit=recipe.about.commit, runtime=recipe.runtime.name,
        platform=recipe.runtime.platform_for(recipe.params.serve), base=recipe.base.image if recipe.base else None,
        blobs=tuple(blobs), total=sum(blob.size for blob in blobs),
        to_send=sum(blob.size for blob in blobs if not blob.there),
    )  # fmt: skip


def build(root: Path, options: BuildOptions) -> ImageReport:
    """Build the image, store it, and write reports/image.json.

    Raises EvidenceRefused if the verdict does not hold, about other bytes or not committed; VerdictFailed or
    VerdictInconclusive if it is not ``pass``; BuildRefused if the base is not pinned or does not fit, or if the image
    would exceed a limit; RegistryRefused if a store does not accept or deliver a blob. The tag is set last: after a
    failure or a kill it is unchanged.
    """
    recipe = write_down(root, options)
    cache = weights.Cache(root / layout.LAYERS)
    target = recipe.target
    needed = _needed(root, recipe.params.promote) if isinstance(target, Layout) else None
    with target.held() if isinstance(target, Layout) else contextlib.nullcontext():
        added = _send(recipe, cache)
        config, manifest = _documents(recipe, added)
        configured = digest.of_bytes(config)
        if not target.has(configured, len(config)):
            target.add(Bytes(config), configured, lambda _: None)
        found = target.put(manifest, MANIFEST, recipe.tag)
        if isinstance(target, Layout) and needed is not None:
            target.keep(found, *needed)
    report = _report(recipe, added, found, len(config) + len(manifest))
    try:
        files.write_json(root / layout.IMAGE_REPORT, report)
    except OSError as error:
        raise MachineRefused(
            f"{root / layout.IMAGE_REPORT}: {error.strerror or error}",
            f"make it writable; the image {found} is built",
        ) from error
    return report


def _needed(root: Path, promote: Promote) -> list[str] | None:
    """The images that environments run and those that a rollback would return to; None if that is unknown."""
    try:
        ledger = Ledger.open(root, promote)
        tip, found = ledger.tip(), list[str]()
        for name in promote.environments:
            ran = (move.after.digest for move in ledger.moves(tip, name) if move.ran and move.after)
            found += list(dict.fromkeys(ran))[:_KEPT]
    except Refusal:
        return None
    return found


def _there(target: Store, cache: weights.Cache, layer: weights.Layer) -> str | None:
    """The digest of the layer, if it is known and the target store has the layer."""
    found = cache.get(layer)
    return found if found and target.has(found, layer.size) else None


def _send(recipe: Recipe, cache: weights.Cache) -> list[Added]:
    """Store every layer that the target does not have. Returns the layers of the weights, in order."""
    target, jobs, total = recipe.target, [], 0
    found = {layer.key: _there(target, cache, layer) for layer in recipe.layers}

    def sending(layer: weights.Layer) -> transfer.Job:
        def job(seen: Seen) -> None:
            stored = target.add(layer.tar, None, seen)
            cache.put(layer, stored)
            found[layer.key] = stored

        return job

    for layer in recipe.layers:
        if found[layer.key] is None:
            jobs.append(sending(layer))
            total += layer.size
    if recipe.base and recipe.source:
        for below, size in {layer.digest: layer.size for layer in recipe.base.layers}.items():
            if not target.has(below, size):
                jobs.append(transfer.copy(recipe.source, target, below, size))
                total += size
    if jobs:
        transfer.run(jobs, total, "build")
    return [_added(layer, found[layer.key] or "") for layer in recipe.layers]


def _added(layer: weights.Layer, found: str) -> Added:
    return Added(found, layer.size, layer.title)


def _documents(recipe: Recipe, added: list[Added]) -> tuple[bytes, bytes]:
    """The config and manifest of the image with these layers."""
    params, runtime, base = recipe.params, recipe.runtime, recipe.base
    labels = image.annotations(recipe.about, params, runtime, base)
    filled = runtimes.fill(runtime, params.serve, recipe.about.path)
    config = image.config(recipe.about, runtime, filled, base, added, labels)
    return config, image.manifest(image.described(config), base, added, labels)


def _report(recipe: Recipe, added: list[Added], found: str, documents: int) -> ImageReport:
    about, base = recipe.about, recipe.base.image if recipe.base else None
    # A member's name has no slash in front, and one behind the folder.
    below = len(weights.behind(about.path))
    return ImageReport(
        image=found,
        place=recipe.place,
        model=about.model,
        verdict=about.evidence,
        commit=about.commit,
        runtime=recipe.runtime.name,
        path=about.path,
        base=base,
        layers=tuple(
            Layer(
                digest=layer.digest,
                size=layer.size,
                files={member.name[below:]: member.sha256 for member in source.members},
            )
            for layer, source in zip(added, recipe.layers, strict=True)
        ),
        size=documents + sum(layer.size for layer in added) + (base.size if base else 0),
        tool=metadata.version("lockstep"),
    )
