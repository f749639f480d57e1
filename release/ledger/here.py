"""The ledger of a clone without a remote: its own branch says what environments run.

``git update-ref`` moves the branch and creates the tags, under the same conditions as a push. Then work trees that have
the branch checked out are updated, as in a fast-forward. A work tree with edits of these files refuses before anything
moves. After a kill in between, the branch is right, and the next move updates the work trees first.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import PromotionRefused
from release.adapters.git import Said
from release.ledger import message, place
from release.ledger.types import Place, Wanted

_TRIES = 5


def move(where: Place, wanted: Wanted, environments: Sequence[str]) -> tuple[str, ...]:
    """Move the branch of this clone, its tags, and the work trees that have it checked out. As ``push.move``."""
    folders = _checked_out(where) if wanted.moves else []
    for folder in folders:
        answer = _forward(where, folder, wanted.tip, wanted.made, "-n")
        if answer.code != 0:
            if (now := place.look(where).tip) != wanted.tip:
                raise place.outrun(where, wanted.tip, now, environments)
            raise PromotionRefused(
                f"{folder}: has edits of files that the move changes: {answer.why()}",
                "commit or restore them, then again",
            )
    answer, lost = _update(where, wanted), tuple[str, ...]()
    # The branch does not wait for a tag.
    if answer.code != 0 and wanted.tags and place.look(where).tip == wanted.tip:
        lost = tuple(
            f"tag {name.removeprefix('refs/tags/')}: was not created: {answer.why()}"
            for name in wanted.tags
        )
        answer = _update(where, wanted._replace(tags={}))
    now = place.look(where).tip
    if now not in (wanted.tip, wanted.made):
        raise place.outrun(where, wanted.tip, now, environments)
    if now != wanted.made or (answer.code != 0 and not wanted.moves):
        raise PromotionRefused(
            f"{where.shown} was not moved: {answer.why()}", "see to that, then run it again"
        )
    for folder in folders:
        _forward(where, folder, wanted.tip, wanted.made)
    return lost


def _update(where: Place, wanted: Wanted) -> Said:
    lines = [f"update {where.ref} {wanted.made} {wanted.tip}"] if wanted.moves else []
    lines += [f"create {name} {value}" for name, value in wanted.tags.items()]
    script = "".join(f"{line}\n" for line in ("start", *lines, "prepare", "commit"))
    return where.git.run("update-ref", "-m", "lockstep", "--stdin", given=script.encode())


def _forward(where: Place, folder: Path, old: str, new: str, *options: str) -> Said:
    """Update index and files of a work tree from one commit to another: those that differ and are unmodified.

    If that is impossible nothing changes. Retries while another git process holds the index.
    """
    where.git.run("update-index", "-q", "--refresh", at=folder)
    for attempt in range(_TRIES):
        answer = where.git.run("read-tree", *options, "-m", "-u", old, new, at=folder)
        if "index.lock" not in answer.err:
            break
        time.sleep(0.1 * 2**attempt)
    return answer


def follow(where: Place, tip: str) -> None:
    """Update work trees after a move that was killed in between; no change if they are up to date.

    Only files that are exactly as before the move are changed.
    """
    git = where.git
    commits = git.objects([tip])
    head, _, body = commits[tip].partition(b"\n\n")
    text = body.decode(errors="replace")
    if head.count(b"\nparent ") != 1 or not (
        message.read(text).trailers or message.read_release(text)
    ):
        return
    for folder in _checked_out(where):
        _forward(where, folder, f"{tip}^", tip)


def _checked_out(where: Place) -> list[Path]:
    """The work trees that have the branch checked out."""
    folders, ask = list[Path](), ("worktree", "list", "--porcelain")
    answer = where.git.run(*ask, "-z")
    # git before 2.36 knows no -z: there a folder whose name has a line break is not found.
    listed = answer.out if answer.code == 0 else where.git.ask(*ask).replace(b"\n", b"\0")
    for block in listed.decode(errors="surrogateescape").split("\0\0"):
        lines = block.split("\0")
        if f"branch {where.ref}" in lines and "bare" not in lines:
            folder = Path(lines[0].removeprefix("worktree "))
            if folder.is_dir():
                folders.append(folder)
    return folders
