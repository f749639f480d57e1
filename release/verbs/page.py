"""page: a page of HTML for each release, and an index. Reads git, DVC's outputs and the ledger; decides nothing."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from release.adapters.registry import reference
from release.cards import gathering, site
from release.cards.release_page import ReleasePage, Site
from release.evidence import attach
from release.image import stores
from release.image.layout import Layout

# The type of a page as an artifact of its image.
MEDIA_TYPE = "application/vnd.lockstep.release-page.v1+html"


class Pages(NamedTuple):
    """The pages, and the files that were written. ``attached``: the digest of the artifact that has the page."""

    site: Site
    files: tuple[Path, ...]
    attached: str | None = None


def page(root: Path, folder: Path, name: str | None = None, *, attached: bool = False) -> Pages:
    """Write the pages into ``folder``: of all releases with an index, or of the one that ``name`` means.

    ``attached``: also attach the page of ``name`` to its image. Raises as ``gathering.gather``, MachineRefused if
    ``folder`` cannot be written, and RegistryRefused if the image is not in its store or the store takes nothing.
    """
    found = gathering.gather(root, name)
    written = tuple(site.write(folder, found))
    return Pages(
        found,
        written,
        _attach(root, found.pages[0], found.tip, written[0].read_bytes()) if attached else None,
    )


def _attach(root: Path, its: ReleasePage, tip: str, html: bytes) -> str:
    store = stores.open_store(reference.parse(its.pointer.image), root, push=True)
    about = {
        "org.opencontainers.image.version": its.version,
        "org.opencontainers.image.revision": tip,
    }
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        to = attach.subject(store, its.pointer.digest)
        return attach.attach(store, to, MEDIA_TYPE, html, its.file, about)
