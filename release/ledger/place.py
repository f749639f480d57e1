"""Where the ledger is: a branch of a remote, or of this clone without a remote; how it is read, and who moved it."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from checks.config.release_params import Promote
from checks.formats import pointer
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    Outrun,
    ParamsRefused,
    RemoteRefused,
)
from checks.process.text import redact
from checks.storage import layout
from release.adapters.git import Git, Said
from release.ledger import trees
from release.ledger.types import LedgerState, Place, TagRef

_LOOKS = 20  # until two agree
_HASH = re.compile(r"^[0-9a-f]{40}$")


def find(root: Path, promote: Promote, deadline: float) -> Place:
    """The place that ``promote`` names. Raises as ``Ledger.open``."""
    git = Git(root, deadline)
    answer = git.run("rev-parse", "--show-object-format", "--show-prefix")
    if answer.code != 0:
        raise EvidenceRefused(
            f"{root.resolve()}: {answer.why()}",
            answer.todo("clone the repository; a copy of its files has no history"),
        )
    form, _, prefix = answer.out.decode(errors="surrogateescape").removesuffix("\n").partition("\n")
    if form != "sha1":
        raise EvidenceRefused(
            f"{root.resolve()}: is a {form} repository",
            "pointers name commits by SHA-1: use such a repository",
        )
    if "\n" in prefix:  # cat-file takes a line end for the end of a path.
        raise EvidenceRefused(
            f"{redact(prefix)}: the name of a folder has a line break", "rename the folder"
        )
    if git.run("check-ref-format", f"refs/heads/{promote.branch}").code != 0:
        raise ParamsRefused(
            f"promote.branch: {promote.branch}: is not a valid branch name",
            "git check-ref-format has the rules",
        )
    if promote.repository is not None:
        return Place(git, promote.branch, _address(promote.repository), prefix)
    return Place(git, promote.branch, _remote(git, promote.branch), prefix)


def _address(text: str) -> str:
    todo = "write https://HOST/PATH, ssh://…, HOST:PATH or a path; passwords go into git's credential helper"
    if not text.isprintable() or text.startswith("-") or "::" in text:
        raise ParamsRefused("promote.repository: is not an address of a git repository", todo)
    try:
        parts = urlsplit(text)
        secret = parts.password is not None or (
            parts.scheme in ("http", "https") and parts.username is not None
        )
    except ValueError as error:
        raise ParamsRefused(
            "promote.repository: is not an address of a git repository", todo
        ) from error
    if secret:
        raise ParamsRefused("promote.repository: holds a password or a token", todo)
    return text


def _remote(git: Git, branch: str) -> str | None:
    """The upstream remote of the branch, else origin; None if there is no remote at all."""
    answer = git.run("config", "-z", "--get-regexp", r"^(branch|remote)\.")
    lines = answer.out.decode(errors="surrogateescape").split("\0") if answer.code == 0 else []
    values = dict(line.partition("\n")[::2] for line in lines if line)
    remotes = sorted(
        {
            name.split(".", 1)[1].rpartition(".")[0]
            for name in values
            if re.match(r"remote\..*\.url$", name)
        }
    )
    upstream = values.get(f"branch.{branch}.remote")
    names = [line.partition("\n")[0] for line in lines]
    if upstream == "." or (upstream is None and not remotes):
        return None
    chosen = "origin" if upstream is None else upstream
    if any(names.count(f"remote.{chosen}.{kind}") > 1 for kind in ("url", "pushurl")):
        raise EvidenceRefused(
            f"remote {redact(chosen)}: has several addresses, which no push moves at once",
            f"leave it one: git remote set-url --delete {redact(chosen)} URL",
        )
    if chosen in remotes:
        return chosen
    raise EvidenceRefused(
        f"which remote holds {branch} is not known: {', '.join(map(redact, remotes)) or 'there is none'}",
        f"git branch --set-upstream-to REMOTE/{branch} {branch}",
    )


def look(place: Place) -> LedgerState:
    """Read the state of branch and tags. Raises RemoteRefused if the remote does not answer."""
    return _look(_refs(place), place.ref)


def _refs(place: Place) -> bytes:
    if place.remote is None:
        return place.git.ask(
            "for-each-ref",
            "--format=%(objectname)%09%(refname)%0a%(*objectname)%09%(refname)^{}",
            place.ref,
            "refs/tags/",
        )
    answer = place.git.run("ls-remote", "--", place.remote, place.ref, "refs/tags/*")
    if answer.code != 0:
        raise unreachable(place, answer)
    return answer.out


def still(place: Place) -> LedgerState:
    """``look`` at one moment: a move in between would show its tags but not its commit.

    git reads names one after another, so the state is read until two readings agree. Raises RemoteRefused as ``look``,
    and if they never do.
    """
    refs = _refs(place)
    for _ in range(_LOOKS):
        again = _refs(place)
        if again == refs:
            return _look(refs, place.ref)
        refs = again
    raise RemoteRefused(f"{place.shown}: moves faster than it can be read", "run it again")


def unreachable(place: Place, said: Said) -> RemoteRefused:
    """The refusal for a remote that cannot be reached."""
    todo = "see that the remote is up and that git has credentials for it"
    return RemoteRefused(
        f"{place.shown}: {said.why()}", f"{todo}: git ls-remote {redact(place.remote or '.')}"
    )


def _look(out: bytes, branch: str) -> LedgerState:
    refs = dict[str, str]()
    # Split at "\n" alone: a name may hold other characters that end a line.
    for line in out.decode(errors="surrogateescape").split("\n"):
        value, _, name = line.partition("\t")
        if _HASH.match(value):
            refs[name] = value
    tags = {
        name.removeprefix("refs/tags/"): TagRef(
            refs.get(f"{name}^{{}}", value), f"{name}^{{}}" in refs
        )
        for name, value in refs.items()
        if name.startswith("refs/tags/") and not name.endswith("^{}")
    }
    return LedgerState(refs.get(branch), tags)


def bring(place: Place, tip: str) -> None:
    """Fetch ``tip`` with its history, and remember it. Branches, tags and files of the user stay unchanged.

    Raises RemoteRefused if the remote does not send it, or no longer has a commit that it had before.
    """
    if place.remote is None:
        return
    git = place.git
    if not has(git, tip):
        answer = git.run(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=",
            "--no-auto-maintenance", "--", place.remote, place.ref,
        )  # fmt: skip
        if answer.code != 0:
            raise unreachable(place, answer)
        if not has(git, tip):
            raise RemoteRefused(
                f"{place.shown}: said {tip[:12]}, and gives another history",
                "ask again; if it stays so, fix it",
            )
    # for-each-ref takes the whole name, so a tag of that name is not found.
    known = git.line("for-each-ref", "--format=%(objectname)", place.seen)
    if known == tip:
        return
    if known and has(git, known) and not git.says("merge-base", "--is-ancestor", known, tip):
        if git.says("merge-base", "--is-ancestor", tip, known):
            _refuse_older(place, tip, known)
            return
        raise RemoteRefused(
            f"{place.shown}: was {known[:12]} and is {tip[:12]}, which does not contain it: its history was rewritten",
            f"restore the branch; if that was meant: git update-ref -d {place.seen}",
        )
    # On a full disk less is remembered, and what was pushed is not in doubt.
    with suppress(MachineRefused):
        # Whoever loses this race has seen as much.
        git.run("update-ref", place.seen, tip, *([known] if known else []))


def never_was(place: Place) -> None:
    """Raise RemoteRefused if the branch, which is missing, was seen before."""
    known = (
        place.git.line("for-each-ref", "--format=%(objectname)", place.seen) if place.remote else ""
    )
    if known:
        raise RemoteRefused(
            f"{place.shown}: was {known[:12]} and is gone",
            f"restore the branch; if that was meant: git update-ref -d {place.seen}",
        )


def _refuse_older(place: Place, tip: str, known: str) -> None:
    """Refuse a tip older than one seen before: another process has newer data, or the branch was reset."""
    if look(place).tip == tip:
        raise RemoteRefused(
            f"{place.shown}: was {known[:12]} and is {tip[:12]}, which is older: commits were taken from it",
            f"restore the branch; if that was meant: git update-ref -d {place.seen}",
        )


def same_change(git: Git, one: str, two: str) -> bool:
    """Return whether two commits have the same tree and parents."""
    options = ("--no-patch", "--format=%T %P", "--no-show-signature")
    return git.line("show", *options, one) == git.line("show", *options, two)


def has(git: Git, commit: str) -> bool:
    """Whether the commit is in this clone; a partial clone does not fetch it."""
    return (
        git.run("cat-file", "-e", f"{commit}^{{commit}}", env={"GIT_NO_LAZY_FETCH": "1"}).code == 0
    )


def outrun(where: Place, tip: str, now: str | None, environments: Sequence[str]) -> Outrun:
    """The refusal for the second of two moves: who moved the branch to ``now``, and which environments to what."""
    todo = "look at `lockstep status`, and run it again if it is still wanted"
    if now is None:
        return Outrun(f"{where.shown}: was taken away meanwhile", todo)
    form = "--format=%an <%ae> committed %h: %s"
    who = redact(
        where.git.line("log", "--max-count=1", "--no-show-signature", form, now, f"^{tip}")
    )
    runs = [_runs(where, name, tip, now) for name in environments]
    happened = "; ".join([who or f"it is at {now[:12]}", *filter(None, runs)])
    return Outrun(f"{where.shown} was moved by somebody else first: {happened}", todo)


def _runs(where: Place, environment: str, tip: str, now: str) -> str:
    """Return what the environment runs now, if it was moved."""
    path = f"{where.prefix}{layout.ENVIRONMENTS}/{environment}/{layout.POINTER}"
    try:
        old, new = (trees.read(where.git, commit, path) for commit in (tip, now))
        if old == new:
            return ""
        running = pointer.parse(new, path) if new is not None else None
    except EvidenceRefused as refused:
        return refused.what
    return f"{environment} runs {f'{running.version} ({running.digest[:19]}…)' if running else 'nothing'} now"
