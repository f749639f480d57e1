"""quarantine: lists, adds and removes releases that no promotion may move, one commit each."""

from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats import quarantine
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.evidence import keys, statement, trust
from release.ledger import Change, compose_release
from release.promotion import context, quarantined
from release.promotion.checklist import PromotionContext


class Added(Record):
    """The new ``entry``, and the commit of the ledger that added it. ``already``: it was in quarantine before.

    ``runs``: environments that run it; they are not changed.
    """

    entry: quarantine.Entry
    done: Literal["held", "already"]
    commit: str
    runs: tuple[str, ...]
    left: tuple[quarantine.Entry, ...]


class Freed(Record):
    """The entries that a commit of the ledger removed, and those left. ``signed``: a person signed the removal."""

    entries: tuple[quarantine.Entry, ...]
    commit: str
    signed: bool
    left: tuple[quarantine.Entry, ...]


class Listed(NamedTuple):
    """The current quarantine. ``note``: that nobody may sign a removal from it; empty if somebody may."""

    entries: quarantine.Entries
    note: str


def held(root: Path, target: str | None = None) -> Listed:
    """The current quarantine, by the history of its file.

    Raises EvidenceRefused if the file cannot be read or the clone is shallow, or RemoteRefused.
    """
    promotion_context = context.find(root, target, unsigned=True)
    entries = quarantined.readable(promotion_context).entries
    if promotion_context.signers:
        return Listed(entries, "")
    missing = f"{promotion_context.target} has no {layout.SIGNERS}: nobody may sign"
    return Listed(entries, f"{missing}; `lockstep keys new` makes a key for a signer")


def add(root: Path, name: str, why: str, target: str | None = None) -> Added:
    """Add ``name`` to the quarantine: a version, or the digest of an image or a model, with or without its registry.

    For a release that ran or was built here, both image and weights are added. For any other digest git cannot tell
    which it is: it is added as an image and as a model. Raises EvidenceRefused if ``name`` is neither a version that
    ran nor a digest, PromotionRefused without a reason, Outrun, RemoteRefused.
    """
    promotion_context = context.deciding(root, target)
    ledger = promotion_context.ledger
    tip = promotion_context.tip
    ledger.settle(tip)
    reason = quarantined.reason(why, "an entry without a reason")
    before = quarantined.readable(promotion_context)
    made = quarantined.entry(promotion_context, name, reason)
    entries = quarantine.add(before.entries, made)
    entry = next(candidate for candidate in entries if candidate.image == made.image)
    commit = tip
    if entries != before.entries or before.gone:
        message = f"hold {entry.version or entry.image[:19]} back\n\n{reason}\n"
        commit = ledger.commit(tip, _change(entries, message))
    pointers = {name: promotion_context.runs(name) for name in promotion_context.promote.ordered}
    runs = [
        name
        for name, pointer in pointers.items()
        if pointer and quarantine.find((entry,), pointer.digest, pointer.model)
    ]
    done: Literal["held", "already"] = "already" if commit == tip else "held"
    return Added(entry=entry, done=done, commit=commit, runs=tuple(runs), left=entries)


def release(
    root: Path, name: str, why: str, key: Path | None = None, target: str | None = None
) -> Freed:
    """Remove ``name`` from the quarantine: an image, a model's digest or a version.

    The removal is signed with ``key``, else with the key of `lockstep keys new` if its owner may approve. Raises
    EvidenceRefused if nothing of that name is in quarantine, or if a signature is needed and no key may give it;
    PromotionRefused without a reason; Outrun, RemoteRefused.
    """
    promotion_context = context.deciding(root, target)
    return free(promotion_context, name, why, key or _key(promotion_context))


def free(
    promotion_context: PromotionContext, name: str, why: str, key: Path | None = None
) -> Freed:
    """As ``release``, in a given context; without a key the removal is not signed."""
    ledger = promotion_context.ledger
    tip = promotion_context.tip
    ledger.settle(tip)
    todo = "give the reason why it may run again: --why"
    reason = quarantined.reason(why, "a release without a reason", todo)
    before = quarantined.readable(promotion_context)
    left = quarantine.release(before.entries, name.rpartition("@")[2])
    freed = tuple(entry for entry in before.entries if entry not in left)
    signers = promotion_context.signers
    approver = None if key is None else trust.signatory(key, signers, "approve")
    if before.gone:  # a release takes out what is there, so that git shows what it did
        message = f"restore {layout.QUARANTINE.name}\n\nIt lacked what no release had freed.\n"
        tip = ledger.commit(tip, _change(before.entries, message))
    images = [entry.image for entry in freed]
    signed = None if approver is None else approver.sign(statement.free(images, tip, reason))
    names = ", ".join(dict.fromkeys(entry.version or entry.image[:19] for entry in freed))
    message = compose_release(images, names, tip, reason, signed)
    commit = ledger.commit(tip, _change(left, message))
    return Freed(entries=freed, commit=commit, signed=signed is not None, left=left)


def _change(entries: quarantine.Entries, message: str) -> Change:
    return Change({layout.QUARANTINE: quarantine.write(entries)}, message)


def _key(promotion_context: PromotionContext) -> Path | None:
    """The key of `lockstep keys new` if its owner may approve; else None, if no environment requires approvals."""
    default = promotion_context.root / keys.KEY
    asking = quarantined.asking(promotion_context.promote)
    try:
        if default.is_file():
            trust.signatory(default, promotion_context.signers, "approve")
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
