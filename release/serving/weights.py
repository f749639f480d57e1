"""Extracts the weights from an image's layers, for a server process where there is no Docker."""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from checks.formats.serving import ImageReport, Layer
from checks.process.errors import EvidenceRefused, MachineRefused, RegistryRefused
from checks.storage import digest, layout
from checks.storage.digest import FileDigest
from release.adapters.registry import documents
from release.adapters.registry.documents import Manifest, Store
from release.image import weights as oci
from release.serving.progress import Progress

_BLOCK = 1 << 20
_AGAIN = "run `lockstep build` again"


@contextmanager
def unpacked(root: Path, store: Store, report: ImageReport) -> Iterator[Path]:
    """Unpack the weights below .lockstep in ``root`` for the block; see ``unpack``."""
    state = root / layout.STATE
    state.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="serving-", dir=state))
    try:
        yield unpack(store, report, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def unpack(store: Store, report: ImageReport, home: Path) -> Path:
    """Write the weights' files below ``home`` at their path in the image; return that folder.

    Only file names from the report are used. Raises RegistryRefused if the store lacks the image or has other bytes,
    EvidenceRefused if the image differs from the report or the files are not the model.
    """
    manifest = documents.read(store.document(report.image), store.name)
    if not isinstance(manifest, Manifest):
        raise EvidenceRefused(f"{store.name}: {report.image} is no image but an index", _AGAIN)
    for name in (
        report.path.lstrip("/"),
        *(name for layer in report.layers for name in layer.files),
    ):
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or "\0" in name
            or not name
        ):
            raise EvidenceRefused(
                f"{layout.IMAGE_REPORT}: {name!r} is a way out of the image's folder", _AGAIN
            )
    sizes = {layer.digest: layer.size for layer in manifest.layers}
    folder = home / report.path.lstrip("/")
    unpacked: dict[str, FileDigest] = {}
    try:
        folder.mkdir(parents=True)
        with Progress("unpack", sum(layer.size for layer in report.layers), "B") as bar:
            for layer in report.layers:
                if sizes.get(layer.digest) != layer.size:
                    raise EvidenceRefused(
                        f"{store.name}: the image has no layer {layer.digest}", _AGAIN
                    )
                unpacked |= _unpack(
                    _Stream(store.blob(layer.digest, layer.size), bar), layer, report.path, folder
                )
    except OSError as error:
        raise MachineRefused(
            f"{folder}: {error.strerror or error}", "free some space there, or make it writable"
        ) from error
    if digest.of_manifest(unpacked) != report.model:
        raise EvidenceRefused(
            f"{store.name}: the files in {report.image} are not the model {report.model}", _AGAIN
        )
    return folder


def _unpack(stream: "_Stream", layer: Layer, path: str, folder: Path) -> dict[str, FileDigest]:
    """The files of one layer, each checked against the digest in the report."""
    wanted = {f"{oci.behind(path).lstrip('/')}/{name}": name for name in layer.files}
    unpacked: dict[str, FileDigest] = {}
    try:
        # It only calls ``read``.
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as archive:  # type: ignore[call-overload]
            for member in archive:
                if member.isdir() or (member.issym() and f"/{member.name}" == path):
                    continue
                name = wanted.get(member.name)
                content = (
                    archive.extractfile(member) if name is not None and member.isreg() else None
                )
                if name is None or content is None:
                    raise EvidenceRefused(
                        f"layer {layer.digest}: holds {member.name!r}, which is not of it", _AGAIN
                    )
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    while block := content.read(_BLOCK):
                        out.write(block)
                unpacked[name] = digest.of_file(target)
    except tarfile.TarError as error:
        raise RegistryRefused(f"layer {layer.digest}: is not a tar: {error}", _AGAIN) from error
    while stream.read(_BLOCK):  # The last block verifies the blob.
        pass
    if wrong := [
        name
        for name in layer.files
        if name not in unpacked or unpacked[name].sha256 != layer.files[name]
    ]:
        raise EvidenceRefused(
            f"layer {layer.digest}: {wrong[0]} is not the file of the report", _AGAIN
        )
    return unpacked


class _Stream:
    """Blocks as what tarfile reads once; ``bar`` counts the bytes."""

    def __init__(self, blocks: Iterator[bytes], bar: Progress) -> None:
        self._blocks, self._bar = blocks, bar

    def read(self, _size: int) -> bytes:
        """Return the next block, whatever its size; empty at the end."""
        block = next(self._blocks, b"")
        self._bar.update(len(block))
        return block
