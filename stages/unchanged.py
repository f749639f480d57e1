"""unchanged: says whether a stage has to run, in one process. `dvc repro` takes twice as long to find nothing to do.

In:  as ``still_pinned`` and ``code``, and all that DVC compares with dvc.lock.
Out: as ``still_pinned`` and ``code``; on standard output what `dvc status --json` prints, without the stage ``code``,
 which has just run.
Run: python -m stages.unchanged [STAGE]...         (`lockstep run` does so before it starts DVC. Refusals name fetch.)
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from checks.code import lock
from checks.config.params import Params
from checks.storage import layout
from stages import entry
from stages.code import code
from stages.still_pinned import still_pinned
from stages.tools import guarded_dvc


def unchanged(params: Params, root: Path, targets: Sequence[str] = ()) -> str:
    """Check the local sources, write code.lock and print what DVC would run of ``targets`` and the stages before them.

    Without targets: of all stages. Prints nothing if DVC cannot say it. Raises as ``still_pinned`` and ``code`` do.
    """
    sources = still_pinned(params, root)
    code(params, root)
    # Without a target DVC takes the stages of all projects.
    status = guarded_dvc.status(targets or [layout.PIPELINE.as_posix()], with_deps=bool(targets))
    if status is None:
        return sources
    if status.get(lock.STAGE) == ["always changed"]:
        del status[lock.STAGE]
    sys.stdout.write(json.dumps(status))
    return sources if status else f"nothing changed, no stage has to run; {sources}"


if __name__ == "__main__":
    entry.run("fetch", lambda params, root: unchanged(params, root, sys.argv[1:]))
