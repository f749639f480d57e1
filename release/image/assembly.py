"""Plans an image and assembles it in its target: the layers that it lacks, then the config and the manifest.

Blobs are copied several at once: existing ones are skipped, and the first failure ends the rest.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Literal

from tqdm import tqdm

from checks.formats.report import Count
from checks.formats.serving import BaseImage, ImageReport, Layer
from checks.process import distribution
from checks.records.record import CommitHash, Digest
from checks.records.rows import Record
from checks.storage import digest
from release import runtimes
from release.adapters.registry.documents import MANIFEST, Seen, Store
from release.image import image, weights
from release.image.image import Added
from release.image.layout import Bytes
from release.image.recipe import Recipe
from release.image.weights import Cache

WORKERS = 4

Job = Callable[[Callable[[int], object]], object]  # is told how to report bytes


class _Stopped(Exception):  # noqa: N818 - no error: another blob failed
    """Ends a transfer from within."""


class Borrowed:
    """A Blob in another store, which checks its digest at each reading."""

    def __init__(self, store: Store, digest: str, size: int) -> None:
        self._store = store
        self._digest = digest
        self.size = size

    def blocks(self) -> Iterator[bytes]:
        """All bytes."""
        return self._store.blob(self._digest, self.size)


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


def assemble(recipe: Recipe, cache: Cache) -> ImageReport:
    """Store the image and return its report. The tag is set last: after a failure it is unchanged.

    Raises EvidenceRefused if a file changed, RegistryRefused if a store does not accept or deliver a blob.
    """
    target = recipe.target
    added = _send(recipe, cache)
    config, manifest = documents(recipe, added)
    config_digest = digest.of_bytes(config)
    if not target.has(config_digest, len(config)):
        target.add(Bytes(config), config_digest, lambda _: None)
    stored_image = target.put(manifest, MANIFEST, recipe.tag)
    return _report(recipe, added, stored_image, len(config) + len(manifest))


def documents(recipe: Recipe, added: list[Added]) -> tuple[bytes, bytes]:
    """Return the config and manifest of the image with these layers."""
    params, runtime, base = recipe.params, recipe.runtime, recipe.base
    labels = image.annotations(recipe.about, params, runtime, base)
    filled = runtimes.fill(runtime, params.serve, recipe.about.path)
    config = image.config(recipe.about, runtime, filled, base, added, labels)
    return config, image.manifest(config, base, added, labels)


def stored(target: Store, cache: Cache, layer: weights.Layer) -> str | None:
    """Return the digest of the layer, if it is known and the target has the layer."""
    layer_digest = cache.get(layer)
    has_it = layer_digest is not None and target.has(layer_digest, layer.size)
    return layer_digest if has_it else None


def _send(recipe: Recipe, cache: Cache) -> list[Added]:
    """Store every layer that the target lacks. Return the layers of the weights, in order."""
    target, base = recipe.target, recipe.base
    digests = {layer.key: stored(target, cache, layer) for layer in recipe.layers}
    absent = [layer for layer in recipe.layers if digests[layer.key] is None]
    below = {layer.digest: layer.size for layer in base.layers} if base else {}
    lacking = {name: size for name, size in below.items() if not target.has(name, size)}

    def send(layer: weights.Layer, seen: Seen) -> None:
        layer_digest = target.add(layer.tar, None, seen)
        cache.put(layer, layer_digest)
        digests[layer.key] = layer_digest

    jobs: list[Job] = [functools.partial(send, layer) for layer in absent]
    if recipe.source:
        jobs += [copy_job(recipe.source, target, *blob) for blob in lacking.items()]
    if jobs:
        total = sum(layer.size for layer in absent) + sum(lacking.values())
        run_jobs(jobs, total)
    return [Added(digests[layer.key] or "", layer.size, layer.title) for layer in recipe.layers]


def _report(recipe: Recipe, added: list[Added], stored_image: str, documents: int) -> ImageReport:
    about, base = recipe.about, recipe.base.image if recipe.base else None
    # A member's name has no slash in front, and one behind the folder.
    below = len(weights.behind(about.path))
    layers = [
        Layer(
            digest=layer.digest,
            size=layer.size,
            files={member.name[below:]: member.sha256 for member in source.members},
        )
        for layer, source in zip(added, recipe.layers, strict=True)
    ]
    return ImageReport(
        image=stored_image,
        place=recipe.place,
        model=about.model,
        verdict=about.evidence,
        commit=about.commit,
        runtime=recipe.runtime.name,
        path=about.path,
        base=base,
        server=None if base else recipe.params.serve.server,
        layers=tuple(layers),
        size=documents + sum(layer.size for layer in added) + (base.size if base else 0),
        tool=distribution.version(),
    )


def planned(recipe: Recipe, cache: Cache) -> Plan:
    """Return what building ``recipe`` would store. Raises as the target does."""
    about, target = recipe.about, recipe.target
    digests = [stored(target, cache, layer) for layer in recipe.layers]
    # All digests are equally long, so the sizes of config and manifest are known before the layers are hashed.
    added = [
        Added(layer_digest or about.model, layer.size, layer.title)
        for layer, layer_digest in zip(recipe.layers, digests, strict=True)
    ]
    config, manifest = documents(recipe, added)
    known = None not in digests
    config_digest = digest.of_bytes(config) if known else None
    base = [
        PlannedBlob(
            kind="base",
            title=f"layer {number} of the base",
            digest=layer.digest,
            size=layer.size,
            there=target.has(layer.digest, layer.size),
        )
        for number, layer in enumerate(recipe.base.layers if recipe.base else (), 1)
    ]
    weights_blobs = [
        PlannedBlob(
            kind="weights",
            title=layer.title,
            digest=cache.get(layer),
            size=layer.size,
            there=layer_digest is not None,
        )
        for layer, layer_digest in zip(recipe.layers, digests, strict=True)
    ]
    config_blob = PlannedBlob(
        kind="config",
        title="config",
        digest=config_digest,
        size=len(config),
        there=config_digest is not None and target.has(config_digest, len(config)),
    )
    manifest_blob = PlannedBlob(
        kind="manifest",
        title="manifest",
        digest=digest.of_bytes(manifest) if known else None,
        size=len(manifest),
        there=False,
    )
    blobs = (*base, *weights_blobs, config_blob, manifest_blob)
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


def copy_job(source: Store, target: Store, digest: str, size: int) -> Job:
    """Copy one blob between stores: mounted within one registry, else streamed."""
    from release.adapters.registry.client import Repository  # It imports requests.

    def job(seen: Callable[[int], object]) -> None:
        if isinstance(target, Repository) and target.borrow(digest, size, source):
            seen(size)
        else:
            target.add(Borrowed(source, digest, size), digest, seen)

    return job


def run_jobs(jobs: Iterable[Job], total: int) -> None:
    """Run all jobs, ``WORKERS`` at a time, with one progress bar of ``total`` bytes.

    The first failure or interrupt ends the others at their next block, and is raised.
    """
    stop, lock = threading.Event(), threading.Lock()
    with tqdm(total=total, desc="build", unit="B", unit_scale=True, disable=None) as bar:

        def seen(count: int) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                bar.update(count)

        with ThreadPoolExecutor(WORKERS) as pool:
            pending = {pool.submit(job, seen) for job in jobs}
            try:
                done, _ = wait(pending, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
