"""The kinds of one group: the modules of a folder of Lockstep, and what other packages add through entry points.

A package of a user adds a kind by an entry point. Its name is the kind's name, its value a class or a module with one
such class:

    [project.entry-points."lockstep.gates"]
    no-secrets = "acme_gates.no_secrets"

pyproject.toml names the folders of Lockstep's own kinds: its entry points of the group ``lockstep_kinds``. So this
package finds kinds of ``stages`` and ``release``, which stand above it, and names neither.

A ``Registry`` has all kinds of a group, in an order that is the same on every machine. It never raises for a package
from outside; ``refuse_broken`` raises, and whoever reads params.yaml calls it.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from checks.kinds import plugins
from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.records.identity import Plugin

T = TypeVar("T")

# The group of the folders of Lockstep's own kinds in pyproject.toml.
_OWN = "lockstep_kinds"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Unfit(Exception):  # noqa: N818 - a finding about a package, not a malfunction
    """An entry point names no kind of its group; the message completes "NAME ..."."""


class Registry(Generic[T]):
    """All kinds of one group by name: Lockstep's in their order, then external ones by name.

    It annotates a parameter that names a kind, ``Annotated[str, RULES]``, or a section, ``Annotated[Loader, LOADERS]``.
    The kinds are imported when they are first asked for, because their modules import the interface that the registry
    stands beside. Nothing is raised for a package from outside.
    """

    def __init__(
        self,
        group: str,
        base: type,
        name_of: Callable[[type[Any]], str] | None = None,
        field: str = "kind",
    ) -> None:
        """Declare the kinds of ``group``, each a class below ``base``, which is ``T``.

        Every module directly in the group's folder is a kind, unless its name begins with ``_``. ``name_of`` gives the
        name that params.yaml uses, and raises Unfit for a class that is no kind; None: ``tag``. ``field``: the
        parameter that names the kind. Kinds of Lockstep are in the order of their ``rank``, if they have one, and of
        their names where that leaves a choice.
        """
        self.group = group
        self._base = base
        self._name_of: Callable[[type[Any]], str] = name_of or tag
        self._field = field
        _declared[group] = self

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a parameter: the name of a kind, or a section whose ``field`` selects the kind.

        Without the name, a section is of the first kind whose model has a default for it.
        """
        if source is str:
            return core_schema.literal_schema(list(self.kinds))
        choices = {name: handler.generate_schema(kind) for name, kind in self.kinds.items()}
        union = core_schema.tagged_union_schema(choices, discriminator=self._field)
        models: dict[str, Any] = dict(self.kinds)
        optional = (
            name
            for name, kind in models.items()
            if not kind.model_fields[self._field].is_required()
        )
        default = next(optional, None)
        if default is None:
            return union

        def tagged(value: Any) -> Any:
            return {self._field: default, **value} if isinstance(value, dict) else value

        return core_schema.no_info_before_validator_function(tagged, union)

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
        return {f"{self.group}:{name}": plugins.identity(self.outside[name]) for name in used}

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
        for entry in plugins.entry_points(self.group):
            project = plugins.project(entry)
            start = f"package {plugins.who(entry)} adds {entry.name!r} to {self.group}"
            rename = f"rename it in the entry points of {project}, or uninstall {project}"
            if entry.name in outside:
                other = plugins.who(outside[entry.name])
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


def tag(model: type[BaseModel], key: str = "kind") -> str:
    """The name of a kind whose parameters have the field ``kind: Literal["name"]``. Raises Unfit without one."""
    field = model.model_fields.get(key)
    names = get_args(field.annotation) if field else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise Unfit(f'does not define a field {key}: Literal["NAME"]')
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
        raise Unfit(
            f"cannot be imported: {type(error).__name__}: {plugins.one_line(error)}"
        ) from error
    kind = _class_in(loaded, base)
    if (name := name_of(kind)) != entry.name:
        raise Unfit(f"calls itself {name!r}")
    try:
        recorded = {path.resolve() for _, path in plugins.files(entry)}
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
    name = group.removeprefix(plugins.PREFIX)
    for entry in plugins.entry_points(_OWN):
        if entry.name == name and plugins.project(entry) == distribution.NAME:
            folder: ModuleType = entry.load()
            return folder
    raise MachineRefused(
        f"the installed {distribution.NAME} does not say where its {name} are: it was installed before this code",
        "install it again: run ./lockstep, or pip install --no-deps -e . in its folder",
    )
