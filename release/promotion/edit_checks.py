"""Checks that an environment's files are what its knobs give: nothing else changes what a move puts there.

Where an environment runs the right release already, ``repaired`` restores its files and makes missing tags.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from checks.config.monitor import Monitor
from checks.formats.pointer import Pointer
from checks.process.errors import ParamsRefused
from checks.storage import layout, plain_yaml
from release.ledger import Change
from release.overlay import edits, environment_file, kustomization, namespaces, overlays, scaling
from release.promotion import checklist, move_commit, requirements
from release.promotion import environment as environments
from release.promotion.environment import Case, EnvironmentState, rendered
from release.serving import shared_server

_TODO = f"fix that as {environment_file.PAGE} says, and commit it"


class _MonitorSection(BaseModel):
    monitor: Monitor = Monitor()


def unedited(
    case: Case, result: checklist.CheckResult, *, rollback: bool = False, last: str | None = None
) -> None:
    """Check the environment's files, among them the rules that the target's section monitor gives.

    No project beside this one may have an environment in the same namespace. Another environment or older alerts stop
    no ``rollback``: its rules may also be those of the last move (commit ``last``), which compared them.

    Raises ParamsRefused if that section is needed and cannot be rules, and it is no rollback.
    """

    def versions() -> Sequence[Mapping[Path, bytes | None]]:
        folder = layout.ENVIRONMENTS / case.environment / kustomization.MONITORING
        accepted = list[Mapping[Path, bytes | None]]()
        with contextlib.suppress(*([ParamsRefused] if rollback else [])):
            accepted.append(_from_section(case))
        if last is not None:
            accepted.append(dict(case.context.ledger.files(last, folder)))
        return accepted

    failures = edits.failures(
        case.environment, case.present.files, _wanted(case), versions, rollback=rollback
    )
    result.fail_each(failures, _TODO)
    if not rollback:
        todo = "give each environment its own, run `lockstep render`, and commit"
        result.fail_each(_of_other_projects(case), todo)
    as_verified = not rollback and case.context.rule(case.environment).served_as_verified
    for what, fix in _on_one_server(case, as_verified=as_verified, rollback=rollback):
        result.fail(what, fix)


def gap(case: Case) -> list[str]:
    """Return a line that says for how long no server answers during the move; none if one always does."""
    after, released = case.after.value, case.released.value
    if case.present.pointer is None or after is None or released is None:
        return []
    report = released.statement.predicate.serving
    line = scaling.gap(case.environment, after, report, case.present.files)
    return [line] if line else []


def _of_other_projects(case: Case) -> Iterator[str]:
    """Compare the namespace with those of other projects in the ledger."""
    folder = Path(case.context.ledger.folder)
    own = folder / environment_file.path(case.environment)
    namespace_of = namespaces.of_repository(case.context.records.git, case.context.tip)
    for path, namespace in namespace_of.items():
        if namespaces.project(path) != folder and namespace == namespace_of.get(own):
            yield f"{own}: namespace: {namespace!r} is the namespace in {path} too"


def _on_one_server(
    case: Case, *, as_verified: bool, rollback: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield why the release and other adapters cannot run on one server, each with what to do."""
    shared = environments.shared(case.context, case.environment, case.present.files)
    if shared is None:
        return
    moving = shared.moving(case.after.get())
    if shared.canary and not rollback:
        # Else the server that loads the adapter by its own name would not be asked.
        hosts = shared._replace(environment=case.environment).listing()
        if hosts:
            yield (
                f"{case.environment}: is the canary of {shared.environment}, but {hosts[0]} runs it as an adapter too",
                f"name an environment that nothing else runs: `canary` in {shared.environment}'s environment.yaml",
            )
    if environment_file.read(case.environment, case.present.files).variant == "adapter":
        yield from shared_server.of_adapter(
            shared, moving, as_verified=as_verified, rollback=rollback
        )
    else:
        patch = _wanted(case)[layout.ENVIRONMENTS / case.environment / overlays.SERVER]
        yield from shared_server.of_server(shared, moving, plain_yaml.load(patch.decode()))


def _wanted(case: Case) -> dict[Path, bytes]:
    """The files that the move writes for a cluster."""
    return rendered(case.context.records, case.environment, case.after.get(), case.release().image)


def _from_section(case: Case) -> Mapping[Path, bytes | None]:
    from release.monitoring import component
    from release.monitoring.objectives import Scope

    context = case.context
    commit = context.records.at(context.trunk)
    section = commit.sections(
        _MonitorSection, f"{context.target}:{layout.PARAMS}", "fix it on the target branch"
    )
    runtime = commit.runtime(commit.serve.runtime)
    return component.committed(
        Scope(context.name, case.environment), section.monitor, runtime.metrics
    )


def repaired(
    context: checklist.PromotionContext, name: str, present: EnvironmentState, runs: Pointer
) -> tuple[Change, list[str]]:
    """Return the commit that restores the environment ``name``, which runs ``runs``, and a line for each changed file.

    Raises PromotionRefused if the release is in quarantine, EvidenceRefused if nobody who may sign signed its evidence.
    """
    check = partial(requirements.held_back, context, runs.digest, runs.model)
    if refused := checklist.refusal(
        f"{name} stays as it is; `lockstep rollback {name}` leaves the release",
        (checklist.run("quarantine", check),),
    ):
        raise refused
    signed = environments.running(context, name, present)
    result = checklist.CheckResult()
    environments.intact(context, name, present, result)
    tags = context.missing_tags()
    if not result.failures:
        return Change({}, "", tags), []
    files = move_commit.written(context, name, present, runs, signed)
    message = f"Write {name} again\n\n{runs.version}, as `lockstep promote` writes it.\n"
    return Change(files, message, tags), [failure.what for failure in result.failures]
