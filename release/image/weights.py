"""The merged model as layers: one tar for each shard, one for all other files.

In the image the files lie in /models/NAME, and the last layer adds a link to that folder, /models/NAME-VERSION, that
servers are given: it names the model by its digest, and a shard that two models share is one layer in both.

A layer's content follows from its files' digests, which the verdict names. So a layer that a store has already is not
read again: ``Cache`` remembers which digest it came out with.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks import digest
from checks.digest import FileDigest
from checks.errors import BuildRefused, EvidenceRefused
from release.image.known import Memory
from release.image.tar import Link, Member, Tar

SHARD = ".safetensors"
_TODO = "run `./lockstep run merge`, or `./lockstep dvc checkout models/merged` where it was once made"
_VERSION = 12  # hex digits of a model's digest in its path
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Layer(NamedTuple):
    """Members of one tar. ``title`` is what people call it, ``key`` a digest of all that decides its bytes."""

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
    """The path of a model in its image: what servers are given, and say of themselves."""
    return f"/models/{name}-{model.removeprefix('sha256:')[:_VERSION]}"


def behind(path: str) -> str:
    """The folder that ``path``, as ``place`` gives it, links to: that of every version of the model."""
    return path[: -(_VERSION + 1)]


def layers(folder: Path, described: Mapping[str, FileDigest], model: str, name: str) -> tuple[Layer, ...]:
    """The layers of ``model`` (its digest), in order.

    ``described`` is what the verdict's evidence says of every file, by path below ``folder``. Contents are held to it
    when they are read; here names, sizes and kinds of files are. Raises EvidenceRefused when ``described`` is not of
    the model, or other files lie there; BuildRefused when a name cannot be in an image.
    """
    found = arranged(folder, described, model, name)
    _holds(folder, described)
    return found


def arranged(folder: Path, described: Mapping[str, FileDigest], model: str, name: str) -> tuple[Layer, ...]:
    """As ``layers``, whether or not any of it lies in ``folder``."""
    if digest.of_manifest(described) != model:
        raise EvidenceRefused("the parity report's files are not the model that the verdict is about", _TODO)
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


def _layer(folder: Path, home: str, paths: list[str], described: Mapping[str, FileDigest], link: Link | None) -> Layer:
    members = tuple(
        Member(f"{home}/{path}", folder / path, described[path].sha256, described[path].size) for path in paths
    )
    title = paths[0] if paths[0].endswith(SHARD) else "configuration and tokenizer"
    key = digest.of_json([[[member.name, member.sha256, member.size] for member in members], link])
    return Layer(title, members, link, Tar(members, link).size, key)


def _holds(folder: Path, described: Mapping[str, FileDigest]) -> None:
    """The folder must hold these files with these sizes, and nothing else; links are refused."""
    if folder.is_symlink() or not folder.is_dir():
        raise EvidenceRefused(f"{folder}: not a directory", _TODO)
    found = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                raise EvidenceRefused(f"{path}: is a symbolic link", "replace it with the file it points at")
            if path.is_dir():
                continue
            if not path.is_file():
                raise EvidenceRefused(f"{path}: not a regular file", _TODO)
            found[path.relative_to(folder).as_posix()] = path.stat().st_size
    except OSError as error:
        raise EvidenceRefused(f"{folder}: {error.strerror or error}", "make it readable") from error
    problems = [
        *(f"{folder / path}: is not here" for path in sorted(described.keys() - found.keys())),
        *(f"{folder / path}: is not of the model" for path in sorted(found.keys() - described.keys())),
        *(
            f"{folder / path}: has {found[path]} bytes, the verdict is about {described[path].size}"
            for path in sorted(found.keys() & described.keys())
            if found[path] != described[path].size
        ),
    ]
    if problems:
        raise EvidenceRefused(problems[0], _TODO, tuple(problems[1:]))


def _fits(path: str) -> None:
    """A path stays inside its folder, and means the same file wherever the image is unpacked."""
    parts = path.split("/")
    # A name that begins with .wh. deletes a file of a lower layer (OCI image specification, layer.md).
    bad = any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts)
    if bad or not path.isprintable() or "\\" in path:
        raise BuildRefused(f"{path!r}: cannot be the name of a file in an image", "rename it in the merge stage")


class Cache(Memory):
    """Layers' digests by all that decides their bytes.

    A digest from here is used only where the store has a blob of that digest and the layer's size. A forged entry
    can thus put another blob of the same size into an image; what finds it is `lockstep verify`, which asks the
    image itself, and `lockstep promote`, which recomputes. Whoever can forge it can change this code as well.
    """

    def get(self, layer: Layer) -> str | None:
        """The layer's digest, if it is known."""
        entry = self._read().get(layer.key)
        match entry:
            case [str(found), int(size)] if size == layer.size and _DIGEST.fullmatch(found):
                return found
        return None

    def put(self, layer: Layer, found: str) -> None:
        """Keep the layer's digest."""
        with self._lock:
            self._write(self._read() | {layer.key: [found, layer.size]})
