"""Compares MLflow's model registry with git: versions, tags and aliases.

A version belongs to a release by its source (the image by digest, or that image's folder among the artifacts of the
run: ``mlmodel``) and its run, which cannot be changed once created.
Its tags and the aliases can be changed by anyone, so these are compared.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from checks.process.text import redact
from checks.records.rows import Record
from release.mirrors import mlmodel
from release.mirrors.types import MirrorFinding

PREFIX = "lockstep."
VERSION = f"{PREFIX}version"
_SHOWN = 80
_LISTED = 200  # characters of a tag's value that are compared in words


class ReleasedVersion(Record):
    """One released version. ``run``: MLflow's id of the training run, if git names one."""

    version: str
    source: str
    run: str | None
    tags: dict[str, str]


class WantedModel(Record):
    """The state that git asks for. ``aliases``: alias to the source of its version, None for none.

    ``whole``: these are all versions ever released, so any other version that claims to be one is wrong.
    """

    name: str
    releases: tuple[ReleasedVersion, ...]
    aliases: dict[str, str | None]
    whole: bool


class RegisteredVersion(NamedTuple):
    """One version in the registry."""

    number: str
    source: str
    run: str
    tags: Mapping[str, str]


class RegisteredModel(NamedTuple):
    """The registered model: versions, lowest number first, and aliases to version numbers."""

    versions: tuple[RegisteredVersion, ...]
    aliases: Mapping[str, str]


def order(number: str) -> tuple[int, str]:
    """Return the sort key of versions: numbers as text of any length."""
    return len(number), number


def differences(model: RegisteredModel | None, wanted: WantedModel) -> list[MirrorFinding]:
    """Return where ``model`` differs from ``wanted``. Pure function."""
    if model is None:
        if not wanted.releases:
            return []
        count = len(wanted.releases)
        return [
            _drift(
                f"registered model {wanted.name}",
                f"{count} version{'s' * (count != 1)}",
                "no such model",
                "make it, its versions and aliases",
            )
        ]
    return [*_versions(model, wanted), *_claims(model, wanted), *_aliases(model, wanted)]


def _versions(model: RegisteredModel, wanted: WantedModel) -> Iterator[MirrorFinding]:
    for release in wanted.releases:
        version = version_of(model, release)
        if version is None:
            yield _drift(
                f"version {release.version}",
                release.source,
                "no version has this source",
                "make it",
            )
        elif wrong := wrong_tags(version, release):
            git = ", ".join(f"{key} {release.tags[key]}" for key in wrong)
            there = ", ".join(
                f"{key} {redact(version.tags[key], _LISTED)}"
                if key in version.tags
                else f"no {key}"
                for key in wrong
            )
            yield _drift(
                f"tags of {_called(version)}, which is {release.version}", git, there, "set them"
            )


def _claims(model: RegisteredModel, wanted: WantedModel) -> Iterator[MirrorFinding]:
    for version in claiming(model, wanted):
        claim = redact(version.tags[VERSION], _SHOWN) if VERSION in version.tags else "a release"
        yield _drift(
            _called(version),
            "nothing was released from this source and run",
            f"says that it is {claim}, of {redact(version.source, _LISTED)}",
            "take its tags away",
        )


def _aliases(model: RegisteredModel, wanted: WantedModel) -> Iterator[MirrorFinding]:
    versions = {release.source: release.version for release in wanted.releases}
    for alias, source in wanted.aliases.items():
        if points(model, wanted, alias, source):
            continue
        number = model.aliases.get(alias)
        version = next(
            (candidate for candidate in model.versions if candidate.number == number), None
        )
        there = "is not set" if number is None else f"MLflow's version {redact(number, 20)}"
        if version is not None:
            there += f", of {redact(version.source, _LISTED)}"
        yield _drift(
            f"alias {alias}",
            "nothing runs there" if source is None else versions[source],
            there,
            "take it away" if source is None else "set it",
        )


def points(model: RegisteredModel, wanted: WantedModel, alias: str, source: str | None) -> bool:
    """Tell whether the alias points to a version of the release."""
    number = model.aliases.get(alias)
    if number is None or source is None:
        return number is None and source is None
    release = next(release for release in wanted.releases if release.source == source)
    return any(version.number == number and _is(version, release) for version in model.versions)


def version_of(model: RegisteredModel, release: ReleasedVersion) -> RegisteredVersion | None:
    """Return the version of a release: the first, if there are several."""
    return next((version for version in model.versions if _is(version, release)), None)


def _is(held: RegisteredVersion, release: ReleasedVersion) -> bool:
    about = mlmodel.about(held.source, held.run)
    return about in (release.source, mlmodel.folder(release.source)) and held.run in (
        "",
        release.run,
    )


def claiming(model: RegisteredModel, wanted: WantedModel) -> list[RegisteredVersion]:
    """List versions with tags of a release that are not releases."""
    if not wanted.whole:
        return []
    known: dict[str, list[ReleasedVersion]] = {}
    for release in wanted.releases:
        for about in (release.source, mlmodel.folder(release.source)):
            known.setdefault(about, []).append(release)
    return [
        version
        for version in model.versions
        if any(key.startswith(PREFIX) for key in version.tags)
        and not any(
            _is(version, release)
            for release in known.get(mlmodel.about(version.source, version.run), ())
        )
    ]


def wrong_tags(held: RegisteredVersion, release: ReleasedVersion) -> list[str]:
    """List the keys of a release's tags that the version lacks or has with another value."""
    return [key for key, value in release.tags.items() if held.tags.get(key) != value]


def _called(held: RegisteredVersion) -> str:
    return f"MLflow's version {redact(held.number, 20)}"


def _drift(what: str, git: str, mirror: str, fix: str) -> MirrorFinding:
    return MirrorFinding(
        where="MLflow", what=what, git=git, mirror=mirror, severity="drift", fix=fix
    )
