"""One commit, and one push that moves the branch and makes the tags, or nothing.

The commit is made of objects alone: no index, no work tree, no branch and no tag of this clone is written. Then the
remote is asked to move its branch from exactly ``tip`` to the commit, and to make tags that must not be there yet, as
one transaction (``git push --atomic`` with leases). A remote that has no transactions refuses. So a run that is killed
at any point leaves the remote as it was, or as it was to be; what it leaves here are objects that nobody names.

Whatever git says about the push, the remote is looked at again, and what it shows is what is reported: a push whose
answer was lost has happened when the branch contains the commit, and one that was called done has not when it does not.

Without a remote the branch of this clone is the ledger: ``git update-ref`` moves it and makes the tags, with the same
conditions; then the files of a work tree that has the branch checked out follow, as in a fast-forward. Killed in
between, the branch is the truth, and the next move brings the work tree after it first. A work tree in which these
files are edited refuses before anything moves.

Commits are signed when git is configured so (``commit.gpgSign``). Tags are not: each names a commit, and counts for
nothing by itself.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from checks import layout, pointer
from checks.errors import EvidenceRefused, Outrun, PromotionRefused, RemoteRefused
from release.ledger import message, place, trees
from release.ledger.git import Git, Said, printable
from release.ledger.place import Place
from release.ledger.types import Change, Tag

_AGAIN = 6  # times that a push is tried while another one holds the remote's locks
# What a remote says of a push that met another one, and of nothing else.
_BUSY = ("failed to update ref", "cannot lock ref", "failed to lock", "incorrect old value")


def commit(where: Place, tip: str, change: Change, environments: Sequence[str]) -> str:
    """As ``Ledger.commit``; ``environments`` are those whose moves an Outrun tells of."""
    git = where.git
    ident = _identity(git)
    if where.remote is None:
        follow(where, tip)
    files = {where.prefix + path.as_posix(): data for path, data in change.files.items()}
    tree = trees.changed(git, tip, files)
    if tree == git.line("rev-parse", f"{tip}^{{tree}}"):
        return tip
    made = _commit(git, tree, tip, change)
    tags = {f"refs/tags/{tag.name}": _tag(git, tag, made, ident) for tag in change.tags}
    if where.remote is None:
        _move_here(where, tip, made, tags, environments)
    else:
        _push(where, tip, made, tags, environments)
    return made


def _identity(git: Git) -> str:
    said = git.run("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    if said.code != 0:
        raise PromotionRefused(
            "git does not know who commits", 'git config user.name "NAME" && git config user.email ADDRESS'
        )
    return said.out.decode(errors="surrogateescape").strip()


def _commit(git: Git, tree: str, tip: str, change: Change) -> str:
    author = change.author
    env = {"GIT_AUTHOR_NAME": printable(author.name), "GIT_AUTHOR_EMAIL": printable(author.email)} if author else {}
    sign = ["-S"] if git.config("commit.gpgSign", kind="bool") == "true" else []
    said = git.run("commit-tree", *sign, "-p", tip, "-F", "-", tree, given=change.message.encode(), env=env)
    if said.code != 0:
        todo = "see that git can sign (git commit --allow-empty), or unset commit.gpgSign" if sign else "mend it"
        raise PromotionRefused(f"the commit cannot be made: {said.why()}", todo)
    return said.out.decode().strip()


def _tag(git: Git, tag: Tag, made: str, ident: str) -> str:
    """An annotated tag as an object, which no ref of this clone names."""
    git.line("check-ref-format", f"refs/tags/{tag.name}")
    head = f"object {tag.commit or made}\ntype commit\ntag {tag.name}\ntagger {ident}\n\n"
    return git.line("mktag", given=f"{head}{tag.message.rstrip()}\n".encode(errors="surrogateescape"))


def _push(where: Place, tip: str, made: str, tags: dict[str, str], environments: Sequence[str]) -> None:
    assert where.remote is not None
    leases = [f"--force-with-lease={where.ref}:{tip}", *(f"--force-with-lease={name}:" for name in tags)]
    refs = [f"{made}:{where.ref}", *(f"{value}:{name}" for name, value in tags.items())]
    for attempt in range(_AGAIN):
        said = where.git.run(
            "push", "--porcelain", "--atomic", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", *leases,
            "--", where.remote, *refs,
        )  # fmt: skip
        if _happened(where, tip, made, tags, said, environments):
            return
        if not any(word in said.err + said.out.decode(errors="replace") for word in _BUSY):
            break
        time.sleep(0.1 * 2**attempt)
    raise RemoteRefused(f"{where.shown}: {_refusal(said)}: nothing was moved", _todo(said))


def _happened(where: Place, tip: str, made: str, tags: dict[str, str], said: Said, environments: Sequence[str]) -> bool:
    """Whether the remote now has the commit. Raises Outrun when somebody else's is there instead."""
    try:
        now = place.look(where)
        if now.tip is not None:
            place.bring(where, now.tip)
    except RemoteRefused as refused:
        how = "it says so, but then" if said.code == 0 else f"{said.why()}; then"
        raise RemoteRefused(
            f"whether it was moved is not known: {how} {refused.what}",
            "run it again when the remote answers: it finds out",
        ) from refused
    if now.tip is not None and where.git.says("merge-base", "--is-ancestor", made, now.tip):
        return True
    if now.tip != tip:
        raise _outrun(where, tip, now.tip, environments)
    taken = [name.removeprefix("refs/tags/") for name in tags if name.removeprefix("refs/tags/") in now.tags]
    if taken:
        raise PromotionRefused(
            f"tag {taken[0]}: is there already: nothing was moved",
            f"see who made it, then take it away: git push {printable(where.remote or '.')} :refs/tags/{taken[0]}",
        )
    if said.code == 0:
        raise RemoteRefused(
            f"{where.shown}: said that it took commit {made[:12]}, and shows {tip[:12]} still",
            "ask who runs the remote",
        )
    return False


def _refusal(said: Said) -> str:
    """Why the remote did not take it: its own words, and git's one for the branch."""
    if said.code is None:
        return said.why()
    lines = [line.split("\t") for line in said.out.decode(errors="replace").splitlines() if line.startswith("!")]
    told = next((fields[-1] for fields in lines if "atomic" not in fields[-1]), lines[0][-1] if lines else "")
    words = said.why()
    return printable(f"{words} {told}") if told and told not in words else words


def _todo(said: Said) -> str:
    if said.code is None or not said.out.strip():
        return "it may still arrive if the connection was cut: run it again, it finds out"
    return "do what the remote asks for, then run it again"


def _outrun(where: Place, tip: str, now: str | None, environments: Sequence[str]) -> Outrun:
    """Who moved the branch, and what to."""
    todo = "look at `lockstep status`, and run it again if it is still wanted"
    if now is None:
        return Outrun(f"{where.shown}: was taken away meanwhile", todo)
    git = where.git
    text = git.line(
        "log", "--max-count=1", "--no-show-signature", "--format=%an <%ae> committed %h: %s", now, f"^{tip}"
    )
    moved = []
    for environment in environments:
        path = f"{where.prefix}{layout.ENVIRONMENTS}/{environment}/{layout.POINTER}"
        try:
            old, new = (trees.read(git, commit, path) for commit in (tip, now))
            if old != new:
                its = pointer.parse(new, path) if new is not None else None
                moved.append(f"{environment} runs {f'{its.version} ({its.digest[:19]}…)' if its else 'nothing'} now")
        except EvidenceRefused as refused:
            moved.append(refused.what)
    who = printable(text) or f"it is at {now[:12]}"
    return Outrun(f"{where.shown} was moved by somebody else first: {'; '.join([who, *moved])}", todo)


def _move_here(where: Place, tip: str, made: str, tags: dict[str, str], environments: Sequence[str]) -> None:
    """Move the branch of this clone, and the work trees that have it checked out."""
    git, trees_of = where.git, _checked_out(where)
    for folder in trees_of:
        git.run("update-index", "-q", "--refresh", at=folder)
        said = git.run("read-tree", "-n", "-m", "-u", tip, made, at=folder)
        if said.code != 0:
            raise PromotionRefused(
                f"{folder}: files that this moves are edited there: {said.why()}", "commit or restore them, then again"
            )
    lines = [f"update {where.ref} {made} {tip}", *(f"create {name} {value}" for name, value in tags.items())]
    script = "\0".join(part for line in ["start", *lines, "prepare", "commit"] for part in _words(line)) + "\0"
    said = git.run("update-ref", "-m", "lockstep", "--stdin", "-z", given=script.encode())
    now = place.look(where)
    if now.tip != made:
        if now.tip != tip:
            raise _outrun(where, tip, now.tip, environments)
        raise PromotionRefused(f"{where.shown} was not moved: {said.why()}", "see to it, then run it again")
    for folder in trees_of:
        git.run("read-tree", "-m", "-u", tip, made, at=folder)


def _words(line: str) -> list[str]:
    """One command of ``git update-ref --stdin -z``: its words end with NUL, but the first two are one."""
    verb, *rest = line.split(" ")
    return [f"{verb} {rest[0]}", *rest[1:]] if rest else [verb]


def follow(where: Place, tip: str) -> None:
    """Bring work trees after the last move, when a run was killed before it could. No change where they have it.

    Only files that are exactly as before the move change.
    """
    git = where.git
    commits = git.objects([tip])
    head, _, body = commits[tip].partition(b"\n\n")
    if not message.read(body.decode(errors="replace")).trailers or head.count(b"\nparent ") != 1:
        return
    for folder in _checked_out(where):
        git.run("update-index", "-q", "--refresh", at=folder)
        git.run("read-tree", "-m", "-u", f"{tip}^", tip, at=folder)


def _checked_out(where: Place) -> list[Path]:
    """The work trees that have the branch checked out."""
    found = list[Path]()
    for block in where.git.line("worktree", "list", "--porcelain").split("\n\n"):
        lines = block.split("\n")
        if f"branch {where.ref}" in lines and "bare" not in lines:
            folder = Path(lines[0].removeprefix("worktree "))
            if folder.is_dir():
                found.append(folder)
    return found
