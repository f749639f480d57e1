"""Compares MLflow's model registry with git: versions, tags and aliases.

A version belongs to a release by its source (the image by digest, or that image's folder among the artifacts of the
run: ``mlmodel``) and its run, which cannot be changed once created.
Its tags and the aliases can be changed by anyone, so these are compared.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from checks.rows import Record
from checks.text import redact
from release.mirrors import mlmodel
from release.mirrors.types import Finding

PREFIX = "lockstep."
VERSION = f"{PREFIX}version"
_SHOWN = 80
_LISTED = 200  # characters of a tag's value that are compared in words


class Release(Record):
    """One released version. ``run``: MLflow's id of the training run, if git names one."""

    version: str
    source: str
    run: str | None
    tags: dict[str, str]


class Wanted(Record):
    """What git says. ``aliases``: alias to the source of its version, None for none.

    ``whole``: these are all versions ever released, so any other version that claims to be one is wrong.
    """

    name: str
    releases: tuple[Release, ...]
    aliases: dict[str, str | None]
    whole: bool


class Held(NamedTuple):
    """One version in the registry."""

    number: str
    source: str
    run: str
    tags: Mapping[str, str]


class Model(NamedTuple):
    """The registered model: versions, lowest number first, and aliases to version numbers."""

    versions: tuple[Held, ...]
    aliases: Mapping[str, str]


class Store(Protocol):
    """A model registry. Every method raises MirrorUnavailable if it refuses or does not answer."""

    def read(self, name: str) -> Model | None:
        """The model with all its versions; None if there is no such model."""
        ...

    def has_run(self, run: str) -> bool: ...

    def make_model(self, name: str) -> None: ...

    def make_version(self, name: str, source: str, run: str | None, tags: Mapping[str, str]) -> str:
        """Create a version with its tags; return its number.

        With a run whose artifacts can be written, the version's source is a folder there, with ``mlmodel.files``.
        """
        ...

    def tag(self, name: str, number: str, key: str, value: str) -> None: ...

    def untag(self, name: str, number: str, key: str) -> None: ...

    def alias(self, name: str, alias: str, number: str) -> None: ...

    def unalias(self, name: str, alias: str) -> None: ...


def order(number: str) -> tuple[int, str]:
    """The sort key of versions: numbers as text of any length."""
    return len(number), number


def agree(store: Store, wanted: Wanted, fix: bool) -> list[Finding]:
    """Where the store differs from ``wanted``; with ``fix`` it is corrected and read again.

    A difference counts as fixed only if the second reading confirms it. Raises MirrorUnavailable.
    """
    found = differences(store.read(wanted.name), wanted)
    if not fix or not found:
        return found
    repair(store, wanted)
    left = {finding.what for finding in differences(store.read(wanted.name), wanted)}
    return [finding.model_copy(update={"fixed": finding.what not in left}) for finding in found]


def differences(model: Model | None, wanted: Wanted) -> list[Finding]:
    """Where ``model`` differs from ``wanted``. Pure function."""
    if model is None:
        if not wanted.releases:
            return []
        count = len(wanted.releases)
        git = f"{count} version{'s' * (count != 1)}"
        return [_drift(f"registered model {wanted.name}", git, "no such model", "make it, its versions and aliases")]
    return [*_versions(model, wanted), *_claims(model, wanted), *_aliases(model, wanted)]


def repair(store: Store, wanted: Wanted) -> None:
    """Write ``wanted`` to the store; what is right is left alone. Raises MirrorUnavailable."""
    name = wanted.name
    model = store.read(name)
    if model is None:
        store.make_model(name)
        model = Model((), {})
    numbers: dict[str, str] = {}
    for release in wanted.releases:
        if (held := _mirror(model, release)) is None:
            run = release.run if release.run and store.has_run(release.run) else None
            numbers[release.source] = store.make_version(name, release.source, run, release.tags)
            continue
        numbers[release.source] = held.number
        for key in _wrong(held, release):
            store.tag(name, held.number, key, release.tags[key])
    for held in _claiming(model, wanted):
        for key in sorted(key for key in held.tags if key.startswith(PREFIX)):
            store.untag(name, held.number, key)
    for alias, source in wanted.aliases.items():
        if _points(model, wanted, alias, source):
            continue
        if source is None:
            store.unalias(name, alias)
        else:
            store.alias(name, alias, numbers[source])


def _versions(model: Model, wanted: Wanted) -> Iterator[Finding]:
    for release in wanted.releases:
        held = _mirror(model, release)
        if held is None:
            yield _drift(f"version {release.version}", release.source, "no version has this source", "make it")
        elif wrong := _wrong(held, release):
            git = ", ".join(f"{key} {release.tags[key]}" for key in wrong)
            there = ", ".join(
                f"{key} {redact(held.tags[key], _LISTED)}" if key in held.tags else f"no {key}" for key in wrong
            )
            yield _drift(f"tags of {_called(held)}, which is {release.version}", git, there, "set them")


def _claims(model: Model, wanted: Wanted) -> Iterator[Finding]:
    for held in _claiming(model, wanted):
        said = redact(held.tags[VERSION], _SHOWN) if VERSION in held.tags else "a release"
        there = f"says that it is {said}, of {redact(held.source, _LISTED)}"
        yield _drift(_called(held), "nothing was released from this source and run", there, "take its tags away")


def _aliases(model: Model, wanted: Wanted) -> Iterator[Finding]:
    versions = {release.source: release.version for release in wanted.releases}
    for alias, source in wanted.aliases.items():
        if _points(model, wanted, alias, source):
            continue
        number = model.aliases.get(alias)
        held = next((each for each in model.versions if each.number == number), None)
        there = "is not set" if number is None else f"MLflow's version {redact(number, 20)}"
        if held is not None:
            there += f", of {redact(held.source, _LISTED)}"
        fix = "take it away" if source is None else "set it"
        yield _drift(f"alias {alias}", "nothing runs there" if source is None else versions[source], there, fix)


def _points(model: Model, wanted: Wanted, alias: str, source: str | None) -> bool:
    """Whether the alias points to a version of the release."""
    number = model.aliases.get(alias)
    if number is None or source is None:
        return number is None and source is None
    release = next(release for release in wanted.releases if release.source == source)
    return any(held.number == number and _is(held, release) for held in model.versions)


def _mirror(model: Model, release: Release) -> Held | None:
    """The version of a release: the first, if there are several."""
    return next((held for held in model.versions if _is(held, release)), None)


def _is(held: Held, release: Release) -> bool:
    about = mlmodel.about(held.source, held.run)
    return about in (release.source, mlmodel.folder(release.source)) and held.run in ("", release.run)


def _claiming(model: Model, wanted: Wanted) -> list[Held]:
    """Versions with tags of a release that are not releases."""
    if not wanted.whole:
        return []
    known: dict[str, list[Release]] = {}
    for release in wanted.releases:
        for about in (release.source, mlmodel.folder(release.source)):
            known.setdefault(about, []).append(release)
    return [
        held
        for held in model.versions
        if any(key.startswith(PREFIX) for key in held.tags)
        and not any(_is(held, release) for release in known.get(mlmodel.about(held.source, held.run), ()))
    ]


def _wrong(held: Held, release: Release) -> list[str]:
    return [key for key, value in release.tags.items() if held.tags.get(key) != value]


def _called(held: Held) -> str:
    return f"MLflow's version {redact(held.number, 20)}"


def _drift(what: str, git: str, mirror: str, fix: str) -> Finding:
    return Finding(where="MLflow", what=what, git=git, mirror=mirror, severity="drift", fix=fix)
