"""Finds the kinds of a group, such as all scorers. Kinds come from three places:

1. Lockstep: each file in a folder of kinds is one kind. The entry points ``lockstep_kinds`` in pyproject.toml name the
   folders. Some of them lie in ``stages`` and ``release``, which this package may not import.
2. A package: an entry point adds a kind. Its name is the kind's name. Its value is a class, or a module with one class:

       [project.entry-points."lockstep.gates"]
       no-secrets = "acme_gates.no_secrets"

3. A team's repository: a file in its folder ``kinds`` is one kind (``checks.kinds.team_kinds``).

A ``Registry`` lists the kinds of one group, in the same order on every machine. A kind is imported only when a
parameter names it. If two kinds have the same name, the first one counts, and ``refuse_broken`` raises an error.
Everything that reads params.yaml calls ``refuse_broken`` first.
"""

import functools
import importlib
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from checks.kinds import plugins, team_kinds
from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.records.record import Plugin

T = TypeVar("T")

# The group of the folders of Lockstep's own kinds in pyproject.toml.
_OWN = "lockstep_kinds"
_INSTALL_AGAIN = "install it again: remove .venv and run ./lockstep; in a clone of Lockstep: pip install --no-deps -e ."
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Unfit(Exception):  # noqa: N818 - a finding about a package, not a malfunction
    """An entry point, or a file of a team, is not a kind of its group. The message completes "NAME ..."."""


class Named:
    """The base of kinds without parameters: a class is called after its file, unless it sets ``name``."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Call the class after its file."""
        cls.name = vars(cls).get("name") or re.split(r"[./]", cls.__module__)[-1].replace("_", "-")


class Registry(Generic[T]):
    """The kinds of one group by name: first Lockstep's, then those of packages, then those of the team.

    A registry annotates a parameter that is the name of a kind, as in ``Annotated[str, RULES]``, or a parameter that is
    the section of a kind, as in ``Annotated[Loader, LOADERS]``. When a value names a kind, the kind is imported. If it
    cannot be used, MachineRefused is raised.
    """

    def __init__(
        self,
        group: str,
        base: type,
        name_of: Callable[[type[Any]], str] | None = None,
        field: str = "kind",
        *,
        own: bool = True,
        hyphen: str = "-",
    ) -> None:
        """Declare the kinds of ``group``: each is a class below ``base``, which is ``T``.

        In the group's folder every module is a kind, unless its name begins with ``_``. The kind is called after its
        module, with ``hyphen`` in place of ``_``.

        ``name_of`` returns the name that a class gives itself, and raises Unfit for a class that is not a kind. The
        default is ``tag``. ``field`` is the parameter that names the kind. ``own`` is False for a group in which
        Lockstep has no kinds.
        """
        self.group = group
        self._base = base
        self._name_of: Callable[[type[Any]], str] = name_of or tag
        self._field = field
        self._own = own
        self._hyphen = hyphen
        _declared[group] = self

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a parameter that is a kind's name, or a section in which ``field`` names the kind.

        A section that names no kind is of the first kind whose model has a default for ``field``.
        """
        if source is str:
            return core_schema.no_info_after_validator_function(
                self._named, core_schema.literal_schema(list(self.names))
            )
        return _Later(self._validated, self._union).__get_pydantic_core_schema__(source, handler)

    @property
    def kinds(self) -> Mapping[str, type[T]]:
        """Return the kinds by name. A kind is imported when it is looked up.

        Iterating gives Lockstep's kinds, and of the others those that were looked up before.
        """
        return self._all.kinds

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of every kind. None is imported for it."""
        return tuple(self._all.kinds.added)

    def annotation(self, name: str) -> Any:
        """Return the type of a section of the kind ``name``, which is imported when a value is validated."""
        kinds: Mapping[str, Any] = self.kinds
        return Annotated[
            Any,
            _Later(
                lambda value: kinds[name].model_validate(value),
                lambda: kinds[name].__pydantic_core_schema__,
            ),
        ]

    def _named(self, name: str) -> str:
        assert self.kinds[name]
        return name

    def _validated(self, value: Any) -> Any:
        """Validate ``value`` by the kind that it names. Raises the same errors as a tagged union of pydantic."""
        if isinstance(value, self._base):
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("model_attributes_type")
        section = value if self._field in value else self._default() | value
        discriminator = {"discriminator": repr(self._field)}
        if self._field not in section:
            raise PydanticKnownError("union_tag_not_found", discriminator)
        name = section[self._field]
        if name not in self.names:
            tags = {"tag": str(name), "expected_tags": ", ".join(map(repr, self._ranked()))}
            raise PydanticKnownError("union_tag_invalid", discriminator | tags)
        kinds: Mapping[str, Any] = self.kinds
        return kinds[name].model_validate(section)

    def _default(self) -> dict[str, str]:
        """Return ``field`` with the first kind whose model has a default for it; empty if none has."""
        models: Mapping[str, Any] = self.kinds
        fields = ((name, model.model_fields[self._field]) for name, model in models.items())
        return next(({self._field: name} for name, field in fields if not field.is_required()), {})

    def _ranked(self) -> list[str]:
        """Return the names as lists show them: Lockstep's by the kind's ``rank``, if it has one, then the others."""
        added = self._all.kinds.added

        def rank(name: str) -> float:
            return getattr(self.kinds[name], "rank", 0) if added[name].own else math.inf

        return sorted(added, key=rank)

    def _union(self) -> CoreSchema:
        """Return the schema of a section of any kind, for the JSON schema."""
        kinds: Mapping[str, Any] = self.kinds
        choices = {name: kinds[name].__pydantic_core_schema__ for name in self._ranked()}
        return core_schema.tagged_union_schema(choices, discriminator=self._field)

    @property
    def outside(self) -> Mapping[str, metadata.EntryPoint]:
        """Return the entry points of kinds from packages."""
        return self._all.outside

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """Return the kinds from outside that have the name of another, as (problem, fix); they are not in ``kinds``."""
        return self._all.broken

    def plugins(self, names: Iterable[str]) -> dict[str, Plugin]:
        """Return what evidence records of the kinds ``names``; nothing for Lockstep's own and the team's.

        Raises MachineRefused if the files of a package cannot be hashed.
        """
        used = sorted(set(names) & set(self.outside))
        return {f"{self.group}:{name}": plugins.identity(self.outside[name]) for name in used}

    @functools.cached_property
    def _all(self) -> "_All":
        added: dict[str, _Added] = {}
        broken: list[tuple[str, str]] = []
        own = _of_lockstep(self.group, self._hyphen) if self._own else ()
        for kind in (*own, *_of_packages(self.group), *_of_team(self.group)):
            earlier = added.setdefault(kind.name, kind)
            if earlier is not kind:
                by = "is a kind of Lockstep" if earlier.own else f"{earlier.by} adds too"
                broken.append((f"{self._start(kind)}, which {by}", kind.rename))
        outside = {name: kind.entry for name, kind in added.items() if kind.entry}
        return _All(_Kinds(added, self._load), MappingProxyType(outside), tuple(broken))

    def _load(self, kind: "_Added") -> type[Any]:
        try:
            return _loaded(kind, self._base, self._name_of)
        except Unfit as why:
            raise MachineRefused(f"{self._start(kind)}, which {why}", kind.repair) from why

    def _start(self, kind: "_Added") -> str:
        return f"{kind.by} adds {kind.name!r} to {self.group}"


class _Kinds(Mapping[str, type[Any]]):
    """Kinds by name, as ``Registry.kinds`` returns them."""

    def __init__(
        self, added: Mapping[str, "_Added"], load: Callable[["_Added"], type[Any]]
    ) -> None:
        self.added = added
        self._load = load
        self._loaded: dict[str, type[Any]] = {}

    def __getitem__(self, name: str) -> type[Any]:
        if name not in self._loaded:
            self._loaded[name] = self._load(self.added[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, kind in self.added.items() if kind.own or name in self._loaded])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Later(NamedTuple):
    """Annotates a value of a kind that is found only when the value, or the JSON schema, is asked for."""

    validated: Callable[[Any], Any]
    schema: Callable[[], CoreSchema]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return a schema that finds the kind late."""

        def described(schema: Any, handler: Any) -> Any:
            del schema
            return handler(self.schema())

        return core_schema.no_info_plain_validator_function(
            self.validated, metadata={"pydantic_js_functions": [described]}
        )


class _All(NamedTuple):
    kinds: _Kinds
    outside: Mapping[str, metadata.EntryPoint]
    broken: tuple[tuple[str, str], ...]


class _Added(NamedTuple):
    """A kind that is not loaded yet. ``by``: who adds it. ``rename`` and ``repair``: the fixes that refusals name."""

    name: str
    by: str
    rename: str
    repair: str
    entry: metadata.EntryPoint | None
    load: Callable[[], object]
    own: bool = False


def _of_lockstep(group: str, hyphen: str) -> Iterator[_Added]:
    folder = _own_folder(group)
    for module in pkgutil.iter_modules(folder.__path__):
        if not module.name.startswith("_"):
            yield _Added(
                module.name.replace("_", hyphen),
                "Lockstep",
                "",
                _INSTALL_AGAIN,
                None,
                partial(_own_module, f"{folder.__name__}.{module.name}"),
                own=True,
            )


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
        yield _Added(
            path.stem.replace("_", "-"),
            str(path),
            f"rename {path}",
            f"repair {path}",
            None,
            partial(team_kinds.load, path),
        )


_declared: dict[str, Registry[Any]] = {}


def refuse_broken() -> None:
    """Raise MachineRefused if kinds have the same name, or a file of the team lies in a wrong place. Lists all."""
    broken = [kind for _, registry in sorted(_declared.items()) for kind in registry.broken]
    groups = {entry.name for entry in plugins.entry_points(_OWN)} | {*map(_folder_name, _declared)}
    broken += team_kinds.misplaced(groups)
    if broken:
        (what, todo), *others = broken
        raise MachineRefused(what, todo, tuple(f"{w}; {t}" for w, t in others))


def tag(model: type[BaseModel], key: str = "kind") -> str:
    """Return the name of a kind whose parameters have the field ``kind: Literal["name"]``. Raises Unfit without one."""
    field = model.model_fields.get(key)
    names = get_args(field.annotation) if field else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise Unfit(f'does not define a field {key}: Literal["NAME"]')
    return names[0]


def _class_in(named: object, base: type) -> type[Any]:
    """Return the class below ``base`` that a module defines or an entry point names. Raises Unfit if there is none."""
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


def _own_module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _own_folder(group: str) -> ModuleType:
    """Import the folder of Lockstep's own kinds of a group. Raises MachineRefused if the installation names none."""
    name = _folder_name(group)
    for entry in plugins.entry_points(_OWN):
        if entry.name == name and plugins.project(entry) == distribution.NAME:
            folder: ModuleType = entry.load()
            return folder
    raise MachineRefused(
        f"the installed {distribution.NAME} does not say where its {name} are: it was installed before this code",
        _INSTALL_AGAIN,
    )
