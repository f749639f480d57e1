"""What runs in a process of its own and is killed around a call of git: a shim in git's place counts the calls."""

import os
import select
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

# Each call costs little more than git's own: the shell starts no other program, and becomes git where nothing is killed.
# What only reads is no call: it changes nothing, and one process reads until the end.
_READS = 'case " $* " in *" cat-file --batch "*) exec "{git}" "$@";; esac'
_SHIM = f"""#!/bin/sh
{_READS}
n=0; [ ! -e "$COUNT" ] || read -r n <"$COUNT"; n=$((n + 1)); echo $n >"$COUNT"
[ "$n" = "$KILL" ] || exec "{{git}}" "$@"
[ "$WHEN" = before ] || "{{git}}" "$@"
kill -9 $PPID
"""

# Stands still before and after each call, until it is told to go on.
_WATCHED = f"""#!/bin/sh
{_READS}
echo before >"$SAYS"; read -r _ <"$GOES"
"{{git}}" "$@"; code=$?
echo after >"$SAYS"; read -r _ <"$GOES"
exit $code
"""


def forked(do: Callable[[], object]) -> int:
    """Do it in a process of its own: 0 when it ends well, -9 when it is killed."""
    return _ended(_started(do))


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _started(do: Callable[[], object]) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        signal.alarm(120)
        do()
        code = 0
    finally:
        os._exit(code)


def shimmed(folder: Path, do: Callable[[], object], kill: int = 0, when: str = "") -> int:
    """The same, killed ``when`` ("before" or "after") its ``kill``-th call of git. ``folder / "count"``: how many it made."""

    (folder / "count").unlink(missing_ok=True)
    shim = _shim(folder, _SHIM)
    return forked(_with(shim, do, COUNT=str(folder / "count"), KILL=str(kill), WHEN=when))


def watched(folder: Path, do: Callable[[], object], look: Callable[[int, str], object]) -> int:
    """The same, killed nowhere: before and after each call it stands still while ``look(call, when)`` is called.

    Returns the number of calls. What lies on the disk then is what a kill at that moment leaves.
    """
    shim = _shim(folder, _WATCHED)
    names = [shim.with_name(name) for name in ("says", "goes")]
    for name in names:
        os.mkfifo(name)
    says, goes = (os.open(name, os.O_RDWR) for name in names)
    child = _started(_with(shim, do, SAYS=str(names[0]), GOES=str(names[1])))
    ended, calls = os.pidfd_open(child), 0
    while says in select.select([says, ended], [], [])[0]:
        when = os.read(says, 100).decode().strip()
        calls += when == "before"
        look(calls, when)
        os.write(goes, b"go on\n")
    for handle in (says, goes, ended):
        os.close(handle)
    shutil.rmtree(shim.parent)
    assert _ended(child) == 0
    return calls


def _shim(folder: Path, text: str) -> Path:
    shim = folder / "shim" / "git"
    if not shim.exists():
        shim.parent.mkdir()
        shim.write_text(text.replace("{git}", shutil.which("git") or ""))
        shim.chmod(0o755)
    return shim


def _with(shim: Path, do: Callable[[], object], **variables: str) -> Callable[[], object]:
    def changed() -> None:
        os.environ.update(variables, PATH=f"{shim.parent}:{os.environ['PATH']}")
        do()

    return changed
