"""The quarantine under the rules of the target branch: which removals from it are valid.

A removal is a commit in Lockstep's own form. If any environment requires approvals, it must also be signed by someone
who may approve. Otherwise anyone who may push could deploy a release that was found bad, without the approval that a
new release needs.
"""

import re
from contextlib import suppress
from pathlib import Path

from checks.config.release_params import Promote
from checks.formats.quarantine import Entries, Entry
from checks.formats.serving import ImageReport
from checks.formats.signers import Signers
from checks.process.errors import EvidenceRefused, MachineRefused, PromotionRefused
from checks.process.text import redact
from checks.storage import files, layout
from release.evidence import statement, trust
from release.ledger import Counts, Held, Ledger, Release, released_pointers
from release.promotion.checklist import PromotionContext
from release.promotion.context import whoami

LONGEST_REASON = 500  # characters of a reason, as the quarantine keeps it
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read(context: PromotionContext) -> Held:
    """The quarantine as of the tip."""
    return context.ledger.quarantine(context.tip, counts(context.promote, context.signers))


def readable(context: PromotionContext) -> Held:
    """The quarantine as of the tip. Raises EvidenceRefused if its file cannot be read."""
    return read(context).readable()


def by_server(context: PromotionContext, entries: Entries, image: ImageReport) -> Entry | None:
    """The entry of another image with the weights and the server of ``image``, if a rollback left that server.

    A build of a later commit is another image, whose server is as bad.
    """
    alone = {entry.image: entry for entry in entries if entry.model is None}
    if not alone:
        return None
    released = released_pointers.releases(context.ledger, context.tip, context.promote.ordered)
    servers = {
        pointer.digest: _server(envelope.statement.predicate.image)
        for pointer, envelope in released.values()
        if envelope
    }
    for move in context.moves():
        if move.kind == "rollback" and move.before and move.after and move.before.digest in alone:
            bad, good = (servers.get(end.digest) for end in (move.before, move.after))
            if bad == _server(image) != good:
                return alone[move.before.digest]
    return None


def _server(image: ImageReport) -> tuple[str, str | None]:
    """The weights, and the image that runs them, by digest; None where the environment names it."""
    server = image.server.rpartition("@")[2] if image.server else None
    return image.model, image.base.manifest if image.base else server


def here(root: Path, ledger: Ledger, tip: str, promote: Promote) -> Held:
    """The quarantine by the rules in the work tree and the target branch's signers as this clone has them.

    For commands that only report and decide nothing.
    """
    # If nobody may sign, no release counts.
    signers = trust.signers_or_nobody(root) if asking(promote) else ()
    return ledger.quarantine(tip, counts(promote, signers))


def reason(why: str, without: str, todo: str = "give the reason: --why") -> str:
    """``why`` on one line, as the quarantine keeps it. Raises PromotionRefused, with ``without``, if it is empty."""
    line = redact(why, LONGEST_REASON)
    if not line:
        raise PromotionRefused(without, todo)
    return line


def entry(context: PromotionContext, name: str, why: str) -> Entry:
    """A new entry for ``name``: a version that ran, or the digest of an image or a model.

    Raises EvidenceRefused if it is neither, PromotionRefused if git does not know who commits.
    """
    image, model, version = _named(context, name)
    return Entry(image=image, model=model, version=version, by=whoami(context.root), why=why)


def _named(context: PromotionContext, name: str) -> tuple[str, str | None, str | None]:
    """Image, model and version of ``name``, as far as git and the build report here know them."""
    digest = name.rpartition("@")[2]
    for move in context.moves():
        pointer = move.deployed
        if pointer and digest in (pointer.digest, pointer.model, pointer.version):
            return pointer.digest, pointer.model, pointer.version
    with suppress(EvidenceRefused):
        built = files.read_json(context.root / layout.IMAGE_REPORT, ImageReport)
        if digest in (built.image, built.model):
            return built.image, built.model, None
    if not _DIGEST.fullmatch(digest):
        raise EvidenceRefused(
            f"{redact(name, 100)}: is neither a version that ran nor a digest",
            "name it by its digest: sha256:…",
        )
    return digest, digest, None


def asking(promote: Promote) -> str | None:
    """The first environment that requires approvals; None if none does."""
    return next((name for name, rule in promote.environments.items() if rule.approvals), None)


def counts(promote: Promote, signers: Signers) -> Counts:
    """A function that says why a removal from quarantine is not valid; "" if it is."""
    name = asking(promote)

    def why_not(release: Release) -> str:
        if name is None:
            return ""
        if release.signed is None:
            return f"it is not signed, and {name} requires approvals"
        where = f"the release in commit {release.commit[:12]}"
        try:
            verified = trust.verify(
                release.signed, signers, "approve", where, offline=True, at=release.at
            )
            images = [entry.image for entry in release.entries]
            statement.parse_free(verified.payload, images, release.parent, where)
        except (EvidenceRefused, MachineRefused) as refused:
            return refused.what
        return ""

    return why_not


def contradictions(held: Held) -> list[tuple[str, str]]:
    """Where the quarantine file disagrees with its history: pairs of the problem and the fix."""
    if held.unreadable:
        return [(held.unreadable.what, held.unreadable.todo)]
    return [
        (
            (
                f"{layout.QUARANTINE}: {entry.shown} is still in quarantine ({entry.why}), "
                f"but missing from the file: {became}"
            ),
            todo(entry),
        )
        for entry, became in held.gone
    ]


def todo(entry: Entry) -> str:
    """Return what to do about an entry that was deleted by hand."""
    return (
        f"restore it: `lockstep quarantine {entry.name} --why …`; "
        f"or free it: `lockstep quarantine --release {entry.name} --why …`"
    )
