"""The process that compares MLflow with git and corrects it, and can be killed at a deadline if a store hangs.

A job comes as JSON on standard input: the URI is not in the arguments, which others can see. The result goes to
standard output.
"""

import os
import signal
import sys

from checks.records.rows import Record
from release.mirrors import compare
from release.mirrors.mlflow_client import ModelRegistry
from release.mirrors.types import MirrorFinding, MirrorUnavailable


class MirrorJob(Record):
    """A comparison to make, and where."""

    uri: str
    wanted: compare.WantedModel
    fix: bool


class MirrorResult(Record):
    """The result; ``trouble`` if the store could not be reached or failed."""

    findings: tuple[MirrorFinding, ...]
    trouble: str = ""


def do(job: MirrorJob) -> MirrorResult:
    """Compare, and fix if the job asks for it."""
    try:
        return MirrorResult(findings=tuple(agree(ModelRegistry(job.uri), job.wanted, job.fix)))
    except MirrorUnavailable as silent:
        return MirrorResult(findings=(), trouble=str(silent))


def agree(registry: ModelRegistry, wanted: compare.WantedModel, fix: bool) -> list[MirrorFinding]:
    """List where the registry differs from ``wanted``; with ``fix`` it is corrected and read again.

    A difference counts as fixed only if the second reading confirms it. Raises MirrorUnavailable.
    """
    findings = compare.differences(registry.read(wanted.name), wanted)
    if not fix or not findings:
        return findings
    _repair(registry, wanted)
    left = {finding.what for finding in compare.differences(registry.read(wanted.name), wanted)}
    return [finding.model_copy(update={"fixed": finding.what not in left}) for finding in findings]


def _repair(registry: ModelRegistry, wanted: compare.WantedModel) -> None:
    """Write ``wanted`` to the registry; what is right is left alone. Raises MirrorUnavailable."""
    name = wanted.name
    model = registry.read(name)
    if model is None:
        registry.make_model(name)
        model = compare.RegisteredModel((), {})
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


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Lines that libraries print are no answer.
    answer.write(do(MirrorJob.model_validate_json(sys.stdin.buffer.read())).model_dump_json())
    answer.close()


if __name__ == "__main__":
    _main()
