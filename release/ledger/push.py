"""Pushes a move: the branch and its tags in one transaction, then reads the remote to see what happened.

``git push --atomic`` with leases is a compare-and-swap: the branch from exactly the tip that was read, the tags from
nothing. A remote without transactions refuses it. Whatever git reports, the remote is read again and its state decides:
a push whose answer was lost has succeeded if the branch contains the commit, and one that was reported as done has
failed if it does not.

In a clone without a remote, ``git update-ref`` moves the branch and creates the tags, under the same conditions. Then
work trees that have the branch checked out are updated, as in a fast-forward. A work tree with edits of these refuses
before anything moves. After a kill in between, the branch is right, and the next move updates the work trees first.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import PromotionRefused, RemoteRefused
from checks.process.text import redact
from release.adapters.git import Said
from release.ledger import message, place
from release.ledger.types import Place, TagNames, Wanted

_TRIES = 6  # while another push holds the remote's locks
# Messages of a remote that nearly always mean that two pushes met.
_BUSY = ("failed to update ref", "cannot lock ref", "failed to lock", "incorrect old value")
# Messages of git when the connection ends after data was sent.
_CUT = ("RPC failed", "hung up", "disconnect", "early EOF", "Broken pipe", "Connection reset")

_FOLLOWS = 5


def move(where: Place, wanted: Wanted, environments: Sequence[str]) -> tuple[str, ...]:
    """Move the remote's branch and create its tags. Returns the tags that failed, one line each.

    Raises as ``Ledger.commit``.
    """
    answer, taken = _pushed(where, wanted, environments)
    if answer is None:
        return ()
    cut = not taken and (answer.code is None or any(word in answer.err for word in _CUT))
    if cut or not wanted.tags:
        todo = (
            "run it again: it finds out if it arrived after all"
            if cut
            else "do what the remote requires, then run it again"
        )
        raise RemoteRefused(f"{where.shown}: {_words(answer)}: nothing was moved", todo)
    why = "somebody else made it meanwhile" if taken else _words(answer)
    lost = taken or tuple(wanted.tags)
    left = wanted._replace(
        tags={name: value for name, value in wanted.tags.items() if name not in lost}
    )
    others = move(where, left, environments) if left.moves or left.tags else ()
    return (
        *(f"tag {name.removeprefix('refs/tags/')}: was not created: {why}" for name in lost),
        *others,
    )


def _pushed(
    where: Place, wanted: Wanted, environments: Sequence[str]
) -> tuple[Said | None, tuple[str, ...]]:
    """None if the remote has the commit; else git's message, and the tags whose names are taken."""
    assert where.remote is not None
    expected = {where.ref: wanted.tip} if wanted.moves else {}
    expected |= dict.fromkeys(wanted.tags, "")
    values = {where.ref: wanted.made, **wanted.tags}
    for attempt in range(_TRIES):
        time.sleep(0.1 * 2**attempt if attempt else 0)
        answer = where.git.run(
            "push", "--porcelain", "--atomic", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
            *(f"--force-with-lease={name}:{value}" for name, value in expected.items()),
            "--", where.remote, *(f"{values[name]}:{name}" for name in expected),
        )  # fmt: skip
        arrived = _arrived(where, wanted, answer, environments)
        if arrived is None:
            return None, ()
        taken = arrived
        if taken or not any(
            word in answer.err + answer.out.decode(errors="replace") for word in _BUSY
        ):
            break
    return answer, taken


def _arrived(
    where: Place, wanted: Wanted, said: Said, environments: Sequence[str]
) -> tuple[str, ...] | None:
    """None if the remote has what was pushed; if it is unchanged, the tags whose names are taken."""
    try:
        now = place.look(where)
        if now.tip is not None:
            place.bring(where, now.tip)
    except RemoteRefused as refused:
        how = "the remote says so, but then" if said.code == 0 else f"{said.why()}; then"
        what = f"whether {where.shown} was moved is not known: {how} {refused.what}"
        raise RemoteRefused(what, "run it again when the remote answers: it finds out") from refused
    there = [name for name in wanted.tags if name.removeprefix("refs/tags/") in now.tags]
    whole = len(there) == len(wanted.tags)
    if wanted.moves and now.tip != wanted.tip:
        if now.tip is None or not where.git.says(
            "merge-base", "--is-ancestor", wanted.made, now.tip
        ):
            raise place.outrun(where, wanted.tip, now.tip, environments)
        if not whole:
            what = f"{where.shown}: took the commit {wanted.made[:12]} without its tags"
            raise RemoteRefused(what, "make them: `lockstep reconcile --fix`")
        return None
    if said.code == 0 and whole and not wanted.moves:
        return None
    if said.code == 0 and not there:
        what = f"{where.shown}: said that it took {wanted.made[:12]}, and shows what it was"
        raise RemoteRefused(what, "ask who runs the remote")
    names = TagNames(now.tags)
    return tuple(name for name in wanted.tags if names.taken(name.removeprefix("refs/tags/")))


def propose(where: Place, made: str, branch: str, tip: str = "") -> str:
    """Create a new branch of the remote at ``made``, or move one from ``tip``. One with the same change is accepted."""
    assert where.remote is not None
    on_branch, git = where._replace(branch=branch), where.git
    answer = git.run(
        "push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no",
        f"--force-with-lease={on_branch.ref}:{tip}", "--", where.remote, f"{made}:{on_branch.ref}",
    )  # fmt: skip
    now = place.look(on_branch).tip
    if now is None or now == tip != made:
        what = f"{on_branch.shown}: was not {'moved' if tip else 'created'}: {_words(answer)}"
        raise RemoteRefused(what, "do what the remote requires, then run it again")
    if now != made:
        place.bring(on_branch, now)
        if not place.same_change(git, now, made):
            todo = f"merge or close its pull request, then: git push {redact(where.remote)} :{on_branch.ref}"
            what = f"{on_branch.shown}: {'was moved meanwhile' if tip else 'already exists with another change'}"
            raise RemoteRefused(what, "run it again" if tip else todo)
    return now


def _words(said: Said) -> str:
    """Why the remote refused: its own message, and git's."""
    words = said.why()
    if said.code is None:
        return words
    lines = [
        line.split("\t")
        for line in said.out.decode(errors="replace").splitlines()
        if line.startswith("!")
    ]
    reasons = (
        [fields[-1] for fields in lines if "atomic" not in fields[-1]]
        or [fields[-1] for fields in lines]
        or [""]
    )
    return redact(f"{words} {reasons[0]}") if reasons[0] not in words else words


def move_here(where: Place, wanted: Wanted, environments: Sequence[str]) -> tuple[str, ...]:
    """Move the branch of this clone, its tags, and the work trees that have it checked out. As ``move``."""
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
    for attempt in range(_FOLLOWS):
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
