"""Everything that decides an image: a passing verdict about these bytes, the base, the runtime and the target.

Nothing is written here, and no weights are read.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.decision.held import HeldVerdict
from checks.formats import placeholder_cards
from checks.process.errors import BuildRefused, EvidenceRefused
from checks.storage import digest, layout
from release.adapters import commits
from release.adapters.registry import limits, reference
from release.adapters.registry.documents import Store
from release.image import base as bases
from release.image import image, stores, weights
from release.image.layout import Layout
from release.runtimes import Runtime, compatibility, lookup

MOST_LAYERS = 127  # Docker's overlay file system takes so many layers.
# Names the blobs of layouts that were hashed on this machine (release/image/hash_cache.py).
KNOWN = layout.STATE / "blobs.json"

# The files that a commit must have to be named as the record of the model.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.CODE_LOCK, layout.VERDICT)
_CONFIG = "config.json"


class BuildOptions(NamedTuple):
    """The target (HOST/NAME[:TAG] in a registry, or the folder of an OCI layout), and replacements for params.yaml."""

    push: str | None = None
    output: Path | None = None
    runtime: str | None = None
    base: str | None = None


class Recipe(NamedTuple):
    """Everything that decides the image. It is sent to ``target``, which reports call ``place``.

    ``source`` is the store of the base.
    """

    params: Params
    runtime: Runtime
    about: image.About
    layers: tuple[weights.Layer, ...]
    base: bases.Base | None
    source: Store | None
    target: Store
    place: str
    tag: str


def write_down(root: Path, held: HeldVerdict, options: BuildOptions) -> Recipe:
    """Find everything that the image is made of. Raises as ``build.build``.

    ``held``: the verdict, which passes.
    """
    params, parity, model = held.params, held.evidence.reports.parity, held.verdict.model
    if parity is None or model is None:
        raise EvidenceRefused(f"{layout.VERDICT}: is about no model", "run `./lockstep run`")
    described = {
        path: digest.FileDigest(file.sha256, file.size) for path, file in parity.files.items()
    }
    layers = weights.layers(root / layout.MERGED, described, model, params.serve.name)
    runtime = lookup.here(root, options.runtime or params.serve.runtime)
    about = _about(
        root,
        model,
        weights.place(params.serve.name, model),
        {Path(path) for path in held.verdict.judged if path.startswith("reports/")},
        runtime,
    )
    target, place, tag = _target(root, options, image.version(model))
    base, source = _base(
        root, options.base or params.serve.base, runtime.platform_for(params.serve)
    )
    if base:
        _serves(root, described, runtime, params.serve.max_total_tokens)
    count = len(layers) + (len(base.layers) if base else 0)
    if count > MOST_LAYERS:
        raise BuildRefused(
            f"the image would have {count} layers, an engine takes {MOST_LAYERS}",
            "raise merge.shard_mb in params.yaml",
        )
    from release.adapters.registry.client import Repository  # It imports requests.

    if isinstance(target, Repository):
        sizes = [layer.size for layer in layers] + [
            layer.size for layer in (base.layers if base else ())
        ]
        limits.check(target.host, sizes)
    return Recipe(params, runtime, about, layers, base, source, target, place, tag)


def _about(
    root: Path, model: str, home: str, needed: Collection[Path], runtime: Runtime
) -> image.About:
    """The commit with the complete record of the model. The record must be committed, or nobody else can find it.

    If the team's file of the runtime or the cards were written later, the commit that has them. Raises EvidenceRefused
    if there is none.
    """
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None:
        raise EvidenceRefused(
            f"{root.resolve()}: git has no commit that holds the record",
            "commit params.yaml, code.lock, dvc.lock, reports/",
        )
    if commits.is_shallow(root):
        raise EvidenceRefused(
            "the clone is shallow: the commit of the record may be missing",
            "git fetch --unshallow (in GitHub Actions: fetch-depth: 0)",
        )
    if absent := commits.uncommitted(root, head, sorted({*_RECORD, *needed})):
        others = tuple(f"{path}: is not committed in its current state" for path in absent[1:])
        raise EvidenceRefused(
            f"{absent[0]}: is not committed in its current state",
            "commit the record, then build: the image names its commit", others,
        )  # fmt: skip
    record = (*_RECORD, lookup.path(runtime.name)) if runtime.file else _RECORD
    commit = commits.last_touching(root, head, record)
    assert commit is not None  # all of them are in HEAD
    cards = [*placeholder_cards.PLACEHOLDERS]
    try:
        placeholder_cards.check(commits.read_many(root, commit, cards))
    except EvidenceRefused:  # they may have been written after the record
        commit = commits.last_touching(root, head, (*record, *cards)) or commit
        placeholder_cards.check(commits.read_many(root, commit, cards))
    evidence = digest.of_file(root / layout.VERDICT).sha256
    return image.About(model, home, evidence, commit, commits.committed_at(root, commit))


def _target(root: Path, options: BuildOptions, version: str) -> tuple[Store, str, str]:
    """The target, its name in reports, and the tag."""
    if options.push is None:
        folder = root / layout.IMAGE if options.output is None else options.output
        inside = folder.resolve().is_relative_to(root.resolve())
        shown = folder.resolve().relative_to(root.resolve()) if inside else folder.resolve()
        return Layout(folder, root / KNOWN), f"{reference.LAYOUT}{shown.as_posix()}", version
    if options.output is not None:
        raise BuildRefused(
            "an image goes to a registry or to a folder", "give one of --push and --output"
        )
    named = reference.parse(options.push)
    if named.host is None or named.digest is not None:
        raise BuildRefused(
            f"{options.push!r}: is not HOST/NAME of a registry",
            "write it as HOST/NAME or HOST/NAME:TAG",
        )
    return (
        stores.open_store(named, root, push=True),
        f"{named.host}/{named.name}",
        named.tag or version,
    )


def _base(root: Path, name: str | None, platform: str) -> tuple[bases.Base | None, Store | None]:
    if name is None:
        return None, None
    named = reference.parse(name)
    source = stores.open_store(named, root)
    return bases.resolve(source, named, platform, name), source


def _serves(
    root: Path, described: dict[str, digest.FileDigest], runtime: Runtime, longest: int
) -> None:
    """Refuse a runtime that would compute another function than the evaluated one."""
    path = root / layout.MERGED / _CONFIG
    if _CONFIG not in described:
        raise BuildRefused(
            f"{path}: is not of the model, and servers read it", "run `./lockstep run merge`"
        )
    try:
        data = path.read_bytes()
        if digest.of_bytes(data) != described[_CONFIG].sha256:
            raise EvidenceRefused(
                f"{path}: is not the file that the verdict is about", "run `./lockstep run merge`"
            )
        config = json.loads(data)
    except OSError as error:
        raise EvidenceRefused(f"{path}: {error.strerror or error}", "make it readable") from error
    except (ValueError, RecursionError) as error:
        raise BuildRefused(f"{path}: is not JSON", "run `./lockstep run merge`") from error
    if not isinstance(config, dict):
        raise BuildRefused(f"{path}: is not a JSON object", "run `./lockstep run merge`")
    if why := compatibility.unfit(runtime, config, longest):
        raise BuildRefused(f"{path}: {why}", "choose another serve.runtime")
    file = runtime.identity.file if runtime.identity else None
    if file and file not in described:
        raise BuildRefused(
            f"{layout.MERGED}: has no {file}, which {runtime.name} serves",
            "set merge.export, and run `./lockstep run`",
        )
