"""The kinds of one group: the modules of a folder of Lockstep, those of packages, and those of a team's repository.

A package of a user adds a kind by an entry point. Its name is the kind's name, its value a class or a module with one
such class:

    [project.entry-points."lockstep.gates"]
    no-secrets = "acme_gates.no_secrets"

A team's repository adds a kind by a file in its folder ``kinds`` (``checks.kinds.team_kinds``).

pyproject.toml names the folders of Lockstep's own kinds: its entry points of the group ``lockstep_kinds``. So this
package finds kinds of ``stages`` and ``release``, which stand above it, and names neither.

A ``Registry`` has all kinds of a group, in an order that is the same on every machine. A kind from outside is
imported when a parameter names it, and is else only a name. Two kinds of one name raise nothing before
``refuse_broken``, which whoever reads params.yaml calls.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from checks.kinds import plugins, team_kinds
from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.records.identity import Plugin

T = TypeVar("T")

# The group of the folders of Lockstep's own kinds in pyproject.toml.
_OWN = "lockstep_kinds"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Unfit(Exception):  # noqa: N818 - a finding about a package, not a malfunction
    """An entry point or a file of a team is no kind of its group; the message completes "NAME ..."."""


class Registry(Generic[T]):
    """All kinds of one group by name: Lockstep's in their order, then those of packages and of the team by name.

    It annotates a parameter that names a kind, ``Annotated[str, RULES]``, or a section, ``Annotated[Loader, LOADERS]``.
    The kinds are imported when they are first asked for, because their modules import the interface that the registry
    stands beside. MachineRefused is raised for a kind from outside that is named and cannot be used.
    """

    def __init__(
        self,
        group: str,
        base: type,
        name_of: Callable[[type[Any]], str] | None = None,
        field: str = "kind",
        *,
        own: bool = True,
    ) -> None:
        """Declare the kinds of ``group``, each a class below ``base``, which is ``T``.

        Every module directly in the group's folder is a kind, unless its name begins with ``_``. ``name_of`` gives the
        name that params.yaml uses, and raises Unfit for a class that is no kind; None: ``tag``. ``field``: the
        parameter that names the kind. Kinds of Lockstep are in the order of their ``rank``, if they have one, and of
        their names where that leaves a choice. ``own``: Lockstep has kinds of the group.
        """
        self.group = group
        self._base = base
        self._name_of: Callable[[type[Any]], str] = name_of or tag
        self._field = field
        self._own = own
        _declared[group] = self

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a parameter: the name of a kind, or a section whose ``field`` selects the kind.

        Without the name, a section is of the first kind whose model has a default for it.
        """
        if source is str:
            names = core_schema.literal_schema(list(self.names))
            return core_schema.no_info_after_validator_function(self._named, names)
        choices = {name: handler.generate_schema(self.annotation(name)) for name in self.names}
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
        """The kinds by name. One from outside is imported when it is looked up, and iterated over only after that."""
        return self._found.kinds

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every kind. None is imported for it."""
        return self._found.names

    def annotation(self, name: str) -> Any:
        """Return the type of a section of the kind ``name``. One from outside is imported when a value is validated."""
        if name in self._found.kinds.unloaded:
            return Annotated[Any, _Later(partial(self.kinds.__getitem__, name))]
        return self.kinds[name]

    def _named(self, name: str) -> str:
        assert self.kinds[name]
        return name

    @property
    def outside(self) -> Mapping[str, metadata.EntryPoint]:
        """The entry points of kinds from packages."""
        return self._found.outside

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """The kinds from outside that have the name of another, as (problem, fix); they are not in ``kinds``."""
        return self._found.broken

    def plugins(self, names: Iterable[str]) -> dict[str, Plugin]:
        """Return what evidence records of the kinds ``names``; nothing for Lockstep's own and the team's.

        Raises MachineRefused if the files of a package cannot be hashed.
        """
        used = sorted(set(names) & set(self.outside))
        return {f"{self.group}:{name}": plugins.identity(self.outside[name]) for name in used}

    @functools.cached_property
    def _found(self) -> "_Found":
        modules = _own_modules(self.group) if self._own else []
        own = [_class_in(importlib.import_module(module), self._base) for module in modules]
        own.sort(key=lambda kind: (getattr(kind, "rank", 0), self._name_of(kind)))
        kinds = {self._name_of(kind): kind for kind in own}
        if len(kinds) < len(own):
            raise ValueError(f"{self.group}: two modules have a kind of one name")
        added: dict[str, _Added] = {}
        broken: list[tuple[str, str]] = []
        unloaded: dict[str, Callable[[], type[Any]]] = {}
        for kind in (*_of_packages(self.group), *_of_team(self.group)):
            start = f"{kind.by} adds {kind.name!r} to {self.group}"
            if kind.name in added:
                broken.append((f"{start}, which {added[kind.name].by} adds too", kind.rename))
            elif kind.name in kinds:
                broken.append((f"{start}, which is a kind of Lockstep", kind.rename))
            else:
                added[kind.name] = kind
                unloaded[kind.name] = partial(self._load, kind, start)
        outside = {name: kind.entry for name, kind in added.items() if kind.entry}
        names = (*kinds, *unloaded)
        return _Found(names, _Kinds(kinds, unloaded), MappingProxyType(outside), tuple(broken))

    def _load(self, kind: "_Added", start: str) -> type[Any]:
        try:
            return _loaded(kind, self._base, self._name_of)
        except Unfit as why:
            raise MachineRefused(f"{start}, which {why}", kind.repair) from why


class _Kinds(Mapping[str, type[Any]]):
    """Kinds by name. One of ``unloaded`` is loaded when it is looked up, and only then iterated over."""

    def __init__(
        self, loaded: dict[str, type[Any]], unloaded: dict[str, Callable[[], type[Any]]]
    ) -> None:
        self._loaded = loaded
        self.unloaded = unloaded

    def __getitem__(self, name: str) -> type[Any]:
        if name in self.unloaded:
            self._loaded[name] = self.unloaded[name]()
            del self.unloaded[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


class _Later(NamedTuple):
    """Validates a section by a kind that is loaded for it."""

    load: Callable[[], type[Any]]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return a schema that loads the kind when a value, or a JSON schema, is asked for."""
        del source, handler

        def validated(value: Any) -> Any:
            return self.load().model_validate(value)

        def described(schema: Any, handler: Any) -> Any:
            del schema
            return handler(self.load().__pydantic_core_schema__)

        return core_schema.no_info_plain_validator_function(
            validated, metadata={"pydantic_js_functions": [described]}
        )


class _Found(NamedTuple):
    names: tuple[str, ...]
    kinds: _Kinds
    outside: Mapping[str, metadata.EntryPoint]
    broken: tuple[tuple[str, str], ...]


class _Added(NamedTuple):
    """A kind from outside, not loaded yet. ``by`` says who adds it; ``rename`` and ``repair`` fix problems."""

    name: str
    by: str
    rename: str
    repair: str
    entry: metadata.EntryPoint | None
    load: Callable[[], object]


def _of_packages(group: str) -> Iterator[_Added]:
    for entry in plugins.entry_points(group):
        project = plugins.project(entry)
        yield _Added(
            entry.name,
            f"package {plugins.who(entry)}",
            f"rename it in the entry points of {project}, or uninstall {project}",
            f"repair {project}, or uninstall it",
            entry,
            entry.load,
        )


def _of_team(group: str) -> Iterator[_Added]:
    for path in team_kinds.paths(_folder_name(group)):
        load = partial(team_kinds.load, path)
        name = path.stem.replace("_", "-")
        yield _Added(name, str(path), f"rename {path}", f"repair {path}", None, load)


_declared: dict[str, Registry[Any]] = {}


def refuse_broken() -> None:
    """Raise MachineRefused with every kind from outside that has the name of another, or a file in a wrong place."""
    broken = [kind for _, registry in sorted(_declared.items()) for kind in registry.broken]
    groups = {entry.name for entry in plugins.entry_points(_OWN)} | {*map(_folder_name, _declared)}
    broken += team_kinds.misplaced(groups)
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


def _loaded(added: _Added, base: type, name_of: Callable[[type[Any]], str]) -> type[Any]:
    if not _NAME.fullmatch(added.name):
        raise Unfit(
            "is not a valid name of a kind: use at most 60 lower-case letters, digits, - and _"
        )
    try:
        loaded = added.load()
    except (Exception, SystemExit) as error:
        raise Unfit(
            f"cannot be imported: {type(error).__name__}: {plugins.one_line(error)}"
        ) from error
    kind = _class_in(loaded, base)
    if (name := name_of(kind)) != added.name:
        raise Unfit(f"calls itself {name!r}")
    if added.entry:
        _refuse_unrecorded(added.entry, kind)
    return kind


def _refuse_unrecorded(entry: metadata.EntryPoint, kind: type[Any]) -> None:
    """Raise Unfit unless the package's RECORD lists the modules that a kind runs."""
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


def _folder_name(group: str) -> str:
    return group.removeprefix(plugins.PREFIX)


def _own_modules(group: str) -> list[str]:
    folder = _own_folder(group)
    return sorted(
        module.name
        for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}.")
        if not module.name.rpartition(".")[2].startswith("_")
    )


def _own_folder(group: str) -> ModuleType:
    """Import the folder of Lockstep's own kinds of a group. Raises MachineRefused if the installation names none."""
    name = _folder_name(group)
    for entry in plugins.entry_points(_OWN):
        if entry.name == name and plugins.project(entry) == distribution.NAME:
            folder: ModuleType = entry.load()
            return folder
    raise MachineRefused(
        f"the installed {distribution.NAME} does not say where its {name} are: it was installed before this code",
        "install it again: remove .venv and run ./lockstep; in a clone of Lockstep: pip install --no-deps -e .",
    )
