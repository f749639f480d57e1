"""Updates the mirrors after a promotion or a rollback. Failures are reported and never fatal: the move is made."""

import time
from pathlib import Path

from checks.config.params import Params
from checks.formats.pointer import Pointer
from checks.formats.statement import Statement
from checks.process.errors import ParamsRefused, Refusal
from checks.process.text import redact
from checks.storage import layout
from release.ledger import released_pointers
from release.mirrors.types import MirrorUnavailable
from release.record.records import Records

DEADLINE = 10.0  # seconds that a promotion waits for mirrors: it has happened already


def update_mirrors(
    root: Path,
    params: Params,
    environment: str,
    pointer: Pointer | None,
    statement: Statement | None,
) -> list[str]:
    """Tell the mirrors what ``environment`` runs now (``pointer`` None: nothing). Returns failures, one line each.

    An unreachable mirror is a failure after ``DEADLINE`` seconds at the latest.
    """

    from release.mirrors import compare, mlflow

    ends = time.monotonic() + DEADLINE
    uri = mlflow.address(root, params)
    todo = "`lockstep reconcile --fix` fixes it"
    try:
        releases: tuple[compare.ReleasedVersion, ...] = ()
        if pointer is not None:
            run = released_pointers.runs(root, [pointer.commit], DEADLINE / 4).get(pointer.commit)
            releases = (mlflow.version(pointer, statement, run),)
        wanted = compare.WantedModel(
            name=mlflow.model_name(root, params),
            releases=releases,
            aliases=mlflow.aliases({environment: pointer}),
            whole=False,
        )
        findings = mlflow.ask(uri, wanted, True, ends - time.monotonic())
    except (MirrorUnavailable, Refusal) as trouble:
        return [f"MLflow at {redact(uri)} did not follow: {redact(str(trouble))}; {todo}"]
    return [
        f"MLflow at {redact(uri)}: {one.what}: {one.mirror}; {todo}"
        for one in findings
        if not one.fixed
    ]


def after_move(
    records: Records,
    target: str,
    commit: str,
    environment: str,
    pointer: Pointer | None,
    statement: Statement | None,
) -> list[str]:
    """``update_mirrors`` with the parameters of ``commit``, the tip of the branch ``target``."""
    try:
        params = records.at(commit).params(f"{target}:{layout.PARAMS}")
    except ParamsRefused as refused:
        return [f"mirrors did not follow: {refused.what}"]
    return update_mirrors(records.root, params, environment, pointer, statement)
