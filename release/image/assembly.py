"""Assembles an image in its target: the layers that it lacks, then the config and the manifest."""

import functools

from checks.formats.serving import ImageReport, Layer
from checks.process import distribution
from checks.storage import digest
from release import runtimes
from release.adapters.registry.types import MANIFEST, Seen, Store
from release.image import image, transfer, weights
from release.image.image import Added
from release.image.layout import Bytes
from release.image.recipe import Recipe
from release.image.weights import Cache


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

    jobs: list[transfer.Job] = [functools.partial(send, layer) for layer in absent]
    if recipe.source:
        jobs += [transfer.copy(recipe.source, target, *blob) for blob in lacking.items()]
    if jobs:
        total = sum(layer.size for layer in absent) + sum(lacking.values())
        transfer.run(jobs, total, "build")
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
        layers=tuple(layers),
        size=documents + sum(layer.size for layer in added) + (base.size if base else 0),
        tool=distribution.version(),
    )
