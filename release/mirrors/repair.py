"""Compares MLflow's model registry with git, and corrects it."""

from release.mirrors import compare
from release.mirrors.mlflow_client import ModelRegistry
from release.mirrors.types import Finding


def agree(registry: ModelRegistry, wanted: compare.Wanted, fix: bool) -> list[Finding]:
    """List where the registry differs from ``wanted``; with ``fix`` it is corrected and read again.

    A difference counts as fixed only if the second reading confirms it. Raises MirrorUnavailable.
    """
    findings = compare.differences(registry.read(wanted.name), wanted)
    if not fix or not findings:
        return findings
    _repair(registry, wanted)
    left = {finding.what for finding in compare.differences(registry.read(wanted.name), wanted)}
    return [finding.model_copy(update={"fixed": finding.what not in left}) for finding in findings]


def _repair(registry: ModelRegistry, wanted: compare.Wanted) -> None:
    """Write ``wanted`` to the registry; what is right is left alone. Raises MirrorUnavailable."""
    name = wanted.name
    model = registry.read(name)
    if model is None:
        registry.make_model(name)
        model = compare.Model((), {})
    numbers: dict[str, str] = {}
    for release in wanted.releases:
        if (version := compare.version_of(model, release)) is None:
            run = release.run if release.run and registry.has_run(release.run) else None
            numbers[release.source] = registry.make_version(name, release.source, run, release.tags)
            continue
        numbers[release.source] = version.number
        for key in compare.wrong_tags(version, release):
            registry.tag(name, version.number, key, release.tags[key])
    for version in compare.claiming(model, wanted):
        for key in sorted(key for key in version.tags if key.startswith(compare.PREFIX)):
            registry.untag(name, version.number, key)
    for alias, source in wanted.aliases.items():
        if compare.points(model, wanted, alias, source):
            continue
        if source is None:
            registry.unalias(name, alias)
        else:
            registry.alias(name, alias, numbers[source])
