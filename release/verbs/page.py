"""page: a page of HTML for each release, and an index. Reads git, DVC's outputs and the ledger; decides nothing."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused, ParamsRefused
from release.adapters.registry import reference
from release.cards import bars, gathering, production
from release.cards.release_page import NoPages, ReleasePage, Site
from release.evidence import attach
from release.image import stores
from release.image.layout import Layout
from release.pages import html
from release.review import comparison

# The folder of the pages of a project at the git root, where the index over all models is.
ROOT = "root"
INDEX = "index.html"
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
    site = gathering.gather(root, name)
    written = tuple(write(folder, site))
    return Pages(
        site,
        written,
        _attach(root, site.pages[0], site.tip, written[0].read_bytes()) if attached else None,
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
    html.write(folder / INDEX, html.render("release.cards", "models.html.jinja", sites=sites))
    return sites, [folder / INDEX, *files]


def _attach(root: Path, its: ReleasePage, tip: str, html: bytes) -> str:
    store = stores.open_store(reference.parse(its.pointer.image), root, push=True)
    about = {
        "org.opencontainers.image.version": its.version,
        "org.opencontainers.image.revision": tip,
    }
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        to = attach.subject(store, its.pointer.digest)
        return attach.attach(store, to, MEDIA_TYPE, html, its.file, about)


def release(page: ReleasePage, site: Site) -> str:
    """The page of one release."""
    compared, before = page.comparison, page.before or ""
    answers = (*compared.answers, *compared.alike) if compared else page.mistakes
    return html.render(
        "release.cards", "release.html.jinja", page=page, site=site, bars=bars, found=compared,
        sections=comparison.sections(compared, before, page.version) if compared else {},
        production=production.written(page.production),
        explorer=comparison.explorer(answers, before, page.version), verdict=comparison.verdict,
        dumbbells=comparison.dumbbells(compared.slices, before, page.version) if compared else [], who=comparison.who,
    )  # fmt: skip


def index(site: Site) -> str:
    """The list of the releases of ``site``."""
    return html.render(
        "release.cards", "index.html.jinja", site=site, bars=bars, scores=bars.score_table(site)
    )


def write(folder: Path, site: Site) -> list[Path]:
    """Write every page, and the index first; their paths. Raises MachineRefused if one cannot be written."""
    written = {} if site.alone else {INDEX: index(site)}
    written |= {page.file: release(page, site) for page in site.pages}
    for name, text in written.items():
        html.write(folder / name, text)
    return [folder / name for name in written]
