"""publish: a promoted release as one revision of a repository on the Hugging Face Hub, with a tag of its version."""

import re
from pathlib import Path
from typing import Literal

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.report import Count
from checks.process.errors import EvidenceRefused, MachineRefused, RegistryRefused
from checks.records.rows import Record
from checks.storage import digest, layout
from release.adapters.hub import File, Hub
from release.cards import card_record, released, writing
from release.evidence import freshness, trust
from release.ledger import Ledger
from release.promotion import quarantined
from release.record.records import Records

_REPOSITORY = re.compile(r"hf://([A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})")
_KEPT = (".gitattributes",)  # the hub's own
_NAMES = {writing.MODEL: "README.md", writing.DATA: "DATA.md"}  # the others keep theirs


class Published(Record):
    """``files``: path to size. ``removed``: files of the revision before that the release does not have.

    ``commit``: of the hub; None for a plan.
    """

    repository: str
    version: str
    image: str
    files: dict[str, Count]
    removed: tuple[str, ...]
    commit: str | None
    done: Literal["published", "already", "planned"]


def publish(
    root: Path, repository: str, name: str | None = None, *, dry_run: bool = False
) -> Published:
    """Make one commit of exactly the release's files, compare what the hub then lists, and tag it with the version.

    ``dry_run`` asks no hub and needs no token. Raises EvidenceRefused as ``_gather``, or if the version was
    published there with other files; RegistryRefused if the hub refuses, is silent, or lists other bytes than were
    sent; MachineRefused without a token.
    """
    match = _REPOSITORY.fullmatch(repository)
    if match is None:
        raise EvidenceRefused(
            f"{repository[:100]!r}: is not hf://ORGANISATION/NAME", "name a repository of the hub"
        )
    model, pointer, given = _gather(root, name)
    plan = Published(
        repository=repository, version=pointer.version, image=pointer.image,
        files={path: file.size for path, file in given.items()}, removed=(), commit=None, done="planned",
    )  # fmt: skip
    if dry_run:
        return plan
    hub = Hub(match[1])
    if not hub.has_token():
        raise MachineRefused(
            "the hub needs a token that may write", "set HF_TOKEN, or run `hf auth login`"
        )
    if tagged := hub.tags().get(pointer.version):
        if others := hub.revision(tagged).differences(given):
            raise EvidenceRefused(
                f"{repository}: {pointer.version} was published there with another {others[0]}",
                "a published version is not changed: publish another release, or delete the tag there by hand",
            )
        return plan.model_copy(update={"commit": tagged, "done": "already"})
    before = hub.revision()
    gone = sorted(set(before.files) - set(given) - set(_KEPT))
    commit = before.commit  # a run that ended before the tag has made it
    if gone or before.differences(given):
        commit = hub.commit(given, gone, f"{model} {pointer.version}", before.commit)
    after = hub.revision(commit)
    wrong = [*after.differences(given), *(path for path in gone if path in after.files)]
    if wrong:
        raise RegistryRefused(
            f"{repository}: lists another {wrong[0]} at {commit[:12]} than was sent",
            "look at it there, then run it again",
        )
    hub.tag(pointer.version, commit, f"image {pointer.image}\nmodel {pointer.model}\n")
    return plan.model_copy(update={"removed": tuple(gone), "commit": commit, "done": "published"})


def _gather(root: Path, name: str | None) -> tuple[str, Pointer, dict[str, File]]:
    """Return the model's name, the pointer of the release ``name``, and its files by their path in the repository.

    None: what the last environment runs. Raises EvidenceRefused if it may not be published, or if its weights are not
    on this machine.
    """
    records = Records(root)
    params = records.work_tree.params
    ledger = Ledger.open(root, params.promote)
    tip, names = freshness.tip(root, ledger, params.promote), params.promote.ordered
    release = released.at(ledger, tip, names, names[-1] if name is None else name)
    pointer = release.pointer
    stated = released.stated(records, release)
    entries = quarantined.here(root, ledger, tip, params.promote).entries
    if entry := quarantine.find(entries, pointer.digest, pointer.model):
        raise EvidenceRefused(
            f"{pointer.version}: is in quarantine: {entry.why}", "publish another release"
        )
    released.signed_by(release, trust.known(root))
    cards = writing.render(
        card_record.of_release(records, release, released.moves(ledger, tip, names))
    )
    files = {
        **_tree(root, layout.MERGED, pointer.model, "", pointer.commit),
        **_tree(root, layout.ADAPTER, stated.materials.adapter, "adapter/", pointer.commit),
        **{_NAMES.get(card, card): _to_file(text.encode()) for card, text in cards.items()},
        "evidence.json": _to_file(release.evidence.data),
    }
    return params.serve.name, pointer, files


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


def _to_file(data: bytes) -> File:
    return File(data, digest.of_bytes(data).removeprefix("sha256:"), len(data))
