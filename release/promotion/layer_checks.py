"""Checks the layers of an image: recomputed from the model's files if they are here, else read from the store.

Every byte is read once and hashed twice: as part of its file and as part of its layer.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Never

from tqdm import tqdm

from checks.formats.serving import Layer
from checks.formats.statement import Release
from checks.storage import digest, layout
from release.adapters.registry.documents import Store
from release.image import tar, weights
from release.promotion.checklist import CheckResult
from release.promotion.environment import Promotion

_THREADS = 4  # hashing lets go of the interpreter
_FIX = "run `lockstep build`, verify and sign that"


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
    """Whether models/merged is meant to be this model: a checkout may have the next one. The bytes are hashed later."""
    path = root / layout.PARITY_REPORT
    signed = release.materials.reports.get(layout.PARITY_REPORT.as_posix())
    return path.is_file() and digest.of_file(path).sha256 == signed


def _of_files(planned: weights.Layer, signed: Layer, bar: "tqdm[Never]") -> str:
    """Why the files of a layer do not give the signed layer; "" if they do."""
    hasher = hashlib.sha256()
    for block in _told(planned.tar.blocks(), bar):
        hasher.update(block)
    made = f"sha256:{hasher.hexdigest()}"
    return "" if (made, planned.size) == (signed.digest, signed.size) else f"its files give {made}"


def _of_store(store: Store, planned: weights.Layer, signed: Layer, bar: "tqdm[Never]") -> str:
    """Why the layer in the store does not contain these files; "" if it does."""
    if signed.size != planned.size:
        return f"it has {signed.size:,} bytes, its files give {planned.size:,}"
    blocks = _told(store.blob(signed.digest, signed.size), bar)
    return tar.differs(blocks, planned.members, planned.link)


def _told(blocks: Iterable[bytes], bar: "tqdm[Never]") -> Iterator[bytes]:
    for block in blocks:
        bar.update(len(block))
        yield block
