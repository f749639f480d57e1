"""Checks an image in its store: composes it again from the signed parts, and compares the digests.

A build is a function of the record, the runtime and the base. So composing again gives the same config and manifest,
and an image that anyone changed has another digest. The layers are recomputed from the model's files if they are here,
else read from the store: every byte is read once and hashed twice, as part of its file and as part of its layer.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Never

from tqdm import tqdm

from checks.formats.serving import ImageReport, Layer
from checks.formats.statement import Release
from checks.process.errors import BuildRefused, EvidenceRefused, RegistryRefused
from checks.storage import digest, layout
from release import runtimes
from release.adapters import commits
from release.adapters.registry import documents, reference
from release.adapters.registry.documents import Store, StoreUnavailable
from release.adapters.retries import Patience
from release.image import base as bases
from release.image import image as images
from release.image import stores, tar, weights
from release.promotion.checklist import CheckResult, ImageRecord, StoredImage
from release.promotion.environment import Case, Promotion
from release.runtimes import lookup

_THREADS = 8  # So many blobs are asked for, or hashed, at once.
# Try only briefly: the statement names the base, too.
_HASTY = Patience(tries=2, in_all=2, first=0.2, longest=0.5, on_request=1)
_FIX = "run `lockstep build` with this version of Lockstep, verify and sign that"


def open_place(root: Path, named: reference.Reference) -> Store:
    """The store of an image. In a folder every blob is hashed: what a build remembers of blobs can be changed."""
    return stores.open_store(named, root)


def there(store: Store, image: str) -> StoredImage:
    """The image with the digest ``image``: its config is read, and every blob must be in the store, complete.

    Raises RegistryRefused if a part is missing, EvidenceRefused if it is not an image.
    """
    place = f"{store.name}@{image}"
    manifest = documents.read(store.document(image), place)
    if not isinstance(manifest, documents.Manifest):
        raise EvidenceRefused(
            f"{place}: is an index, not an image", "name the image of one platform"
        )
    blobs = {layer.digest: layer.size for layer in manifest.layers}
    lost, total = list[str](), sum(blobs.values())
    with (
        tqdm(
            total=total, desc="check", unit="B", unit_scale=True, disable=None, leave=False
        ) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for (blob, size), is_there in zip(
            blobs.items(), pool.map(lambda blob: store.has(*blob), blobs.items()), strict=True
        ):
            bar.update(size)
            lost += [] if is_there else [blob]
    RegistryRefused.raise_for(
        (f"{place}: layer {blob} is missing or incomplete" for blob in lost), "push the image again"
    )
    if manifest.config.size > documents.LARGEST_CONFIG:
        raise RegistryRefused(
            f"{place}: its config has {manifest.config.size:,} bytes", "build the image again"
        )
    data = b"".join(store.blob(manifest.config.digest, manifest.config.size))
    return StoredImage(store, manifest, documents.parse(data, f"{place}: config"))


def complete(case: Case, store: Store, result: CheckResult) -> None:
    """Check that every part of the image is in ``store``."""
    stored = there(store, case.digest)
    case.image.value = stored
    result.note = f"{len(stored.manifest.layers)} layers in {store.name}"


def composed(promotion: Promotion, result: CheckResult) -> None:
    """Check that the image is exactly the base, the layers of the weights and the configuration of this runtime."""
    root = promotion.context.root
    stored = promotion.image.get()
    release = promotion.release()
    recorded = promotion.recorded.get()
    report = release.image
    layers = [(layer.digest, layer.size) for layer in stored.manifest.layers]
    wanted = [(layer.digest, layer.size) for layer in report.layers]
    below = report.base.layers if report.base else 0
    if layers[below : below + len(wanted)] != wanted or len(layers) < below + len(wanted):
        result.fail(
            f"its {len(layers)} layers are not {below} of its base and then those of the weights",
            _FIX,
        )
    elif over := layers[below + len(wanted) :]:
        result.fail(
            f"{len(over)} layers come after those of the weights and may hide them: {over[0][0]}",
            _FIX,
        )
    if result.failures:
        return
    base = _base(root, stored, report, result)
    if result.failures:
        return
    if base and [(layer.digest, layer.size) for layer in base.layers] != layers[:below]:
        result.fail(f"its lowest {below} layers are not those of {base.image.name}", _FIX)
        return
    result.fail_each(_differences(root, stored, release, recorded, base), _FIX)


def _base(
    root: Path, found: StoredImage, report: ImageReport, result: CheckResult
) -> bases.Base | None:
    """The base image from its registry; if that cannot be had, the signed layer digests in the image are used.

    None without a base, and with a failure for one that a build would refuse, such as an image for other processors, or
    whose registry or folder gives other bytes than its digest says.
    """
    if report.base is None:
        return None
    from release.adapters.registry.client import Repository  # It imports requests.

    named = reference.parse(report.base.name)
    hasty = (
        Repository(named.host, named.name, patience=_HASTY)
        if named.host
        else stores.open_store(named, root)
    )
    try:
        real = bases.resolve(hasty, named, report.base.platform, report.base.name)
    except BuildRefused as refused:
        result.fail(refused.what, _FIX)  # it answers, and is another image than a build would take
        return None
    except StoreUnavailable as refused:
        result.note = f"{refused.what}: the signed layer digests are used"
    except RegistryRefused as refused:
        result.fail(refused.what, refused.todo)
        return None
    else:
        result.note = f"on {report.base.name}"
        return real
    count = len(report.layers)
    plain, rootfs = dict(found.config), dict(found.config.get("rootfs") or {})
    plain["rootfs"] = rootfs | {"diff_ids": (rootfs.get("diff_ids") or [])[:-count]}
    plain["history"] = (plain.get("history") or [])[:-count]
    return bases.Base(report.base, named, found.manifest.layers[:-count], plain)


def _differences(
    root: Path, found: StoredImage, release: Release, recorded: ImageRecord, base: bases.Base | None
) -> Iterator[str]:
    """How the image differs from what a build would make; empty if it is the same."""
    report, params = release.image, recorded.params
    runtime = lookup.at(root, report.commit, report.runtime)
    filled = runtimes.fill(runtime, params.serve, report.path)
    created = commits.committed_at(root, report.commit)
    about = images.About(report.model, report.path, report.verdict, report.commit, created)
    planned = weights.arranged(root, recorded.files, report.model, params.serve.name)
    added = [
        images.Added(one.digest, one.size, other.title)
        for one, other in zip(report.layers, planned, strict=True)
    ]
    labels = images.annotations(about, params, runtime, base)
    config = images.config(about, runtime, filled, base, added, labels)
    manifest, *older = (
        images.manifest(config, base, added, labels, name) for name in images.LAYER_NAMES
    )
    if report.base and report.base.platform != filled.platform:
        yield f"its base is for {report.base.platform}, but a build would use {filled.platform}"
        return
    if report.image in map(digest.of_bytes, (manifest, *older)):
        return
    one = _fields(
        found.config, found.manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    )
    other = _fields(json.loads(config), json.loads(manifest))
    different = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    for key in different:
        found_here, wanted = _apart(one.get(key), other.get(key))
        yield f"{key} is {_shown(found_here)}, a build gives {_shown(wanted)}"
    if not different:
        yield f"its manifest differs: a build gives {digest.of_bytes(manifest)}"


def _fields(config: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """The parts of an image that can differ, by a readable name."""
    settings, labels = config.get("config"), manifest.get("annotations")
    return {
        **{f"config {key}": value for key, value in config.items() if key != "config"},
        **{
            f"config {key}": value
            for key, value in (settings if isinstance(settings, dict) else {}).items()
        },
        **{
            f"annotation {key}": value
            for key, value in (labels if isinstance(labels, dict) else {}).items()
        },
        "list of layers": manifest.get("layers"),
    }


def _apart(one: Any, other: Any) -> tuple[Any, Any]:
    """The items of only one of two lists, if they differ in more than order."""
    if isinstance(one, list) and isinstance(other, list):
        apart = (
            [item for item in one if item not in other],
            [item for item in other if item not in one],
        )
        return apart if any(apart) else (one, other)
    return one, other


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 200 else f"{text[:199]}…"


def held(promotion: Promotion, result: CheckResult) -> None:
    """Check that the signed layers contain exactly the model's files.

    Raises EvidenceRefused if files here differ from the model's, RegistryRefused if the store holds other bytes.
    """
    root = promotion.context.root
    store = promotion.image.get().store
    release = promotion.release()
    recorded = promotion.recorded.get()
    report, folder, name = release.image, root / layout.MERGED, recorded.params.serve.name
    here = folder.is_dir() and _is_of(root, release)
    planned = (weights.layers if here else weights.arranged)(
        folder, recorded.files, report.model, name
    )
    if (path := weights.place(name, report.model)) != report.path:
        result.fail(f"its weights are at {report.path}, not at {path}", _FIX)
    if len(planned) != len(report.layers):
        result.fail(
            f"it has {len(report.layers)} layers of weights, the model gives {len(planned)}", _FIX
        )
        return
    total = sum(layer.size for layer in planned)
    with (
        tqdm(
            total=total,
            desc="hash" if here else "read",
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        ) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        jobs = [
            pool.submit(_of_files, layer, signed, bar)
            if here
            else pool.submit(_of_store, store, layer, signed, bar)
            for layer, signed in zip(planned, report.layers, strict=True)
        ]
        for layer, signed, job in zip(planned, report.layers, jobs, strict=True):
            if failure := job.result():
                result.fail(f"layer {signed.digest} is not of {layer.title}: {failure}", _FIX)
    result.note = f"{total:,} bytes {'hashed here' if here else f'read from {store.name}'}"


def _is_of(root: Path, release: Release) -> bool:
    """Tell by its report whether models/merged is this model, not the next one. The bytes are hashed later."""
    path = root / layout.PARITY_REPORT
    signed = release.materials.reports.get(layout.PARITY_REPORT.as_posix())
    return path.is_file() and digest.of_file(path).sha256 == signed


def _of_files(planned: weights.Layer, signed: Layer, bar: "tqdm[Never]") -> str:
    """Say why the files of a layer do not give the signed layer; "" if they do."""
    hasher = hashlib.sha256()
    for block in _told(planned.tar.blocks(), bar):
        hasher.update(block)
    made = f"sha256:{hasher.hexdigest()}"
    return "" if (made, planned.size) == (signed.digest, signed.size) else f"its files give {made}"


def _of_store(store: Store, planned: weights.Layer, signed: Layer, bar: "tqdm[Never]") -> str:
    """Say why the layer in the store does not contain these files; "" if it does."""
    if signed.size != planned.size:
        return f"it has {signed.size:,} bytes, its files give {planned.size:,}"
    blocks = _told(store.blob(signed.digest, signed.size), bar)
    return tar.differs(blocks, planned.members, planned.link)


def _told(blocks: Iterable[bytes], bar: "tqdm[Never]") -> Iterator[bytes]:
    for block in blocks:
        bar.update(len(block))
        yield block
