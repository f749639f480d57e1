"""quarantine: what no promotion may move anywhere; an entry added, or released, by name, one commit each."""

import re
from pathlib import Path
from typing import Literal

from checks import files, layout, quarantine
from checks.errors import EvidenceRefused, PromotionRefused
from checks.quarantine import Entries, Entry
from checks.rows import Record
from checks.serving import ImageReport
from checks.text import redact
from release.evidence import keys
from release.ledger import Change, Held, compose_release
from release.promotion import context
from release.promotion import held as quarantined
from release.promotion.context import PromotionContext
from release.verbs import sign

_LONGEST = 500  # characters of a reason, as the quarantine keeps it
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Added(Record):
    """What is held back now: ``entry``, by the commit of the ledger. ``already``: it was, and its entry is there.

    ``runs``: the environments that run it, which this does not change.
    """

    entry: Entry
    done: Literal["held", "already"]
    commit: str
    runs: tuple[str, ...]
    left: tuple[Entry, ...]


class Freed(Record):
    """What is held back no longer, by which commit of the ledger, and what still is. ``signed``: a person signed it."""

    entries: tuple[Entry, ...]
    commit: str
    signed: bool
    left: tuple[Entry, ...]


def held(root: Path, target: str | None = None) -> Entries:
    """What is held back now, by the history of the file.

    Raises EvidenceRefused when the file cannot be read or the clone is shallow, RemoteRefused.
    """
    return _readable(context.find(root, target)).entries


def add(root: Path, name: str, why: str, target: str | None = None) -> Added:
    """Hold back what is called ``name``: a version, or the digest of an image or a model, with its place or without.

    Of a release that ran, or that `lockstep build` made here, image and weights are held. Of any other digest git does
    not say what it is: it is held as an image and as a model. Raises EvidenceRefused when ``name`` is neither a version
    that ran nor a digest, PromotionRefused without a reason; Outrun, RemoteRefused.
    """
    where = context.find(root, target)
    where.ledger.settle(where.tip)
    reason = redact(why, _LONGEST)
    if not reason:
        raise PromotionRefused("an entry without a reason", "say what is wrong with it: --why")
    before = _readable(where)
    image, model, version = _named(where, name)
    made = Entry(image=image, model=model, version=version, by=context.whoami(where.root), why=reason)
    entries = quarantine.add(before.entries, made)
    entry = next(each for each in entries if each.image == image)
    commit = where.tip
    if entries != before.entries or before.gone:
        message = f"hold {entry.version or entry.image[:19]} back\n\n{reason}\n"
        commit = where.ledger.commit(where.tip, Change({layout.QUARANTINE: quarantine.write(entries)}, message))
    pointers = {each: where.runs(each) for each in where.promote.ordered}
    runs = [each for each, its in pointers.items() if its and quarantine.find((entry,), its.digest, its.model)]
    return Added(
        entry=entry, done="already" if commit == where.tip else "held", commit=commit, runs=tuple(runs), left=entries
    )


def release(root: Path, name: str, why: str, key: Path | None = None, target: str | None = None) -> Freed:
    """Let what is called ``name`` run again: an image (a digest, or with its place), a model's digest, or a version.

    It is signed with ``key``, else with that of `lockstep keys new` where its owner may approve. Raises EvidenceRefused
    when nothing of that name is held back, or a key is needed and there is none that may; PromotionRefused without a
    reason; Outrun, RemoteRefused.
    """
    where = context.find(root, target)
    return free(where, name, why, key or _key(where))


def free(where: PromotionContext, name: str, why: str, key: Path | None = None) -> Freed:
    """As ``release``, of a context; without a key nobody signs it."""
    where.ledger.settle(where.tip)
    reason = redact(why, _LONGEST)
    if not reason:
        raise PromotionRefused("a release without a reason", "say why it may run again: --why")
    before = _readable(where)
    left = quarantine.release(before.entries, name.rpartition("@")[2])
    freed = tuple(entry for entry in before.entries if entry not in left)
    if key is not None:
        sign.may_approve(where.root, key, where.trunk)
    if before.gone:  # a release takes out what is there, so that git shows what it did
        message = f"restore {layout.QUARANTINE.name}\n\nIt lacked what no release had freed.\n"
        restored = Change({layout.QUARANTINE: quarantine.write(before.entries)}, message)
        where = where._replace(tip=where.ledger.commit(where.tip, restored))
    images = [entry.image for entry in freed]
    signed = None if key is None else sign.free(where.root, key, images, where.tip, reason, where.trunk)
    names = ", ".join(dict.fromkeys(entry.version or entry.image[:19] for entry in freed))
    message = compose_release(images, names, where.tip, reason, signed)
    commit = where.ledger.commit(where.tip, Change({layout.QUARANTINE: quarantine.write(left)}, message))
    return Freed(entries=freed, commit=commit, signed=signed is not None, left=left)


def _key(where: PromotionContext) -> Path | None:
    """The key of `lockstep keys new`, where its owner may approve; else None, where no environment asks for more."""
    default, asking = where.root / keys.KEY, quarantined.asking(where.promote)
    try:
        if default.is_file():
            sign.may_approve(where.root, default, where.trunk)
            return default
    except EvidenceRefused:
        if asking:
            raise
    if asking:
        raise EvidenceRefused(
            f"{asking} asks for approvals, so one who may approve signs a release from quarantine", "name a key: --key"
        )
    return None


def _readable(where: PromotionContext) -> Held:
    found = quarantined.read(where)
    if found.unreadable:
        raise found.unreadable
    return found


def _named(where: PromotionContext, name: str) -> tuple[str, str | None, str | None]:
    """Image, model and version of what is called ``name``, as far as git and the report of a build here know them."""
    digest = name.rpartition("@")[2]
    for move in (move for each in where.promote.ordered for move in where.ledger.moves(where.tip, each)):
        if (its := move.after) and move.ran and digest in (its.digest, its.model, its.version):
            return its.digest, its.model, its.version
    try:
        built = files.read_json(where.root / layout.IMAGE_REPORT, ImageReport)
    except EvidenceRefused:
        built = None
    if built and digest in (built.image, built.model):
        return built.image, built.model, None
    if not _DIGEST.fullmatch(digest):
        raise EvidenceRefused(
            f"{redact(name, 100)}: is no version that ran, and no digest", "name it by its digest: sha256:…"
        )
    return digest, digest, None
