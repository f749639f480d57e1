"""What is in quarantine, by the history of the branch: every entry that was ever added, and was not released since.

The file release/environments/quarantine.yaml says what is held back, and anybody who may push can write it. So the file
alone never frees anything. An entry counts from the commit that added it, whoever made that commit, in whichever branch
that was merged. Only a release ends that: a commit with the message that `lockstep quarantine --release` writes, on the
parent that the message names, which takes out the entries that it names and changes nothing else in the file. What was
removed or changed in another way (by hand, by `git revert`, with the whole file) is still held, and is reported.

Whoever may push can forge such a message, as any commit. Where that matters the release is signed: ``counts`` decides.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from checks import quarantine
from checks.errors import EvidenceRefused
from checks.quarantine import Entries, Entry
from release.adapters.git import REGULAR, Git
from release.ledger import message
from release.ledger.walk import NOTHING, Blob, Commit, Walk, author


class Release(NamedTuple):
    """A release from quarantine that Lockstep made, as its commit says. ``signed``: what somebody signed, or None."""

    entries: Entries
    commit: str
    parent: str
    by: str
    why: str
    signed: bytes | None


Counts = Callable[[Release], str]  # why a release does not count; empty when it does


class Held(NamedTuple):
    """``entries`` are in quarantine, whatever the file says now. ``gone``: those of them that the file does not have as
    they are, each with what became of it. ``unreadable``: why the file as it is now cannot be read; None when it can.
    """

    entries: Entries
    gone: tuple[tuple[Entry, str], ...]
    unreadable: EvidenceRefused | None


def history(git: Git, walked: Walk, path: str, shown: str, counts: Counts | None) -> Held:
    """What is held back after all of ``walked``. ``path`` is the file's from the top, ``shown`` its name in messages.

    One process, however many commits there are. ``counts`` None: every release that Lockstep made counts.
    """
    order = [name for landed, brought in walked.landings for name in (*brought, landed)]
    touching = [name for name in order if path in walked.commits[name].gave]
    blobs = {blob.name for name in touching for blob in _both(walked.commits[name], path) if blob.mode in REGULAR}
    objects = git.objects([*touching, *sorted(blobs)])
    files = _Files(objects, shown)
    held: Entries = ()
    became: dict[str, str] = {}
    now = NOTHING
    for name in touching:
        head, _, body = objects[name].partition(b"\n\n")
        before, after = (files.read(blob, name) for blob in _both(walked.commits[name], path))
        by = f"commit {name[:12]} by {author(head)}"
        if isinstance(after, EvidenceRefused):
            became |= {entry.image: f"{by} made the file unreadable" for entry in held}
            continue
        was = () if isinstance(before, EvidenceRefused) else before
        out = tuple(entry for entry in was if entry not in after)
        for entry in after:
            if entry not in was:
                held = quarantine.add(held, entry)
        if not out:
            continue
        freed = _release(name, walked.commits[name], body, out, was, after, author(head))
        if freed is None:
            became |= {entry.image: f"{by} removed or changed it" for entry in out}
        elif why := counts(freed) if counts else "":
            became |= {entry.image: f"{by} released it, which does not count: {why}" for entry in out}
        else:
            images = {entry.image for entry in out}
            held = tuple(entry for entry in held if entry.image not in images)
    for landed, _ in walked.landings:
        now = walked.commits[landed].gave.get(path, now)
    here = files.read(now, walked.landings[-1][0] if walked.landings else "")
    if isinstance(here, EvidenceRefused):
        return Held(held, tuple((entry, became.get(entry.image, "")) for entry in held), here)
    for entry in here:
        held = quarantine.add(held, entry)
    gone = tuple((entry, became.get(entry.image, "a merge left it out")) for entry in held if entry not in here)
    return Held(held, gone, None)


class _Files:
    """The contents of the file at each commit, read once each."""

    def __init__(self, objects: Mapping[str, bytes], shown: str) -> None:
        self._objects = objects
        self._shown = shown
        self._known: dict[Blob, Entries | EvidenceRefused] = {NOTHING: ()}

    def read(self, blob: Blob, commit: str) -> Entries | EvidenceRefused:
        if blob not in self._known:
            where = f"{self._shown} at {commit[:12]}"
            try:
                if blob.mode not in REGULAR:
                    raise EvidenceRefused(f"{where}: is not a regular file", "restore it from git's history")
                self._known[blob] = quarantine.parse(self._objects[blob.name], where)
            except EvidenceRefused as refused:
                self._known[blob] = refused
        return self._known[blob]


def _both(commit: Commit, path: str) -> tuple[Blob, Blob]:
    return commit.had[path], commit.gave[path]


def _release(
    name: str, commit: Commit, body: bytes, out: Entries, was: Entries, now: Entries, by: str
) -> Release | None:
    """The release that Lockstep made by this commit; None when it made none."""
    said = message.read_release(body.decode(errors="replace"))
    if said is None or commit.parents != (said.parent,):
        return None
    if said.images != {entry.image for entry in out} or any(entry not in was for entry in now):
        return None
    return Release(out, name, said.parent, by, said.why, said.signed)
