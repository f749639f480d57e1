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
    with registry.asking() as client:
        for release in wanted.releases:
            version = compare.version_of(model, release)
            if version is None:
                numbers[release.source] = registry.make_version(client, name, release)
                continue
            numbers[release.source] = version.number
            for key in compare.wrong_tags(version, release):
                client.set_model_version_tag(name, version.number, key, release.tags[key])
        for version in compare.claiming(model, wanted):
            for key in sorted(key for key in version.tags if key.startswith(compare.PREFIX)):
                client.delete_model_version_tag(name, version.number, key)
        for alias, source in wanted.aliases.items():
            if compare.points(model, wanted, alias, source):
                continue
            if source is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, numbers[source])
