"""The state of an environment in one commit of the ledger, and whether it was changed after its last move."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from checks import layout
from checks.config.monitor import Monitor
from checks.errors import MachineRefused
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.formats.statement import Statement
from release import runtimes
from release.ledger import past
from release.monitoring import component
from release.monitoring.queries import Scope
from release.overlay import edits, overlays
from release.promotion.checklist import CheckResult
from release.promotion.context import PromotionContext
from release.record.records import Records


class _Watched(BaseModel):
    monitor: Monitor = Monitor()


class EnvironmentState(NamedTuple):
    """What an environment runs, and every file below release/environments."""

    pointer: Pointer | None
    files: Mapping[Path, bytes]


def folder(environment: str) -> Path:
    """The folder of the environment."""
    return layout.ENVIRONMENTS / environment


def look(context: PromotionContext, environment: str) -> EnvironmentState:
    """The state at the tip. Raises EvidenceRefused if the pointer cannot be read or a file is a symbolic link."""
    pointer = context.ledger.pointer(context.tip, environment)
    return EnvironmentState(pointer, context.ledger.files(context.tip, layout.ENVIRONMENTS))


def rendered(records: Records, environment: str, pointer: Pointer, built: ImageReport) -> dict[Path, bytes]:
    """The files that a move to ``pointer`` writes for a cluster. Raises as ``render`` and ``Commit.serve``."""
    serve = records.at(pointer.commit).serve
    return overlays.render(environment, pointer, built, runtimes.load(built.runtime), serve)


def _checked(context: PromotionContext, environment: str, pointer: Pointer, built: ImageReport) -> dict[Path, bytes]:
    serve = context.records.at(pointer.commit).serve
    return overlays.checked(environment, pointer, built, runtimes.load(built.runtime), serve)


def intact(context: PromotionContext, environment: str, present: EnvironmentState, result: CheckResult) -> None:
    """Check that the files written by the last promotion are unchanged. Nothing is built on a changed environment."""
    if present.pointer is None:
        if not any(folder(environment) / overlays.FOLDER in path.parents for path in present.files):
            return  # a new environment
        todo = "restore it from git's history: nothing has been promoted there"
        wanted = overlays.nothing(environment)
    else:
        todo = f"`lockstep promote {environment} --image {present.pointer.image}` writes it again"
        built = stated(present, environment).predicate.image
        wanted = rendered(context.records, environment, present.pointer, built)
    for failure in overlays.check(environment, present.files, wanted):
        result.fail(failure, todo)


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


def stated(present: EnvironmentState, environment: str) -> Statement:
    """The statement whose digest the pointer names. Whether its signer may still sign is not checked.

    Raises EvidenceRefused if it is missing or has another digest.
    """
    assert present.pointer is not None
    where = past.path(environment)
    return past.envelope(present.files.get(where), present.pointer, str(where)).statement
