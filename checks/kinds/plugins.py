"""Packages from outside that add kinds: their code, and whether it is the code that evidence names.

Evidence that was made with a kind from outside records a ``Plugin``: the distribution, its version and the digest of
its code. ``differences`` says where the installed packages are not the recorded ones. The digest is that of a manifest
(``checks.storage.digest``) of the files that the distribution's RECORD lists, hashed from disk. Files that are no code,
or that differ from one installation to the next, are left out: the dist-info folder but for entry_points.txt,
``__pycache__``, and what lies outside the folder of packages, such as scripts. What a package imports from other
packages is not part of its digest.
"""

import csv
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.record import Plugin as Plugin
from checks.records.record import PluginName as PluginName
from checks.storage import digest

PREFIX = "lockstep."  # Every group begins so.


def differences(recorded: Mapping[str, Plugin]) -> list[str]:
    """Return one line for each package of ``recorded`` that is not installed or has other code here.

    Imports none of them. The fix depends on the evidence, so the caller adds it.
    """
    lines = ((key, _difference(key, wanted)) for key, wanted in sorted(recorded.items()))
    return [f"plugin {key}: {line}" for key, line in lines if line]


def _difference(key: str, wanted: Plugin) -> str | None:
    group, _, name = key.partition(":")
    entry = next((entry for entry in entry_points(group) if entry.name == name), None)
    package = f"{wanted.distribution} {wanted.version}"
    try:
        here = identity(entry) if entry else None
    except MachineRefused as refused:
        return str(refused)
    if here is None:
        return f"package {package} is not installed"
    return (
        None
        if here == wanted
        else (
            f"the installed {here.distribution} {here.version} has the code {_short(here.sha256)}, the record is about "
            f"{package} with {_short(wanted.sha256)}"
        )
    )


def named(
    names: Collection[str],
    groups: Iterable[str],
    identify: Callable[[metadata.EntryPoint], Plugin],
) -> dict[str, Plugin]:
    """Return what evidence records of the kinds from outside, without importing them.

    They are the kinds of ``groups``, such as ``scorers``, that have one of ``names``. ``identify`` is ``identity``,
    which may remember what it returned. Raises MachineRefused as ``identity``.
    """
    points = (entry for group in sorted(groups) for entry in entry_points(f"{PREFIX}{group}"))
    return {
        f"{point.group}:{point.name}": identify(point) for point in points if point.name in names
    }


def identity(entry: metadata.EntryPoint) -> Plugin:
    """Return the package of an entry point, and the current digest of its code.

    Raises MachineRefused if the package does not record its files, or if one cannot be read.
    """
    try:
        hashed = {name: _hashed(path) for name, path in files(entry)}
        assert entry.dist is not None  # else it has no files
        return Plugin(
            distribution=entry.dist.metadata["Name"],
            version=entry.dist.version,
            sha256=digest.of_manifest(hashed),
        )
    except (OSError, ValueError, EvidenceRefused) as error:
        what = error.what if isinstance(error, EvidenceRefused) else one_line(error)
        raise MachineRefused(
            f"package {who(entry)}: {what}", f"install {project(entry)} again with pip"
        ) from error


@functools.cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of a group in order, read once: sorting parses the metadata of each package."""
    return tuple(
        sorted(_every_entry_point().select(group=group), key=lambda entry: (entry.name, who(entry)))
    )


@functools.cache
def _every_entry_point() -> Any:  # two types, by the version of Python; both have select
    """All entry points, read once, because this opens every installed distribution."""
    return metadata.entry_points()


def files(entry: metadata.EntryPoint) -> Iterator[tuple[str, Path]]:
    """Yield the code of a package: name in the manifest, and path. Raises ValueError if no RECORD lists it."""
    record = entry.dist.read_text("RECORD") if entry.dist else None
    if entry.dist is None or not record:
        raise ValueError("has no RECORD of its files")
    for line in csv.reader(record.splitlines()):
        name = PurePosixPath(line[0]) if line else PurePosixPath()
        folder = name.parts[0] if name.parts else ".."
        if name.is_absolute() or folder == ".." or "__pycache__" in name.parts:
            continue
        if folder.endswith(".dist-info") and name.name != "entry_points.txt":
            continue
        yield name.as_posix(), Path(str(entry.dist.locate_file(name.as_posix())))


def _hashed(path: Path) -> digest.FileDigest:
    data = path.read_bytes()
    return digest.FileDigest(digest.of_bytes(data), len(data))


def project(entry: metadata.EntryPoint) -> str:
    return _name_and_version(entry.dist)[0] if entry.dist else "it"


def who(entry: metadata.EntryPoint) -> str:
    return " ".join(_name_and_version(entry.dist)) if entry.dist else entry.module


@functools.cache
def _name_and_version(package: metadata.Distribution) -> tuple[str, str]:
    """Return both, read once: each time the metadata is asked for, all of it is parsed, a README among it."""
    document = package.metadata
    return one_line(document["Name"]), one_line(document["Version"])


def one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]


def _short(value: str) -> str:
    return value.removeprefix("sha256:")[:12]
