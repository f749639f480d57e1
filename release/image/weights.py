"""The merged model as layers: one tar for each shard, one for all other files.

In the image the files are in /models/NAME. The last layer adds a link to that folder, /models/NAME-VERSION, which the
server is given. So the path names the model by digest, and two models that share a shard share its layer.

A layer's bytes follow from its files' digests, which the verdict names. ``Cache`` remembers the resulting digest, so a
layer that the store already has is not read again.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import BuildRefused, EvidenceRefused
from checks.storage import digest
from checks.storage.digest import FileDigest
from release.image.hash_cache import Memory
from release.image.tar import Link, Member, Tar

SHARD = ".safetensors"
# Where a server mounts an image of weights alone, from its root. A `subPath` of the mount would choose /models, but
# containerd before 2.2 ignores it and reports nothing.
VOLUME = "/weights"
_FIX = (
    "run `./lockstep run merge`, or `./lockstep dvc checkout models/merged` where it was once made"
)
_VERSION = 12  # hex digits of a model's digest in its path
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Layer(NamedTuple):
    """Members of one tar. ``title``: its readable name; ``key``: a digest of everything that decides its bytes."""

    title: str
    members: tuple[Member, ...]
    link: Link | None
    size: int
    key: str

    @property
    def tar(self) -> Tar:
        """The layer's bytes."""
        return Tar(self.members, self.link)


def place(name: str, model: str) -> str:
    """The path of a model in its image, which servers are given and report."""
    return f"/models/{name}-{model.removeprefix('sha256:')[:_VERSION]}"


def behind(path: str) -> str:
    """The folder that ``path`` (of ``place``) links to, which is the same for every version."""
    return path[: -(_VERSION + 1)]


def mounted(path: str) -> str:
    """The path of a model (of ``place``) in a server that mounts the whole image of weights alone as a volume."""
    return f"{VOLUME}{path}"


def layers(
    folder: Path, described: Mapping[str, FileDigest], model: str, name: str
) -> tuple[Layer, ...]:
    """The layers of ``model`` (its digest), in order.

    ``described``: what the verdict's evidence says of every file, by path below ``folder``. Names, sizes and types are
    checked here, contents when they are read. Raises EvidenceRefused if ``described`` is not of the model or the folder
    has other files, BuildRefused for a name that an image cannot have.
    """
    placed = arranged(folder, described, model, name)
    _holds(folder, described)
    return placed


def arranged(
    folder: Path, described: Mapping[str, FileDigest], model: str, name: str
) -> tuple[Layer, ...]:
    """As ``layers``, without looking at ``folder``."""
    if digest.of_manifest(described) != model:
        raise EvidenceRefused(
            "the parity report's files are not the model that the verdict is about", _FIX
        )
    for member in described:
        _fits(member)
    path = place(name, model)
    ordered = sorted(described, key=str.encode)
    shards = [[path] for path in ordered if path.endswith(SHARD)]
    rest = [path for path in ordered if not path.endswith(SHARD)]
    groups = [*shards, rest] if rest else shards
    link = Link(path.lstrip("/"), behind(path).rpartition("/")[2])
    last = len(groups) - 1
    return tuple(
        _layer(folder, behind(path).lstrip("/"), group, described, link if number == last else None)
        for number, group in enumerate(groups)
    )


def _layer(
    folder: Path,
    home: str,
    paths: list[str],
    described: Mapping[str, FileDigest],
    link: Link | None,
) -> Layer:
    members = tuple(
        Member(f"{home}/{path}", folder / path, described[path].sha256, described[path].size)
        for path in paths
    )
    title = paths[0] if paths[0].endswith(SHARD) else "configuration and tokenizer"
    key = digest.of_json([[[member.name, member.sha256, member.size] for member in members], link])
    return Layer(title, members, link, Tar(members, link).size, key)


def _holds(folder: Path, described: Mapping[str, FileDigest]) -> None:
    """Check that the folder has exactly these files with these sizes; links are refused."""
    if folder.is_symlink() or not folder.is_dir():
        raise EvidenceRefused(f"{folder}: not a directory", _FIX)
    sizes = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                raise EvidenceRefused(
                    f"{path}: is a symbolic link", "replace it with the file it points at"
                )
            if path.is_dir():
                continue
            if not path.is_file():
                raise EvidenceRefused(f"{path}: not a regular file", _FIX)
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    except OSError as error:
        raise EvidenceRefused(f"{folder}: {error.strerror or error}", "make it readable") from error
    problems = [
        *(f"{folder / path}: is missing" for path in sorted(described.keys() - sizes.keys())),
        *(
            f"{folder / path}: is not of the model"
            for path in sorted(sizes.keys() - described.keys())
        ),
        *(
            f"{folder / path}: has {sizes[path]} bytes, the verdict is about {described[path].size}"
            for path in sorted(sizes.keys() & described.keys())
            if sizes[path] != described[path].size
        ),
    ]
    EvidenceRefused.raise_for(problems, _FIX)


def _fits(path: str) -> None:
    """Check that a path stays inside its folder and means the same file on every system."""
    parts = path.split("/")
    # A name that begins with .wh. deletes a file of a lower layer (OCI image specification, layer.md).
    bad = any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts)
    if bad or not path.isprintable() or "\\" in path:
        raise BuildRefused(
            f"{path!r}: cannot be the name of a file in an image", "rename it in the merge stage"
        )


class Cache(Memory):
    """Digests of layers, by everything that decides their bytes, in one file; empty if damaged or unreadable.

    A cached digest is used only if the store has a blob with that digest and the layer's size. So a forged entry could
    put another blob of the same size into an image. `lockstep verify` finds that because it runs the image, and
    `lockstep promote` because it computes the digests again. Whoever can forge the cache can change this code as well.
    """

    def get(self, layer: Layer) -> str | None:
        """The layer's digest, if known."""
        entry = self._read().get(layer.key)
        match entry:
            case [str(found), int(size)] if size == layer.size and _DIGEST.fullmatch(found):
                return found
        return None

    def put(self, layer: Layer, found: str) -> None:
        """Store the layer's digest; if that fails, the layer is read again the next time."""
        with self._lock:
            self._write(self._read() | {layer.key: [found, layer.size]})
