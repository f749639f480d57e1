"""The quarantine by the branch's history: every entry that was ever added and not released since.

release/environments/quarantine.yaml lists the quarantine, but anyone who may push can edit it, so the file alone never
releases anything. An entry counts from the commit that added it, whoever made it and on whichever merged branch. Only a
release removes it: a commit with the message of `lockstep quarantine --release`, on the parent that the message names,
that removes the named entries and changes nothing else in the file. An entry that was removed or changed in any other
way (by hand, by `git revert`, with the whole file) still counts, and is reported.

Anyone who may push can forge such a message. Where that matters the release is signed: ``counts`` decides.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Self

from checks.formats import quarantine
from checks.formats.quarantine import Entries, Entry
from checks.process.errors import EvidenceRefused
from release.adapters.git import REGULAR, Git
from release.ledger import message, moves
from release.ledger.walk import NOTHING, Blob, Commit, Walk, author


class Release(NamedTuple):
    """A release from quarantine, from its commit. ``signed``: a signed statement, or None.

    ``at``: the date of the commit (UTC); None if it is not believed.
    """

    entries: Entries
    commit: str
    parent: str
    by: str
    why: str
    signed: bytes | None
    at: datetime | None


Counts = Callable[[Release], str]  # why a release does not count; empty when it does


class Held(NamedTuple):
    """``entries``: the quarantine, whatever the file says. ``gone``: entries that the file lacks or changes, and why.

    ``unreadable``: why the current file cannot be read; None if it can.
    """

    entries: Entries
    gone: tuple[tuple[Entry, str], ...]
    unreadable: EvidenceRefused | None

    def readable(self) -> Self:
        """Return this quarantine. Raises EvidenceRefused if its file cannot be read."""
        if self.unreadable:
            raise self.unreadable
        return self


def history(git: Git, walked: Walk, path: str, shown: str, counts: Counts | None) -> Held:
    """The quarantine after all commits of ``walked``. ``path``: of the file; ``shown``: its name in messages.

    ``counts`` None: every release made by Lockstep counts.
    """
    order = [name for landed, brought in walked.landings for name in (*brought, landed)]
    touching = [name for name in order if path in walked.commits[name].gave]
    blobs = {
        blob.name
        for name in touching
        for blob in _both(walked.commits[name], path)
        if blob.mode in REGULAR
    }
    objects = git.objects([*touching, *sorted(blobs)])
    versions: dict[Blob, Entries | EvidenceRefused] = {NOTHING: ()}
    for name in touching:
        for blob in _both(walked.commits[name], path):
            if blob not in versions:
                versions[blob] = _parsed(blob, objects, f"{shown} at {name[:12]}")
    dated = moves.dates(walked) if touching else {}
    entries: Entries = ()
    became: dict[str, str] = {}
    now = NOTHING
    for name in touching:
        head, _, body = objects[name].partition(b"\n\n")
        before, after = (versions[blob] for blob in _both(walked.commits[name], path))
        by = f"commit {name[:12]} by {author(head)}"
        if isinstance(after, EvidenceRefused):
            became |= {entry.image: f"{by} made the file unreadable" for entry in entries}
            continue
        was = () if isinstance(before, EvidenceRefused) else before
        out = tuple(entry for entry in was if entry not in after)
        for entry in after:
            if entry not in was:
                entries = quarantine.add(entries, entry)
        if not out:
            continue
        freed = _release(
            name, walked.commits[name], body, out, was, after, author(head), dated[name]
        )
        if freed is None:
            became |= {entry.image: f"{by} removed or changed it" for entry in out}
        elif why := counts(freed) if counts else "":
            became |= {
                entry.image: f"{by} released it, which does not count: {why}" for entry in out
            }
        else:
            images = {entry.image for entry in out}
            entries = tuple(entry for entry in entries if entry.image not in images)
    for landed, _ in walked.landings:
        now = walked.commits[landed].gave.get(path, now)
    here = versions[now]
    if isinstance(here, EvidenceRefused):
        return Held(entries, tuple((entry, became.get(entry.image, "")) for entry in entries), here)
    for entry in here:
        entries = quarantine.add(entries, entry)
    gone = tuple(
        (entry, became.get(entry.image, "a merge left it out"))
        for entry in entries
        if entry not in here
    )
    return Held(entries, gone, None)


def _parsed(blob: Blob, objects: Mapping[str, bytes], place: str) -> Entries | EvidenceRefused:
    """The entries of a version of the file, or why it cannot be read. ``place``: its name in messages."""
    try:
        if blob.mode not in REGULAR:
            raise EvidenceRefused(
                f"{place}: is not a regular file", "restore it from git's history"
            )
        return quarantine.parse(objects[blob.name], place)
    except EvidenceRefused as refused:
        return refused


def _both(commit: Commit, path: str) -> tuple[Blob, Blob]:
    return commit.had[path], commit.gave[path]


def _release(
    name: str,
    commit: Commit,
    body: bytes,
    out: Entries,
    was: Entries,
    now: Entries,
    by: str,
    at: datetime | None,
) -> Release | None:
    """The release that this commit made; None if it made none."""
    released = message.read_release(body.decode(errors="replace"))
    if released is None or commit.parents != (released.parent,):
        return None
    if released.images != {entry.image for entry in out} or any(entry not in was for entry in now):
        return None
    return Release(out, name, released.parent, by, released.why, released.signed, at)
