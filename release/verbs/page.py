"""page: a page of HTML for each release, and an index. Reads git, DVC's outputs and the ledger; decides nothing."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused, ParamsRefused
from release.adapters.registry import reference
from release.cards import gathering, site
from release.cards.release_page import NoPages, ReleasePage, Site
from release.evidence import attach
from release.image import stores
from release.image.layout import Layout

# The folder of the pages of a project at the git root, where the index over all models is.
ROOT = "root"
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


def of_projects(
    root: Path, folder: Path, projects: Sequence[str]
) -> tuple[dict[str, Site | NoPages], list[Path]]:
    """Write the pages of projects below ``root``, each into a folder of its name, and an index over their models.

    The folder of a project that is ``root`` itself is ``ROOT``. Return what they say by folder, and the files. A
    project whose pages cannot be made is in the index with the reason. Raises MachineRefused if ``folder`` cannot be
    written.
    """
    sites, files = dict[str, Site | NoPages](), list[Path]()
    for project in projects:
        place = ROOT if project == "." else project
        try:
            pages = page(root / project, folder / place)
        except (EvidenceRefused, ParamsRefused) as refused:
            sites[place] = NoPages(why=refused.what)
            continue
        sites[place] = pages.site
        files += pages.files
    return sites, [site.models(folder, sites), *files]


def _attach(root: Path, its: ReleasePage, tip: str, html: bytes) -> str:
    store = stores.open_store(reference.parse(its.pointer.image), root, push=True)
    about = {
        "org.opencontainers.image.version": its.version,
        "org.opencontainers.image.revision": tip,
    }
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        to = attach.subject(store, its.pointer.digest)
        return attach.attach(store, to, MEDIA_TYPE, html, its.file, about)
