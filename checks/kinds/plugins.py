"""Kinds of one group: the modules of a folder of Lockstep, and what other packages add through entry points.

pyproject.toml names the folders of Lockstep's own kinds: its entry points of the group ``lockstep_kinds``. So this
package finds kinds of ``stages`` and ``release``, which stand above it, and names neither.

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
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import MappingProxyType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, get_args

from pydantic import BaseModel

from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.identity import Plugin as Plugin
from checks.records.identity import PluginName as PluginName
from checks.storage import digest

T = TypeVar("T")

PREFIX = "lockstep."  # Every group begins so.
_DISTRIBUTION = "lockstep"
_OWN = "lockstep_kinds"
"""The group of the folders of Lockstep's own kinds in pyproject.toml."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Unfit(Exception):  # noqa: N818 - a finding about a package, not a malfunction
    """An entry point names no kind of its group; the message completes "NAME ..."."""


class Registry(Generic[T]):
    """All kinds of one group by name: Lockstep's in their order, then external ones by name.

    They are imported when they are first asked for, because the modules of the kinds import the interface that this
    registry stands beside. Nothing is raised for a package from outside.
    """

    def __init__(
        self, group: str, base: type, name_of: Callable[[type[Any]], str] | None = None
    ) -> None:
        """Declare the kinds of ``group``, each a class below ``base``, which is ``T``.

        Every module directly in the group's folder is a kind, unless its name begins with ``_``. ``name_of`` gives the
        name that params.yaml uses, and raises Unfit for a class that is no kind; None: ``tag``. Kinds of Lockstep are
        in the order of their ``rank``, if they have one, and of their names where that leaves a choice.
        """
        self.group = group
        self._base = base
        self._name_of = name_of or tag
        _declared[group] = self

    @property
    def kinds(self) -> Mapping[str, type[T]]:
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
    def _found(self) -> "_Kinds":
        folder = _own_folder(self.group)
        modules = sorted(
            module.name
            for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}.")
            if not module.name.rpartition(".")[2].startswith("_")
        )
        own = [_class_in(importlib.import_module(module), self._base) for module in modules]
        own.sort(key=lambda kind: (getattr(kind, "rank", 0), self._name_of(kind)))
        kinds = {self._name_of(kind): kind for kind in own}
        if len(kinds) < len(own):
            raise ValueError(f"{folder.__name__}: two modules have a kind of one name")
        outside: dict[str, metadata.EntryPoint] = {}
        broken: list[tuple[str, str]] = []
        for entry in _entry_points(self.group):
            project = _project(entry)
            start = f"package {_who(entry)} adds {entry.name!r} to {self.group}"
            rename = f"rename it in the entry points of {project}, or uninstall {project}"
            if entry.name in outside:
                other = _who(outside[entry.name])
                broken.append((f"{start}, which package {other} adds too", rename))
            elif entry.name in kinds:
                broken.append((f"{start}, which is a kind of Lockstep", rename))
            else:
                try:
                    kinds[entry.name] = _loaded(entry, self._base, self._name_of)
                    outside[entry.name] = entry
                except Unfit as why:
                    broken.append((f"{start}, which {why}", f"repair {project}, or uninstall it"))
        return _Kinds(MappingProxyType(kinds), MappingProxyType(outside), tuple(broken))


class _Kinds(NamedTuple):
    kinds: Mapping[str, type[Any]]
    outside: Mapping[str, metadata.EntryPoint]
    broken: tuple[tuple[str, str], ...]


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


def tag(model: type[BaseModel]) -> str:
    """The name of a kind whose parameters have the field ``kind: Literal["name"]``. Raises Unfit without one."""
    field = model.model_fields.get("kind")
    names = get_args(field.annotation) if field else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise Unfit('does not define a field kind: Literal["NAME"]')
    return names[0]


def _class_in(named: object, base: type) -> type[Any]:
    """Return the class below ``base`` that a module defines, or that an entry point names. Raises Unfit for another."""
    below = f"{base.__module__}.{base.__name__}"
    if isinstance(named, ModuleType):
        classes = [
            value
            for value in vars(named).values()
            if inspect.isclass(value)
            and issubclass(value, base)
            and value.__module__ == named.__name__
            and not inspect.isabstract(value)
        ]
        if len(classes) != 1:
            raise Unfit(f"defines {len(classes)} classes below {below} and must define one")
        return classes[0]
    if not (inspect.isclass(named) and issubclass(named, base)):
        raise Unfit(f"is not a class below {below}, and no module that defines one")
    if missing := sorted(getattr(named, "__abstractmethods__", ())):
        raise Unfit(f"does not define {', '.join(missing)}")
    return named


def _loaded(
    entry: metadata.EntryPoint, base: type, name_of: Callable[[type[Any]], str]
) -> type[Any]:
    if not _NAME.fullmatch(entry.name):
        raise Unfit(
            "is not a valid name of a kind: use at most 60 lower-case letters, digits, - and _"
        )
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        raise Unfit(f"cannot be imported: {type(error).__name__}: {_one_line(error)}") from error
    kind = _class_in(loaded, base)
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


def _own_folder(group: str) -> ModuleType:
    """Import the folder of Lockstep's own kinds of a group. Raises MachineRefused if the installation names none."""
    name = group.removeprefix(PREFIX)
    for entry in _entry_points(_OWN):
        if entry.name == name and _project(entry) == _DISTRIBUTION:
            folder: ModuleType = entry.load()
            return folder
    raise MachineRefused(
        f"the installed {_DISTRIBUTION} does not say where its {name} are: it was installed before this code",
        "install it again: run ./lockstep, or pip install --no-deps -e . in its folder",
    )


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
