"""Checks that the files that people wrote in an environment do not change what a move puts there."""

from pathlib import Path

from pydantic import BaseModel

from checks import layout
from checks.config.monitor import Monitor
from checks.errors import MachineRefused
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from release import runtimes
from release.monitoring import component
from release.monitoring.objectives import Scope
from release.overlay import edits, overlays
from release.promotion.checklist import CheckResult
from release.promotion.environment import EnvironmentState
from release.promotion.types import PromotionContext


class _Watched(BaseModel):
    monitor: Monitor = Monitor()


def _checked(context: PromotionContext, environment: str, pointer: Pointer, built: ImageReport) -> dict[Path, bytes]:
    serve = context.records.at(pointer.commit).serve
    return overlays.checked(environment, pointer, built, runtimes.load(built.runtime), serve)


def unedited(
    context: PromotionContext,
    environment: str,
    present: EnvironmentState,
    after: Pointer,
    built: ImageReport,
    result: CheckResult,
) -> None:
    """Check that files written by people do not change the release that the pointer names, nor the generated rules.

    Raises MachineRefused if this needs kustomize and it is not installed, ParamsRefused if the target's section monitor
    is needed and cannot be rules.
    """
    wanted, pulled = _checked(context, environment, after, built), overlays.unreachable(after) is None
    for failure in edits.failures(
        environment, present.files, wanted, context.promote.ordered, pulled=pulled,
        generated=lambda: component.objects(Scope(context.name, environment), _monitor(context)),
    ):  # fmt: skip
        result.fail(failure, "change that file as docs/reference/environment-files.md says, and commit that")


def _monitor(context: PromotionContext) -> Monitor:
    todo = "fix it on the target branch"
    return context.records.at(context.trunk).sections(_Watched, f"{context.target}:{layout.PARAMS}", todo).monitor


def unedited_since(
    context: PromotionContext,
    environment: str,
    present: EnvironmentState,
    after: Pointer,
    built: ImageReport,
    last: str | None,
    result: CheckResult,
) -> None:
    """As ``unedited``, for a rollback, which should not fail because of another environment or a missing program.

    If kustomize is needed but not installed, the files must be those of the last move (commit ``last``), which were
    built then. Whether another environment uses the same namespace is not checked, nor whether alerts are up to date.
    """
    wanted = _checked(context, environment, after, built)
    try:
        failures = edits.failures(environment, present.files, wanted, pulled=overlays.unreachable(after) is None)
    except MachineRefused as refused:
        before = context.ledger.files(last, layout.ENVIRONMENTS) if last else {}
        if edits.theirs(environment, before) != edits.theirs(environment, present.files):
            raise MachineRefused(
                f"{refused.what}, nor those of the last move", f"{refused.todo}; or restore the files of that move"
            ) from refused
        result.note = "kustomize is not installed: the files are those that the last move built"
        return
    for failure in failures:
        result.fail(failure, "change that file as docs/reference/environment-files.md says, and commit that")
