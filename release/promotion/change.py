"""The change that moves an environment: one commit with the pointer, its evidence, and what a cluster is to run."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from checks import files, layout, pointer, quarantine
from checks.errors import PromotionRefused
from checks.pointer import Pointer
from checks.quarantine import Entries
from checks.text import escape
from release.evidence.released import Released
from release.ledger import Change, compose, next_version, tags_for
from release.ledger import untagged as untagged_of
from release.overlay import overlays
from release.promotion import approvals
from release.promotion.environment import Present, folder, rendered
from release.promotion.site import Site


def point(site: Site, image: str, released: Released, version: str | None, part: Literal["major", "minor"]) -> Pointer:
    """The pointer to ``image`` (a reference by digest), called ``version`` or the next one.

    Raises PromotionRefused when the version is another image's, or the image has another one; or the place has a name
    that a pointer cannot hold.
    """
    release, moves = released.statement.predicate, site.moves()
    digest = release.image.image
    own = next_version(site.name, site.ledger.tags(), moves, release.image.model, digest, part)
    known = {at.version: at.digest for move in moves for at in (move.before, move.after) if at}
    if version is not None and known.get(version, digest) != digest:
        raise PromotionRefused(f"version {version}: is the image {known[version]}", f"choose another, such as {own}")
    if version not in (None, own) and digest in known.values():
        raise PromotionRefused(f"version {version}: this image is {own} already", f"leave it out, or say {own}")
    try:
        return Pointer(
            model=release.image.model, commit=release.commit, version=version or own, image=image,
            evidence=released.digest,
        )  # fmt: skip
    except ValidationError as error:
        raise PromotionRefused(
            f"no pointer can name it: {files.first(error)}", "keep the image where its name has no spaces or signs"
        ) from error


def move(
    site: Site, environment: str, kind: Literal["promote", "rollback"], present: Present, after: Pointer,
    released: Released, why: str, entries: Entries | None = None,
) -> Change:  # fmt: skip
    """The change of ``environment`` to ``after``. ``entries``: the quarantine from now on; None: as it is.

    Raises PromotionRefused when ``why`` says nothing, ParamsRefused, EvidenceRefused.
    """
    return _change(
        site, environment, kind, present, after, written(site, environment, present, after, released), why, entries
    )


def empty(site: Site, environment: str, present: Present, why: str, entries: Entries) -> Change:
    """The change of ``environment`` to nothing: its files are as before the first promotion. Raises as ``move``."""
    home, wanted = folder(environment), overlays.nothing(environment)
    ours = (home / overlays.FOLDER, home / layout.APPROVED)
    gone = [
        path
        for path in present.files
        if path in (home / layout.POINTER, home / layout.EVIDENCE)
        or (path not in wanted and any(each in path.parents for each in ours))
    ]
    return _change(site, environment, "rollback", present, None, {**wanted, **dict.fromkeys(gone)}, why, entries)


def untagged(site: Site, environment: str, after: Pointer | None) -> list[str]:
    """The tags that the next move, to ``after``, cannot make; a line each."""
    return untagged_of(site.name, site.ledger.tags(), site.moves(), environment, after)


def _change(
    site: Site, environment: str, kind: Literal["promote", "rollback"], present: Present, after: Pointer | None,
    changed: dict[Path, bytes | None], why: str, entries: Entries | None,
) -> Change:  # fmt: skip
    number = len(site.ledger.moves(site.tip, environment)) + 1
    if entries is not None:
        changed[layout.QUARANTINE] = quarantine.write(entries)
    message = compose(environment, number, kind, present.pointer, after, why)
    tags = tags_for(site.name, site.ledger.tags(), site.moves(), environment, after)
    return Change(changed, message, tags)


def written(
    site: Site, environment: str, present: Present, after: Pointer, released: Released
) -> dict[Path, bytes | None]:
    """Every file that a move to ``after`` writes, None where it takes one away: what was there is replaced whole."""
    home = folder(environment)
    wanted = rendered(site.records, environment, after, released.statement.predicate.image)
    kept = approvals.place(environment, after.digest)
    gone = [
        path
        for path in present.files
        if (home / overlays.FOLDER in path.parents and path not in wanted)
        or (home / layout.APPROVED in path.parents and path.parent != kept)
    ]
    return {
        home / layout.POINTER: pointer.write(after),
        home / layout.EVIDENCE: released.envelope,
        **wanted,
        **dict.fromkeys(gone),
    }


def diff(before: Mapping[Path, bytes], after: Mapping[Path, bytes | None]) -> str:
    """What a change does, as people read it; evidence is one line."""
    lines = list[str]()
    for path, data in sorted(after.items()):
        old = before.get(path)
        if old == data:
            continue
        if path.suffix == ".json":
            lines.append(f"{path}: {'new' if old is None else 'gone' if data is None else 'replaced'}")
            continue
        was, now = ((side or b"").decode(errors="replace").splitlines() for side in (old, data))
        lines += difflib.unified_diff(was, now, f"a/{path}", f"b/{path}", lineterm="", n=1)
    return "".join(f"{escape(line)}\n" for line in lines)
