"""What tells others what git says: MLflow's model registry and tags; and what git expects to be: images, clusters.

Nothing is decided by a mirror, and none of them is ever read back into git. A promotion tells them once (``follow``);
whatever they miss, or is changed in them by hand, `lockstep reconcile` finds, and with --fix mends from git.
"""

from pathlib import Path

from checks.params import Params
from checks.pointer import Pointer
from checks.statement import Statement

DEADLINE = 10.0  # seconds that a promotion waits for mirrors: it has happened already


def follow(
    root: Path, params: Params, environment: str, pointer: Pointer | None, statement: Statement | None
) -> list[str]:
    """Tell the mirrors what ``environment`` runs now (``pointer`` None: nothing); a line for each thing that could not
    follow.

    A mirror that cannot be reached is such a line, after ``DEADLINE`` at the latest.
    """
    import time

    from checks.errors import Refusal
    from release.ledger.git import printable
    from release.mirrors import compare, mlflow, past
    from release.mirrors.types import Silent

    ends = time.monotonic() + DEADLINE
    where = mlflow.address(root, params)
    todo = "`lockstep reconcile --fix` mends it"
    try:
        releases: tuple[compare.Release, ...] = ()
        if pointer is not None:
            run = past.runs(root, [pointer.commit], DEADLINE / 4).get(pointer.commit)
            releases = (mlflow.version(pointer, statement, run),)
        wanted = compare.Wanted(
            name=params.serve.name, releases=releases, aliases=mlflow.aliases({environment: pointer}), whole=False
        )
        found = mlflow.ask(where, wanted, True, ends - time.monotonic())
    except (Silent, Refusal) as trouble:
        return [f"MLflow at {where.shown} did not follow: {printable(str(trouble))}; {todo}"]
    return [f"MLflow at {where.shown}: {one.what}: {one.mirror}; {todo}" for one in found if not one.fixed]
