"""Gathers what is published of a release: the merged weights, the adapter, the cards, and the signed statement.

Only a release that was promoted, that is not in quarantine, and that a current signer signed. The weights are those on
this machine, if they have the digests that the statement names.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from checks.formats import quarantine
from checks.process.errors import EvidenceRefused
from checks.storage import digest, layout
from release.adapters.hub import File
from release.cards import card_record, released, writing
from release.evidence import trust
from release.ledger import Ledger
from release.promotion import quarantined
from release.record.records import Records

ADAPTER = "adapter"
EVIDENCE = "evidence.json"
_NAMES = {writing.MODEL: "README.md", writing.DATA: "DATA.md"}  # the others keep theirs


class Publication(NamedTuple):
    """``files`` by their path in the repository."""

    name: str
    version: str
    image: str
    model: str
    files: dict[str, File]


def gather(root: Path, name: str | None) -> Publication:
    """The release that ``name`` means; None: what the last environment runs.

    Raises EvidenceRefused if it may not be published, or if its weights are not on this machine.
    """
    records = Records(root)
    params = records.work_tree.params
    ledger = Ledger.open(root, params.promote)
    release = released.find(records, ledger, params.promote.ordered[-1] if name is None else name)
    pointer = release.pointer
    stated = released.stated(records, release)
    entries = quarantined.here(root, ledger, ledger.tip(), params.promote).entries
    if entry := quarantine.find(entries, pointer.digest, pointer.model):
        raise EvidenceRefused(
            f"{pointer.version}: is in quarantine: {entry.why}", "publish another release"
        )
    signer, why = released.signer(release, trust.known(root))
    if signer is None:
        what = f"{pointer.version}: no current signer signed it: {why}"
        raise EvidenceRefused(what, "`lockstep sign`, then promote it")
    cards = writing.render(card_record.of_release(records, release))
    assert release.envelope is not None  # its signature was checked
    files = {
        **_tree(root, layout.MERGED, pointer.model, "", pointer.commit),
        **_tree(root, layout.ADAPTER, stated.materials.adapter, f"{ADAPTER}/", pointer.commit),
        **{_NAMES.get(card, card): _file(text.encode()) for card, text in cards.items()},
        EVIDENCE: _file(release.envelope.data),
    }
    return Publication(params.serve.name, pointer.version, pointer.image, pointer.model, files)


def _tree(root: Path, folder: Path, wanted: str, prefix: str, commit: str) -> dict[str, File]:
    """The files of ``folder``, if they are the ones that the signed statement names."""
    todo = f"git switch --detach {commit[:12]} && ./lockstep dvc pull {folder}"
    if not (root / folder).is_dir():
        raise EvidenceRefused(f"{folder}: is not here", todo)
    tree = digest.of_tree(root / folder)
    if tree.digest != wanted:
        raise EvidenceRefused(f"{folder}: is {tree.digest}, the release has {wanted}", todo)
    return {
        f"{prefix}{name}": File(
            root / folder / name, file.sha256.removeprefix("sha256:"), file.size
        )
        for name, file in tree.files.items()
    }


def _file(data: bytes) -> File:
    return File(data, hashlib.sha256(data).hexdigest(), len(data))
