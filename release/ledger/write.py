"""Writes a move: one commit, and one push that moves the branch and creates the tags, or does nothing.

The commit is built from git objects: index, work tree, branches and tags of this clone are not touched. ``push`` then
asks the remote to move its branch from exactly ``tip`` and to create the tags, in one transaction; without a remote
``here`` does the same in this clone. A run killed at any point leaves the ledger as before or as intended, and at most
unreferenced objects and the temporary folder of ``trees.changed``.

Commits are signed if git is configured to (``commit.gpgSign``). Tags are not: a tag proves nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from checks.process.errors import Outrun, PromotionRefused
from checks.process.text import redact
from release.adapters import projects
from release.adapters.git import Git
from release.ledger import message, place, push, trees
from release.ledger.types import Change, Place, Tag, Wanted


def commit(
    where: Place, tip: str, change: Change, environments: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """As ``Ledger.commit``. Also returns the tags that failed, one line each.

    If only other projects changed since ``tip``, the change is committed on the new tip.
    ``environments``: those whose moves an Outrun reports.
    """
    ident = identity(where.git, "GIT_COMMITTER_IDENT").decode(errors="surrogateescape").strip()
    if where.remote is None:
        push.follow(where, tip)
    move = push.move if where.remote else push.move_here
    while True:
        made = _made(where.git, tip, change, where.prefix)
        tags = {f"refs/tags/{tag.name}": _tag(where.git, tag, made, ident) for tag in change.tags}
        if made == tip and not tags:
            return made, ()
        try:
            return made, move(where, Wanted(tip, made, tags), environments)
        except Outrun:
            if (now := _with_others(where, tip, change)) is None:
                raise
            tip = now


def _with_others(where: Place, tip: str, change: Change) -> str | None:
    """Return the branch's new tip if only other projects changed since ``tip``: what was decided on that still holds.

    A change of ``change.beside`` is none of those. A release from quarantine names the commit that it was made on.
    """
    now = place.look(where).tip
    folder = Path(where.prefix)
    if now is None or message.read_release(change.message) is not None:
        return None
    place.bring(where, now)
    if folder not in projects.folders(where.git, now):
        return None
    return now if projects.is_apart(where.git, tip, now, folder, change.beside) else None


def propose(where: Place, tip: str, change: Change, branch: str) -> str:
    """As ``Ledger.propose``."""
    if where.remote is None:
        raise PromotionRefused(
            "there is no remote to propose a move to",
            "move the environment itself, or add a remote",
        )
    made = commit_of(where.git, tip, change, where.prefix)
    return tip if made == tip else push.propose(where, made, branch)


def identity(git: Git, variable: str) -> bytes:
    """Return git's ``variable`` of the author or the committer. Raises PromotionRefused if git does not know them."""
    answer = git.run("-c", "user.useConfigOnly=true", "var", variable)
    if answer.code != 0:
        raise PromotionRefused(
            "git does not know who commits",
            'git config user.name "NAME" && git config user.email ADDRESS',
        )
    return answer.out


def commit_of(git: Git, tip: str, change: Change, prefix: str = "") -> str:
    """The commit as an unreferenced object; ``tip`` if it would change nothing.

    ``prefix``: the folder of the change's paths in the repository. Raises PromotionRefused if git does not know who
    commits or cannot sign, or if a path is invalid.
    """
    identity(git, "GIT_COMMITTER_IDENT")
    return _made(git, tip, change, prefix)


def _made(git: Git, tip: str, change: Change, prefix: str) -> str:
    files = {prefix + path.as_posix(): data for path, data in change.files.items()}
    files |= {path.as_posix(): data for path, data in change.elsewhere.items()}
    tree = trees.changed(git, tip, files)
    before = git.object(f"{tip}^{{tree}}")
    if before is not None and tree == before.name:
        return tip
    sign = signing(git)
    answer = git.run(
        "commit-tree", *sign, "-p", tip, "-F", "-", tree, given=change.message.encode()
    )
    if answer.code != 0:
        todo = (
            "see that git can sign (git commit --allow-empty), or unset commit.gpgSign"
            if sign
            else "fix it"
        )
        raise PromotionRefused(f"the commit cannot be made: {answer.why()}", todo)
    return answer.out.decode().strip()


def signing(git: Git) -> list[str]:
    """The option of ``git commit-tree`` that signs, if git is configured to sign commits."""
    return ["-S"] if git.config("commit.gpgSign", kind="bool") == "true" else []


def _tag(git: Git, tag: Tag, made: str, ident: str) -> str:
    """An annotated tag as an unreferenced object."""
    if git.run("check-ref-format", f"refs/tags/{tag.name}").code != 0:
        raise PromotionRefused(
            f"{redact(tag.name)}: is not a valid tag name", "git check-ref-format has the rules"
        )
    head = f"object {tag.commit or made}\ntype commit\ntag {tag.name}\ntagger {ident}\n\n"
    return git.line(
        "mktag", given=f"{head}{tag.message.rstrip()}\n".encode(errors="surrogateescape")
    )
