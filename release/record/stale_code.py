"""Names the stages that run again in this version of Lockstep, and writes code.lock."""

import contextlib
from pathlib import Path

from checks.code import lock
from checks.config import params_file
from checks.config.params import Params
from checks.decision import policy
from checks.process.errors import Refusal
from checks.storage import layout


def stale(
    top: Path, roots: list[Path], new: dict[str, bytes], *, write: bool
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the stages that run again, by the folder of their project, and what the new params.yaml cannot say.

    ``new``: the files that an upgrade writes, by path below ``top``. Writes code.lock with ``write``.
    """
    stages, problems = dict[str, list[str]](), list[str]()
    for root in roots:
        folder, path = root.relative_to(top).as_posix(), root / layout.PARAMS
        data = new.get(path.relative_to(top).as_posix())
        try:
            params = params_file.parse(data.decode(), str(path)) if data else params_file.load(path)
            stages[folder] = _stale(root, params, write=write)
        except Refusal as refused:
            problems += [f"{folder}: {line}" for line in (str(refused), *refused.others)]
    return stages, tuple(problems)


def _stale(root: Path, params: Params, *, write: bool) -> list[str]:
    """Return the stages whose code is another one in this version; writes code.lock. Raises as ``lock.of``.

    The stage ``code`` is among them if the policy's defaults in code.lock are others. Where nothing ran yet, as after
    ``init``, the first run writes code.lock, and nothing runs again.
    """
    new, defaults = lock.of(params, lock.at(root)), policy.defaults(params)
    old, recorded = dict[str, str](), None
    with contextlib.suppress(Refusal):
        committed = lock.read(root)
        old, recorded = committed.stages, committed.defaults
    if write:
        lock.write(root, params, defaults)
    if not old and not (root / layout.LOCK).exists():
        return []
    first = [] if recorded == defaults else [lock.STAGE]
    return first + [stage for stage, digest in new.items() if old.get(stage) != digest]
