"""quarantine: what no promotion may move anywhere, and the release of it by name, one commit each."""

from pathlib import Path

from checks import layout, quarantine
from checks.errors import PromotionRefused
from checks.quarantine import Entries, Entry
from checks.rows import Record
from release.ledger import Change
from release.ledger.git import printable
from release.promotion import site
from release.promotion.site import Site


class Freed(Record):
    """What is held back no longer, by which commit of the ledger, and what still is."""

    entries: tuple[Entry, ...]
    commit: str
    left: tuple[Entry, ...]


def held(root: Path, target: str | None = None) -> Entries:
    """What is held back now. Raises EvidenceRefused when the file cannot be read, RemoteRefused."""
    where = site.find(root, target)
    return where.ledger.quarantine(where.tip)


def release(root: Path, name: str, why: str, target: str | None = None) -> Freed:
    """Let what is called ``name`` run again: an image (a digest, or with its place), a model's digest, or a version.

    Raises EvidenceRefused when nothing of that name is held back, PromotionRefused without a reason; Outrun,
    RemoteRefused.
    """
    return free(site.find(root, target), name, why)


def free(where: Site, name: str, why: str) -> Freed:
    """As ``release``, of a site."""
    where.ledger.settle(where.tip)
    reason = printable(why, 500)
    if not reason:
        raise PromotionRefused("a release without a reason", "say why it may run again: --why")
    entries = where.ledger.quarantine(where.tip)
    left = quarantine.release(entries, name.rpartition("@")[2])
    freed = tuple(entry for entry in entries if entry not in left)
    names = ", ".join(dict.fromkeys(entry.version for entry in freed))
    message = f"release {names} from quarantine\n\n{reason}\n"
    commit = where.ledger.commit(where.tip, Change({layout.QUARANTINE: quarantine.write(left)}, message))
    return Freed(entries=freed, commit=commit, left=left)
