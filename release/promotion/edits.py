"""Checks that an environment's files are what its knobs give: nothing else changes what a move puts there."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from checks.config.monitor import Monitor
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.monitoring import component
from release.monitoring.objectives import Scope
from release.overlay import edits, environment_file, kustomization
from release.promotion.checklist import CheckResult
from release.promotion.environment import EnvironmentState, rendered
from release.promotion.types import PromotionContext

_TODO = f"fix that as {environment_file.PAGE} says, and commit it"


class _MonitorSection(BaseModel):
    monitor: Monitor = Monitor()


def unedited(
    context: PromotionContext, environment: str, present: EnvironmentState, after: Pointer, built: ImageReport,
    result: CheckResult,
) -> None:  # fmt: skip
    """Check the environment's files, among them the rules that the target's section monitor gives.

    Raises ParamsRefused if that section is needed and cannot be rules.
    """
    wanted = rendered(context.records, environment, after, built)
    for failure in edits.failures(
        environment, present.files, wanted, lambda: (_from_section(context, environment),)
    ):  # fmt: skip
        result.fail(failure, _TODO)


def unedited_since(
    context: PromotionContext, environment: str, present: EnvironmentState, after: Pointer, built: ImageReport,
    last: str | None, result: CheckResult,
) -> None:  # fmt: skip
    """Check as ``unedited``, for a rollback, which another environment or older alerts should not stop.

    The rules may also be those of the last move (commit ``last``), which compared them.
    """

    def versions() -> Sequence[Mapping[Path, bytes | None]]:
        folder = layout.ENVIRONMENTS / environment / kustomization.MONITORING
        accepted = list[Mapping[Path, bytes | None]]()
        with contextlib.suppress(ParamsRefused):
            accepted.append(_from_section(context, environment))
        if last is not None:
            before = context.ledger.files(last, folder)
            accepted.append(dict(before))
        return accepted

    wanted = rendered(context.records, environment, after, built)
    for failure in edits.failures(
        environment, present.files, wanted, versions, compare_others=False
    ):
        result.fail(failure, _TODO)


def _from_section(context: PromotionContext, environment: str) -> Mapping[Path, bytes | None]:
    name = f"{context.target}:{layout.PARAMS}"
    section = context.records.at(context.trunk).sections(
        _MonitorSection, name, "fix it on the target branch"
    )
    return component.committed(Scope(context.name, environment), section.monitor)
