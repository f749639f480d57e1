"""Kinds of one group: the modules of a package of Lockstep, and what other packages add through entry points.

A package of a user adds a kind by an entry point. Its name is the kind's name, its value a class or a module with one
such class:

    [project.entry-points."lockstep.gates"]
    no-secrets = "acme_gates.no_secrets"

A ``Registry`` has all kinds of a group, in an order that is the same on every machine. It never raises for a package
from outside; ``refuse_broken`` raises, and whoever reads params.yaml calls it.

Evidence that was made with a kind from outside records a ``Plugin``: the distribution, its version and the digest of
its code. ``differences`` says where the installed packages are not the recorded ones. The digest is that of a manifest
(``checks.storage.digest``) of the files that the distribution's RECORD lists, hashed from disk. Files that are no code,
or that differ from one installation to the next, are left out: the dist-info folder but for entry_points.txt,
``__pycache__``, and what lies outside the folder of packages, such as scripts. What a package imports from other
packages is not part of its digest.
"""

import csv
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel

from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.identity import Plugin as Plugin
from checks.records.identity import PluginName as PluginName
from checks.storage import digest

T = TypeVar("T")

PREFIX = "lockstep."  # Every group begins so.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Unfit(Exception):  # noqa: N818 - a finding about a package, not a malfunction
    """An entry point names no kind of its group; the message completes "NAME ..."."""


@dataclass(frozen=True)
class _Kinds(Generic[T]):
    kinds: Mapping[str, T]
    outside: Mapping[str, metadata.EntryPoint]
    broken: tuple[tuple[str, str], ...]


class Registry(Generic[T]):
    """All kinds of one group by name: Lockstep's in their order, then external ones by name.

    They are imported when they are first asked for, because the modules of the kinds import the interface that this
    registry stands beside. Nothing is raised for a package from outside.
    """

    def __init__(
        self,
        group: str,
        package: str,
        kind_in: Callable[[object], T],
        name_of: Callable[[T], str],
        rank: Callable[[T], int] = lambda _: 0,
    ) -> None:
        """Declare the kinds of ``group``.

        Every module directly in ``package`` is a kind, unless its name begins with ``_``. ``kind_in`` takes such a
        module, or what an entry point names, and returns the kind; it raises Unfit for anything else (``subclass_of``
        makes such a function). ``name_of`` is the name that params.yaml uses. Kinds of Lockstep are in the order of
        their ``rank``, and of their names where that leaves a choice.
        """
        self.group, self._package = group, package
        self._kind_in, self._name_of, self._rank = kind_in, name_of, rank
        _declared[group] = self

    @property
    def kinds(self) -> Mapping[str, T]:
        """Every kind by its name."""
        return self._found.kinds

    @property
    def outside(self) -> Mapping[str, metadata.EntryPoint]:
        """The entry points of external kinds."""
        return self._found.outside

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """The entry points that cannot be used, as (problem, fix); their kinds are not in ``kinds``."""
        return self._found.broken

    def plugins(self, names: Iterable[str]) -> dict[str, Plugin]:
        """Return what evidence records of the kinds ``names``; nothing for Lockstep's own.

        Raises MachineRefused if the files of a package cannot be hashed.
        """
        used = sorted(set(names) & set(self.outside))
        return {f"{self.group}:{name}": identity(self.outside[name]) for name in used}

    @functools.cached_property
    def _found(self) -> _Kinds[T]:
        package = importlib.import_module(self._package)
        modules = sorted(
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_")
        )
        kinds = [
            self._kind_in(importlib.import_module(f"{package.__name__}.{name}")) for name in modules
        ]
        own = {
            self._name_of(kind): kind
            for kind in sorted(kinds, key=lambda kind: (self._rank(kind), self._name_of(kind)))
        }
        if len(own) < len(kinds):
            raise ValueError(f"{package.__name__}: two modules have a kind of one name")
        outside: dict[str, metadata.EntryPoint] = {}
        added: dict[str, T] = {}
        broken: list[tuple[str, str]] = []
        for entry in _entry_points(self.group):
            who = _who(entry)
            start = f"package {who} adds {entry.name!r} to {self.group}"
            rename = f"rename it in the entry points of {_project(entry)}, or uninstall {_project(entry)}"
            if entry.name in own:
                broken.append((f"{start}, which is a kind of Lockstep", rename))
            elif entry.name in outside:
                broken.append(
                    (f"{start}, which package {_who(outside[entry.name])} adds too", rename)
                )
            else:
                try:
                    added[entry.name] = _loaded(entry, self._kind_in, self._name_of)
                    outside[entry.name] = entry
                except Unfit as why:
                    broken.append(
                        (f"{start}, which {why}", f"repair {_project(entry)}, or uninstall it")
                    )
        return _Kinds(MappingProxyType(own | added), MappingProxyType(outside), tuple(broken))


_declared: dict[str, Registry[Any]] = {}


def refuse_broken() -> None:
    """Raise MachineRefused with every entry point of a declared group that cannot be used."""
    broken = [kind for _, registry in sorted(_declared.items()) for kind in registry.broken]
    if broken:
        (what, todo), *others = broken
        raise MachineRefused(what, todo, tuple(f"{w}; {t}" for w, t in others))


def differences(recorded: Mapping[str, Plugin]) -> list[str]:
    """One line for each package of ``recorded`` that is not installed or has other code here.

    Imports none of them. The fix depends on the evidence, so the caller adds it.
    """
    different = []
    for key, wanted in sorted(recorded.items()):
        group, _, name = key.partition(":")
        entry = next((entry for entry in _entry_points(group) if entry.name == name), None)
        package = f"{wanted.distribution} {wanted.version}"
        if entry is None:
            different.append(f"plugin {key}: package {package} is not installed")
            continue
        try:
            here = identity(entry)
        except MachineRefused as refused:
            different.append(f"plugin {key}: {refused}")
            continue
        if here != wanted:
            different.append(
                f"plugin {key}: the installed {here.distribution} {here.version} has the code "
                f"{_short(here.sha256)}, the record is about {package} with {_short(wanted.sha256)}"
            )
    return different


def named(names: Iterable[str]) -> dict[str, Plugin]:
    """Return what evidence records of the kinds from outside that have one of ``names``, without importing them.

    Raises MachineRefused as ``identity``.
    """
    wanted = set(names)
    groups = sorted(group for group in _every_entry_point().groups if group.startswith(PREFIX))
    used = [entry for group in groups for entry in _entry_points(group) if entry.name in wanted]
    return {f"{entry.group}:{entry.name}": identity(entry) for entry in used}


def identity(entry: metadata.EntryPoint) -> Plugin:
    """The package of an entry point, and the current digest of its code.

    Raises MachineRefused if the package does not record its files, or if one cannot be read.
    """
    try:
        hashed = {name: _hashed(path) for name, path in _files(entry)}
        assert entry.dist is not None  # else it has no files
        return Plugin(
            distribution=entry.dist.metadata["Name"],
            version=entry.dist.version,
            sha256=digest.of_manifest(hashed),
        )
    except (OSError, ValueError, EvidenceRefused) as error:
        what = error.what if isinstance(error, EvidenceRefused) else _one_line(error)
        raise MachineRefused(
            f"package {_who(entry)}: {what}", f"install {_project(entry)} again with pip"
        ) from error


def subclass_of(base: type) -> Callable[[object], type[Any]]:
    """For ``Registry``: accept a subclass of ``base``, or a module that defines exactly one."""

    def kind_in(found: object) -> type[Any]:
        if isinstance(found, ModuleType):
            here = [
                value
                for value in vars(found).values()
                if inspect.isclass(value)
                and issubclass(value, base)
                and value.__module__ == found.__name__
                if not inspect.isabstract(value)
            ]
            if len(here) != 1:
                raise Unfit(
                    f"defines {len(here)} classes below {base.__module__}.{base.__name__} and must define one"
                )
            return here[0]
        if not (inspect.isclass(found) and issubclass(found, base)):
            raise Unfit(
                f"is not a class below {base.__module__}.{base.__name__}, and no module that defines one"
            )
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise Unfit(f"does not define {', '.join(missing)}")
        return found

    return kind_in


def tag(model: type[BaseModel]) -> str:
    """The name of a kind whose parameters have the field ``kind: Literal["name"]``. Raises Unfit without one."""
    field = model.model_fields.get("kind")
    names = get_args(field.annotation) if field else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise Unfit('does not define a field kind: Literal["NAME"]')
    return names[0]


def _loaded(
    entry: metadata.EntryPoint, kind_in: Callable[[object], T], name_of: Callable[[T], str]
) -> T:
    if not _NAME.fullmatch(entry.name):
        raise Unfit(
            "is not a valid name of a kind: use at most 60 lower-case letters, digits, - and _"
        )
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        raise Unfit(f"cannot be imported: {type(error).__name__}: {_one_line(error)}") from error
    kind = kind_in(loaded)
    if (name := name_of(kind)) != entry.name:
        raise Unfit(f"calls itself {name!r}")
    try:
        recorded = {path.resolve() for _, path in _files(entry)}
    except ValueError as error:
        raise Unfit(f"cannot be hashed: {error}") from error
    for module in {entry.module, getattr(kind, "__module__", entry.module)}:
        place = getattr(sys.modules.get(module), "__file__", None)
        if place is None or Path(place).resolve() not in recorded:
            raise Unfit(
                f"runs {module}, which RECORD does not list: install the package without -e, so that it does"
            )
    return kind


def _entry_points(group: str) -> list[metadata.EntryPoint]:
    points = _every_entry_point().select(group=group)
    return sorted(points, key=lambda entry: (entry.name, _who(entry)))


@functools.cache
def _every_entry_point() -> Any:  # two types, by the version of Python; both have select
    """All entry points, read once, because this opens every installed distribution."""
    return metadata.entry_points()


def _files(entry: metadata.EntryPoint) -> Iterator[tuple[str, Path]]:
    """The code of a package: name in the manifest, and path. Raises ValueError if no RECORD lists it."""
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


def _project(entry: metadata.EntryPoint) -> str:
    return _one_line(entry.dist.metadata["Name"]) if entry.dist else "it"


def _who(entry: metadata.EntryPoint) -> str:
    return f"{_project(entry)} {_one_line(entry.dist.version)}" if entry.dist else entry.module


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]


def _short(value: str) -> str:
    return value.removeprefix("sha256:")[:12]
