"""build: add the merged weights to a serving image, if the verdict is `pass` and is about these bytes.

No daemon, no copy: each layer is read once, hashed and stored on the way, and what the store has already is not read
at all. The same record gives the same digest on every machine.
"""

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from checks import digest, layout
from checks import files as hand_over
from checks.digest import FileDigest
from checks.errors import BuildRefused, EvidenceRefused, MachineRefused
from checks.evidence import Count, Digest
from checks.params import Params
from checks.rows import Record
from checks.serving import BaseImage, CommitHash, ImageReport
from checks.serving import Layer as ReportedLayer
from release import commits, gate, runtimes
from release.oci import base as bases
from release.oci import image, reference, stores, transfer, weights
from release.oci.base import Base
from release.oci.image import About, Added
from release.oci.layout import Bytes, Layout
from release.oci.types import MANIFEST, Store
from release.runtimes import Runtime

MOST_LAYERS = 127  # of one image that Docker's overlay file system takes
KNOWN = layout.STATE / "blobs.json"  # which blobs of layouts were hashed here: release/oci/known.py

# What a commit must hold, so that it can be named as the record of the model.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)
# Not in the image, and named by reports whose digests the verdict holds.
_NOT_SHIPPED = (layout.BASE, layout.ADAPTER, layout.RAW)


class Options(NamedTuple):
    """Where the image goes (a registry's HOST/NAME[:TAG], or the folder of an OCI layout), and what else it is of."""

    push: str | None = None
    output: Path | None = None
    runtime: str | None = None
    base: str | None = None


class PlannedBlob(Record):
    """One blob of the image. ``digest`` is None where it is not known before its files are read."""

    kind: Literal["base", "weights", "config", "manifest"]
    title: str
    digest: Digest | None
    size: Count
    there: bool  # the target has it


class Plan(Record):
    """What `lockstep build` would do. Sizes are exact, in bytes."""

    target: str
    tag: str
    model: Digest
    path: str  # of the weights in the image
    commit: CommitHash
    runtime: str
    platform: str
    base: BaseImage | None
    blobs: tuple[PlannedBlob, ...]
    total: Count
    to_send: Count  # of blobs that the target lacks; what a registry can mount from the base's repository counts


class _Subject(NamedTuple):
    """All that decides the image, and where it goes."""

    params: Params
    runtime: Runtime
    about: About
    layers: tuple[weights.Layer, ...]
    base: Base | None
    source: Store | None  # of the base
    target: Store
    tag: str


def plan(root: Path, options: Options) -> Plan:
    """Say what ``build`` would do, and write nothing. Raises as ``build`` does, but for bytes that it does not read."""
    subject = _subject(root, options)
    cache = weights.Cache(root / layout.LAYERS)
    there = {layer.key: _there(subject.target, cache, layer) for layer in subject.layers}
    blobs = [
        PlannedBlob(
            kind="base", title=f"layer {number} of the base", digest=layer.digest, size=layer.size,
            there=subject.target.has(layer.digest, layer.size),
        )
        for number, layer in enumerate(subject.base.layers if subject.base else (), 1)
    ]  # fmt: skip
    for layer in subject.layers:
        found = there[layer.key]
        known = found or cache.get(layer)
        blobs.append(
            PlannedBlob(kind="weights", title=layer.title, digest=known, size=layer.size, there=found is not None)
        )
    # Every digest is equally long, so the documents' sizes are known before the layers are.
    digests = [there[layer.key] for layer in subject.layers]
    added = [_added(layer, found or subject.about.model) for layer, found in zip(subject.layers, digests, strict=True)]
    config, manifest = _documents(subject, added)
    settled = None not in digests
    found = digest.of_bytes(config) if settled else None
    blobs += [
        PlannedBlob(
            kind="config", title="config", digest=found, size=len(config),
            there=found is not None and subject.target.has(found, len(config)),
        ),
        PlannedBlob(
            kind="manifest", title="manifest", digest=digest.of_bytes(manifest) if settled else None,
            size=len(manifest), there=False,
        ),
    ]  # fmt: skip
    return Plan(
        target=subject.target.name, tag=subject.tag, model=subject.about.model, path=subject.about.path,
        commit=subject.about.commit, runtime=subject.runtime.name, platform=subject.runtime.platform,
        base=subject.base.image if subject.base else None, blobs=tuple(blobs),
        total=sum(blob.size for blob in blobs), to_send=sum(blob.size for blob in blobs if not blob.there),
    )  # fmt: skip


def build(root: Path, options: Options) -> ImageReport:
    """Build the image, store it, and write reports/image.json.

    Raises EvidenceRefused when the verdict is void, is about other bytes, or is not committed; VerdictFailed or
    VerdictInconclusive when it is not ``pass``; BuildRefused when the base is not pinned or does not fit, or the image
    would break a limit; RegistryRefused when a store does not take or give a blob. The tag is set last: after any
    failure, and when killed at any time, it is what it was.
    """
    subject = _subject(root, options)
    cache = weights.Cache(root / layout.LAYERS)
    target = subject.target
    with target.held() if isinstance(target, Layout) else contextlib.nullcontext():
        added = _send(subject, cache)
        config, manifest = _documents(subject, added)
        configured = digest.of_bytes(config)
        if not target.has(configured, len(config)):
            target.add(Bytes(config), configured, lambda _: None)
        found = target.put(manifest, MANIFEST, subject.tag)
        if isinstance(target, Layout):
            target.keep(found)
    report = _report(subject, added, found, len(config) + len(manifest))
    try:
        hand_over.write_json(root / layout.IMAGE_REPORT, report)
    except OSError as error:
        raise MachineRefused(
            f"{root / layout.IMAGE_REPORT}: {error.strerror or error}", f"make it writable; the image {found} is built"
        ) from error
    return report


def _subject(root: Path, options: Options) -> _Subject:
    """Hold the verdict and its record, and find all that the image is made of. Writes nothing, reads no weights."""
    held = gate.hold(root, trusting=(*_NOT_SHIPPED, layout.MERGED))
    if refused := gate.refusal(held.verdict):
        raise refused
    params, parity, model = held.params, held.evidence.reports.parity, held.verdict.model
    if parity is None or model is None:
        raise EvidenceRefused(f"{layout.VERDICT}: is about no model", "run `dvc repro`")
    described = {path: FileDigest(file.sha256, file.size) for path, file in parity.files.items()}
    layers = weights.layers(root / layout.MERGED, described, model, params.serve.name)
    about = _about(
        root,
        model,
        weights.place(params.serve.name, model),
        [Path(path) for path in held.verdict.judged if path.startswith("reports/")],
    )
    runtime = runtimes.load(options.runtime or params.serve.runtime)
    target, tag = _target(root, options, image.version(model))
    base, source = _base(root, options.base or params.serve.base, runtime)
    count = len(layers) + (len(base.layers) if base else 0)
    if count > MOST_LAYERS:
        raise BuildRefused(
            f"the image would have {count} layers, an engine takes {MOST_LAYERS}", "raise merge.shard_mb in params.yaml"
        )
    return _Subject(params, runtime, about, layers, base, source, target, tag)


def _about(root: Path, model: str, home: str, reports: list[Path]) -> About:
    """The commit that holds the record of the model. It must be there whole, or nobody else can find it."""
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None:
        raise EvidenceRefused(
            f"{root}: git has no commit that holds the record", "commit params.yaml, dvc.lock, reports/"
        )
    if commits.is_shallow(root):
        raise EvidenceRefused(
            "the clone is shallow: the commit of the record may be missing",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )
    if absent := commits.uncommitted(root, head, sorted({*_RECORD, *reports})):
        others = tuple(f"{path}: is not committed as it is here" for path in absent[1:])
        raise EvidenceRefused(
            f"{absent[0]}: is not committed as it is here", "commit the record, then build: the image names its commit",
            others,
        )  # fmt: skip
    commit = commits.last_touching(root, head, _RECORD)
    assert commit is not None  # all of them are in HEAD
    evidence = digest.of_file(root / layout.VERDICT).sha256
    return About(model, home, evidence, commit, commits.committed_at(root, commit))


def _target(root: Path, options: Options, version: str) -> tuple[Store, str]:
    if options.push is None:
        folder = root / layout.IMAGE if options.output is None else options.output
        return Layout(folder, root / KNOWN), version
    if options.output is not None:
        raise BuildRefused("an image goes to a registry or to a folder", "give one of --push and --output")
    named = reference.parse(options.push)
    if named.host is None or named.digest is not None:
        raise BuildRefused(f"{options.push!r}: is no place in a registry", "write it as HOST/NAME or HOST/NAME:TAG")
    return stores.open_store(named, root), named.tag or version


def _base(root: Path, name: str | None, runtime: Runtime) -> tuple[Base | None, Store | None]:
    if name is None:
        return None, None
    named = reference.parse(name)
    source = stores.open_store(named, root)
    return bases.resolve(source, named, runtime.platform, name), source


def _there(target: Store, cache: weights.Cache, layer: weights.Layer) -> str | None:
    """The layer's digest, when it is known and the target has it."""
    found = cache.get(layer)
    return found if found and target.has(found, layer.size) else None


def _send(subject: _Subject, cache: weights.Cache) -> list[Added]:
    """Store every layer that the target lacks; return those of the weights in order."""
    target, jobs, total = subject.target, [], 0
    found = {layer.key: _there(target, cache, layer) for layer in subject.layers}

    def sending(layer: weights.Layer) -> transfer.Job:
        def job(seen: Any) -> None:
            blob = layer.tar
            stored = target.add(blob, None, seen)
            weights.settle(layer, blob, stored)
            cache.put(layer, stored)
            found[layer.key] = stored

        return job

    for layer in subject.layers:
        if found[layer.key] is None:
            jobs.append(sending(layer))
            total += layer.size
    if subject.base and subject.source:
        for below, size in {layer.digest: layer.size for layer in subject.base.layers}.items():
            if not target.has(below, size):
                jobs.append(transfer.copy(subject.source, target, below, size))
                total += size
    if jobs:
        transfer.run(jobs, total, "build")
    return [_added(layer, found[layer.key] or "") for layer in subject.layers]


def _added(layer: weights.Layer, found: str) -> Added:
    return Added(found, layer.size, layer.title)


def _documents(subject: _Subject, added: list[Added]) -> tuple[bytes, bytes]:
    """Config and manifest of the image with these layers."""
    params, runtime, base = subject.params, subject.runtime, subject.base
    labels = image.annotations(subject.about, params, runtime, base)
    filled = runtimes.fill(runtime, params.serve, subject.about.path)
    config = image.config(subject.about, runtime, filled, base, added, labels)
    return config, image.manifest(image.described(config), base, added, labels)


def _report(subject: _Subject, added: list[Added], found: str, documents: int) -> ImageReport:
    about, base = subject.about, subject.base.image if subject.base else None
    below = len(weights.behind(about.path))  # a member's name has no slash in front, and one behind the folder
    return ImageReport(
        image=found,
        model=about.model,
        verdict=about.evidence,
        commit=about.commit,
        runtime=subject.runtime.name,
        path=about.path,
        base=base,
        layers=tuple(
            ReportedLayer(
                digest=layer.digest,
                size=layer.size,
                files={member.name[below:]: member.sha256 for member in source.members},
            )
            for layer, source in zip(added, subject.layers, strict=True)
        ),
        size=documents + sum(layer.size for layer in added) + (base.size if base else 0),
        tool=metadata.version("lockstep"),
    )
