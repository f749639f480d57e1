"""What runs in a process of its own and is killed around a call of git: a shim in git's place counts the calls."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

# Each call costs little more than git's own: the shell starts no other program, and becomes git where nothing is killed.
_SHIM = """#!/bin/sh
n=0; [ ! -e "$COUNT" ] || read -r n <"$COUNT"; n=$((n + 1)); echo $n >"$COUNT"
[ "$n" = "$KILL" ] || exec "{git}" "$@"
[ "$WHEN" = before ] || "{git}" "$@"
kill -9 $PPID
"""


def forked(do: Callable[[], object]) -> int:
    """Do it in a process of its own: 0 when it ends well, -9 when it is killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(120)
        do()
        code = 0
    finally:
        os._exit(code)


def shimmed(folder: Path, do: Callable[[], object], kill: int = 0, when: str = "") -> int:
    """The same, killed ``when`` ("before" or "after") its ``kill``-th call of git. ``folder / "count"``: how many it made."""

    def counted() -> None:
        path = f"{folder / 'shim'}:{os.environ['PATH']}"
        os.environ.update(PATH=path, COUNT=str(folder / "count"), KILL=str(kill), WHEN=when)
        do()

    (folder / "count").unlink(missing_ok=True)
    shim = folder / "shim" / "git"
    if not shim.exists():
        shim.parent.mkdir()
        shim.write_text(_SHIM.replace("{git}", shutil.which("git") or ""))
        shim.chmod(0o755)
    return forked(counted)
