"""The commit that moves an environment: the pointer, its evidence, and the files for the cluster.

As a pull request it is pushed to a branch, and the request is opened through GitHub's API. The token comes from
GITHUB_TOKEN and is never printed. Without a token, or if the ledger is on another host, the branch is pushed and the
address for opening a pull request is returned.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import ValidationError

from checks.formats import pointer, quarantine
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries
from checks.formats.serving import Seconds
from checks.process.errors import PromotionRefused, RemoteRefused
from checks.process.text import escape
from checks.records.rows import Record
from checks.storage import files, layout
from release.adapters.git import Git
from release.adapters.retries import RequestError
from release.evidence.attached_statements import Released
from release.ledger import DEADLINE, Change, compose, next_version, tags_for
from release.ledger import untagged as untagged_of
from release.overlay import overlays
from release.promotion.checklist import Check, CheckResult, PromotionContext
from release.promotion.environment import (
    Case,
    EnvironmentState,
    approvals_folder,
    folder,
    rendered,
    shared,
)

_SERVER = "https://github.com"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")


class MoveResult(Record):
    """The result of a promotion or a rollback. ``notes``: what was ignored or failed, and why, one line each.

    ``done``: ``moved``; ``already``: it ran that release before; ``repaired``: what it ran stays, and files that a move
    writes were written again; ``proposed``: the commit is in a pull request; ``planned``: a dry run.
    """

    environment: str
    done: Literal["moved", "already", "repaired", "proposed", "planned"]
    before: Pointer | None  # None: nothing ran, or what ran cannot be read
    after: Pointer | None
    commit: str | None = None  # The ledger's commit.
    tags: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    diff: str
    notes: tuple[str, ...]
    seconds: Seconds = 0.0


def point(
    context: PromotionContext,
    image: str,
    released: Released,
    version: str | None,
    part: Literal["major", "minor"],
) -> Pointer:
    """The pointer to ``image`` (a reference with digest), with the given or the next ``version``.

    Raises PromotionRefused if the version belongs to another image, if the image already has another version, or if a
    name in the reference cannot be written into a pointer.
    """
    release, moves = released.statement.predicate, context.moves()
    digest = release.image.image
    own = next_version(
        context.name, context.ledger.tags(), moves, release.image.model, digest, part
    )
    known = {move.deployed.version: move.deployed.digest for move in moves if move.deployed}
    if version is not None and known.get(version, digest) != digest:
        raise PromotionRefused(
            f"version {version}: is the image {known[version]}", f"choose another, such as {own}"
        )
    if version not in (None, own) and digest in known.values():
        raise PromotionRefused(
            f"version {version}: this image is {own} already", f"leave it out, or say {own}"
        )
    try:
        return Pointer(
            model=release.image.model, commit=release.commit, version=version or own, image=image,
            evidence=released.digest,
        )  # fmt: skip
    except ValidationError as error:
        raise PromotionRefused(
            f"no pointer can name it: {files.first(error)}",
            "keep the image where its name has no spaces or signs",
        ) from error


def move(
    context: PromotionContext, environment: str, kind: Literal["promote", "rollback"], present: EnvironmentState,
    after: Pointer, released: Released, why: str, entries: Entries | None = None,
) -> Change:  # fmt: skip
    """The commit that moves ``environment`` to ``after``. ``entries``: the new quarantine; None leaves it unchanged.

    Raises PromotionRefused if ``why`` is empty, ParamsRefused or EvidenceRefused if the files cannot be rendered.
    """
    return _change(
        context,
        environment,
        kind,
        present,
        after,
        written(context, environment, present, after, released),
        why,
        entries,
    )


def writable(
    case: Case,
    kind: Literal["promote", "rollback"],
    why: str,
    result: CheckResult,
    entries: Entries | None = None,
) -> None:
    """Check that the commit of the move can be written. ``entries``: the new quarantine."""
    after = case.after.get()
    released = case.released.get()
    case.change = move(
        case.context, case.environment, kind, case.present, after, released, why, entries
    )
    result.note = after.version


def empty(
    context: PromotionContext,
    environment: str,
    present: EnvironmentState,
    why: str,
    entries: Entries,
) -> Change:
    """The commit that empties ``environment``, as before its first promotion. Raises as ``move``."""
    home = folder(environment)
    is_adapter = overlays.uses(environment, present.files, overlays.ADAPTER)
    wanted = overlays.nothing(environment, adapter=is_adapter)
    ours = (home / overlays.FOLDER, home / layout.APPROVED)
    gone = [
        path
        for path in present.files
        if path in (home / layout.POINTER, home / layout.EVIDENCE)
        or (path not in wanted and any(own in path.parents for own in ours))
    ]
    return _change(
        context,
        environment,
        "rollback",
        present,
        None,
        {**wanted, **dict.fromkeys(gone)},
        why,
        entries,
    )


def untagged(context: PromotionContext, environment: str, after: Pointer | None) -> list[str]:
    """The tags that a move to ``after`` cannot create, one line each with the reason."""
    return untagged_of(context.name, context.ledger.tags(), context.moves(), environment, after)


def commit(context: PromotionContext, change: Change) -> tuple[str, tuple[str, ...]]:
    """Commit a move. Return the commit, and a line for each tag that failed and for a clone that is behind.

    Raises as ``Ledger.commit``.
    """
    commit = context.ledger.commit(context.tip, change)
    return commit, (*context.ledger.untagged, *_behind(context, commit))


def _behind(context: PromotionContext, commit: str) -> list[str]:
    """A line if this clone's own branch lacks ``commit``, which was pushed to the branch of the remote; else none."""
    branch = context.ledger.branch
    if not context.ledger.remote or context.promote.repository is not None:
        return []
    lacking = (
        Git(context.root, None)
        .run("rev-list", "--max-count=1", commit, f"^refs/heads/{branch}")
        .out
    )
    return (
        [
            f"{branch} of this clone is behind {context.ledger.shown}: `git switch {branch} && git pull`"
        ]
        if lacking
        else []
    )


def _change(
    context: PromotionContext, environment: str, kind: Literal["promote", "rollback"], present: EnvironmentState,
    after: Pointer | None, changed: dict[Path, bytes | None], why: str, entries: Entries | None,
) -> Change:  # fmt: skip
    number = len(context.ledger.moves(context.tip, environment)) + 1
    if entries is not None:
        changed[layout.QUARANTINE] = quarantine.write(entries)
    message = compose(environment, number, kind, present.pointer, after, why, context.ledger.folder)
    return Change(
        changed,
        message,
        tags_for(context.name, context.ledger.tags(), context.moves(), environment, after),
        _on_one_server(context, environment, present),
    )


def _on_one_server(
    context: PromotionContext, environment: str, present: EnvironmentState
) -> tuple[Path, ...]:
    """Return what other projects have that the move was decided on, as paths below the git root.

    All of the environments that list this one, or that it lists. Of the other adapters on the server, only what names
    their releases: they go on moving by themselves.
    """
    server = shared(context, environment, present.files)
    if server is None:
        return ()
    own, hosts, home = server.own, server.listing(), folder(server.environment)
    guests = {guest for host in hosts for guest in server.guests(host)} - {own}
    named = [guest / home / name for guest in guests for name in (layout.POINTER, overlays.ADAPTER)]
    return (*(project / home for project in (*hosts, *server.guests(own))), *sorted(named))


def written(
    context: PromotionContext,
    environment: str,
    present: EnvironmentState,
    after: Pointer,
    released: Released,
) -> dict[Path, bytes | None]:
    """Every file that a move to ``after`` writes, by path; None deletes the file.

    Files of an earlier release are replaced as a whole.
    """
    home = folder(environment)
    wanted = rendered(context.records, environment, after, released.statement.predicate.image)
    kept = approvals_folder(environment, after.digest)
    gone = [
        path
        for path in present.files
        if (home / overlays.FOLDER in path.parents and path not in wanted)
        or (home / layout.APPROVED in path.parents and kept not in path.parents)
    ]
    return {
        home / layout.POINTER: pointer.write(after),
        home / layout.EVIDENCE: released.envelope,
        **wanted,
        **dict.fromkeys(gone),
    }


def diff(before: Mapping[Path, bytes], after: Mapping[Path, bytes | None]) -> str:
    """A readable diff of a change; evidence is shortened to one line."""
    lines = list[str]()
    for path, data in sorted(after.items()):
        old = before.get(path)
        if old == data:
            continue
        if path.suffix == ".json":
            lines.append(
                f"{path}: {'new' if old is None else 'gone' if data is None else 'replaced'}"
            )
            continue
        was, now = ((side or b"").decode(errors="replace").splitlines() for side in (old, data))
        lines += difflib.unified_diff(was, now, f"a/{path}", f"b/{path}", lineterm="", n=1)
    return "".join(f"{escape(line)}\n" for line in lines)


def propose(
    context: PromotionContext, environment: str, after: Pointer, change: Change
) -> tuple[str, str | None]:
    """Push the commit to ``lockstep/ENVIRONMENT-VERSION`` and open a pull request. Returns the commit and an address.

    A pull request that is already open is used. Without access to the API the address is where a person can open one;
    it is None if the host is not GitHub. Raises RemoteRefused if GitHub refuses or does not answer; the branch exists
    then.
    """
    move = f"{environment}-{after.version}"
    branch = "/".join(filter(None, ("lockstep", context.ledger.folder, move)))
    commit = context.ledger.propose(context.tip, change, branch)
    name = _repository(context)
    if name is None:
        return commit, None
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        server = os.environ.get("GITHUB_SERVER_URL", _SERVER).rstrip("/")
        return (
            commit,
            f"{server}/{name}/compare/{quote(context.promote.branch)}...{quote(branch)}?expand=1",
        )
    from release.adapters import github  # It imports requests.

    title, _, body = change.message.partition("\n\n")
    client = github.GitHub(github.place({**os.environ, "GITHUB_REPOSITORY": name}), token)
    try:
        return commit, client.open(title, branch, context.promote.branch, body)
    except RequestError as trouble:
        refused = client.refused(trouble)
        raise RemoteRefused(
            f"{refused.what}: opens no pull request",
            "give GITHUB_TOKEN the permission pull-requests: write, or open it by hand: the branch is pushed",
        ) from None


def _repository(context: PromotionContext) -> str | None:
    """OWNER/NAME on GitHub, from the environment or the ledger's address; None if neither gives it."""
    named = os.environ.get("GITHUB_REPOSITORY") if context.promote.repository is None else None
    if named is None:
        from release.adapters import github  # It imports requests.

        address = context.promote.repository or _remote(context)
        named = github.repository_of(address, os.environ.get("GITHUB_SERVER_URL", _SERVER))
    return named if named and _NAME.fullmatch(named) else None


def _remote(context: PromotionContext) -> str:
    git = Git(context.root, DEADLINE)
    name = git.config(f"branch.{context.promote.branch}.remote") or "origin"
    return git.config(f"remote.{name}.url") or ""
