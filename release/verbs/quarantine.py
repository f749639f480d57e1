"""quarantine: lists, adds and removes releases that no promotion may move, one commit each."""

import re
from pathlib import Path
from typing import Literal

from checks.formats import quarantine
from checks.formats.quarantine import Entries, Entry
from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import files, layout
from release.evidence import keys, signatory, statement
from release.ledger import Change, Held, compose_release
from release.promotion import context
from release.promotion import held as quarantined
from release.promotion.types import PromotionContext

_LONGEST = 500  # characters of a reason, as the quarantine keeps it
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Added(Record):
    """The new ``entry``, and the commit of the ledger that added it. ``already``: it was in quarantine before.

    ``runs``: environments that run it; they are not changed.
    """

    entry: Entry
    done: Literal["held", "already"]
    commit: str
    runs: tuple[str, ...]
    left: tuple[Entry, ...]


class Freed(Record):
    """The entries that a commit of the ledger removed, and those left. ``signed``: a person signed the removal."""

    entries: tuple[Entry, ...]
    commit: str
    signed: bool
    left: tuple[Entry, ...]


def held(root: Path, target: str | None = None) -> Entries:
    """The current quarantine, by the history of its file.

    Raises EvidenceRefused if the file cannot be read or the clone is shallow, or RemoteRefused.
    """
    return _readable(context.find(root, target)).entries


def add(root: Path, name: str, why: str, target: str | None = None) -> Added:
    """Add ``name`` to the quarantine: a version, or the digest of an image or a model, with or without its registry.

    For a release that ran or was built here, both image and weights are added. For any other digest git cannot tell
    which it is: it is added as an image and as a model. Raises EvidenceRefused if ``name`` is neither a version that
    ran nor a digest, PromotionRefused without a reason, Outrun, RemoteRefused.
    """
    promotion_context = context.find(root, target)
    promotion_context.ledger.settle(promotion_context.tip)
    reason = redact(why, _LONGEST)
    if not reason:
        raise PromotionRefused("an entry without a reason", "give the reason: --why")
    before = _readable(promotion_context)
    image, model, version = _named(promotion_context, name)
    made = Entry(
        image=image,
        model=model,
        version=version,
        by=context.whoami(promotion_context.root),
        why=reason,
    )
    entries = quarantine.add(before.entries, made)
    entry = next(candidate for candidate in entries if candidate.image == image)
    commit = promotion_context.tip
    if entries != before.entries or before.gone:
        message = f"hold {entry.version or entry.image[:19]} back\n\n{reason}\n"
        commit = promotion_context.ledger.commit(
            promotion_context.tip, Change({layout.QUARANTINE: quarantine.write(entries)}, message)
        )
    pointers = {name: promotion_context.runs(name) for name in promotion_context.promote.ordered}
    runs = [
        name
        for name, pointer in pointers.items()
        if pointer and quarantine.find((entry,), pointer.digest, pointer.model)
    ]
    return Added(
        entry=entry,
        done="already" if commit == promotion_context.tip else "held",
        commit=commit,
        runs=tuple(runs),
        left=entries,
    )


def release(
    root: Path, name: str, why: str, key: Path | None = None, target: str | None = None
) -> Freed:
    """Remove ``name`` from the quarantine: an image, a model's digest or a version.

    The removal is signed with ``key``, else with the key of `lockstep keys new` if its owner may approve. Raises
    EvidenceRefused if nothing of that name is in quarantine, or if a signature is needed and no key may give it;
    PromotionRefused without a reason; Outrun, RemoteRefused.
    """
    promotion_context = context.find(root, target)
    return free(promotion_context, name, why, key or _key(promotion_context))


def free(where: PromotionContext, name: str, why: str, key: Path | None = None) -> Freed:
    """As ``release``, in a given context; without a key the removal is not signed."""
    where.ledger.settle(where.tip)
    reason = redact(why, _LONGEST)
    if not reason:
        raise PromotionRefused(
            "a release without a reason", "give the reason why it may run again: --why"
        )
    before = _readable(where)
    left = quarantine.release(before.entries, name.rpartition("@")[2])
    freed = tuple(entry for entry in before.entries if entry not in left)
    approver = None if key is None else signatory.load(key, where.signers, "approve")
    if before.gone:  # a release takes out what is there, so that git shows what it did
        message = f"restore {layout.QUARANTINE.name}\n\nIt lacked what no release had freed.\n"
        restored = Change({layout.QUARANTINE: quarantine.write(before.entries)}, message)
        where = where._replace(tip=where.ledger.commit(where.tip, restored))
    images = [entry.image for entry in freed]
    signed = None
    if approver is not None:
        signed = approver.sign(statement.free(images, where.tip, reason))
    names = ", ".join(dict.fromkeys(entry.version or entry.image[:19] for entry in freed))
    message = compose_release(images, names, where.tip, reason, signed)
    commit = where.ledger.commit(
        where.tip, Change({layout.QUARANTINE: quarantine.write(left)}, message)
    )
    return Freed(entries=freed, commit=commit, signed=signed is not None, left=left)


def _key(where: PromotionContext) -> Path | None:
    """The key of `lockstep keys new` if its owner may approve; else None, if no environment requires approvals."""
    default, asking = where.root / keys.KEY, quarantined.asking(where.promote)
    try:
        if default.is_file():
            signatory.load(default, where.signers, "approve")
            return default
    except EvidenceRefused:
        if asking:
            raise
    if asking:
        raise EvidenceRefused(
            f"{asking} requires approvals, so an approver must sign a removal from quarantine",
            "name a key: --key",
        )
    return None


def _readable(where: PromotionContext) -> Held:
    quarantined_now = quarantined.read(where)
    if quarantined_now.unreadable:
        raise quarantined_now.unreadable
    return quarantined_now


def _named(where: PromotionContext, name: str) -> tuple[str, str | None, str | None]:
    """Image, model and version of ``name``, as far as git and the build report here know them."""
    digest = name.rpartition("@")[2]
    for move in (
        move for name in where.promote.ordered for move in where.ledger.moves(where.tip, name)
    ):
        if (
            (pointer := move.after)
            and move.ran
            and digest in (pointer.digest, pointer.model, pointer.version)
        ):
            return pointer.digest, pointer.model, pointer.version
    try:
        built = files.read_json(where.root / layout.IMAGE_REPORT, ImageReport)
    except EvidenceRefused:
        built = None
    if built and digest in (built.image, built.model):
        return built.image, built.model, None
    if not _DIGEST.fullmatch(digest):
        raise EvidenceRefused(
            f"{redact(name, 100)}: is neither a version that ran nor a digest",
            "name it by its digest: sha256:…",
        )
    return digest, digest, None
