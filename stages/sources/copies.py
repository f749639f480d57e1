"""Copies a pinned source for a stage, so that the stage reads exactly the bytes that were verified."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from checks.config.params import Source
from checks.process.errors import SourceRefused
from checks.storage import digest, layout
from stages import sources
from stages.sources import Verified, archive, uris


def copy(source: Source, section: str, root: Path, place: Path, is_folder: bool) -> Path:
    """Fetch ``source``, verify it and copy it to ``place``; return the path of the copy, which can be below ``place``.

    ``section`` is its path in params.yaml. Raises SourceRefused as ``sources.bring``, or if it is a file where a folder
    is needed, or a folder where a file is.
    """
    with sources.alone(root):
        verified = sources.bring(source, section, root)
    if verified.inside is not None:
        place.mkdir()
        place = archive.extract(verified.path, verified.inside, place)
    elif verified.path.is_file():
        shutil.copyfile(verified.path, place)
        _hold(digest.of_file(place).sha256, verified.sha256, section)
    elif is_folder:
        shutil.copytree(verified.path, place)
        _hold(digest.of_tree(place).digest, verified.sha256, section)
    kind = "folder" if is_folder else "file"
    if not (place.is_dir() if is_folder else place.is_file()):
        shown = uris.redact(source.uri)
        raise SourceRefused(
            f"{layout.PARAMS}: {section}.uri: {shown} is no {kind}", f"name the {kind} itself"
        )
    return place


def fill(
    out: Path, source: Verified, section: str, make: Callable[[Verified, Path, Path], None]
) -> digest.Tree:
    """Fill the empty folder ``out``; return its files and digest.

    ``make`` gets the source, the file or folder that it names, and ``out``. Raises SourceRefused if a file of ``out``
    has other bytes than the verified file of its name.
    """
    with tempfile.TemporaryDirectory(prefix=".", dir=out.parent) as scratch:
        material = source.path
        if source.inside is not None:
            material = archive.extract(source.path, source.inside, Path(scratch))
        make(source, material, out)
    tree = digest.of_tree(out)
    verified = {}
    # Of a wheel only the whole is known. A single file is copied under its name in the URI.
    if source.inside is None:
        is_file = source.path.is_file()
        verified = {source.name if is_file else name: file for name, file in source.files.items()}
    for name, file in tree.files.items():
        if verified.get(name, file) != file:
            raise SourceRefused(
                f"{layout.PARAMS}: {section}.uri: {name} changed while it was copied",
                "let nothing write to it",
            )
    return tree


def _hold(measured: str, sha256: str, section: str) -> None:
    if measured != f"sha256:{sha256}":
        raise SourceRefused(
            f"{layout.PARAMS}: {section}.uri: changed while it was read", "run again"
        )
