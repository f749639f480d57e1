"""Renders the pages of releases and their index, and writes them."""

from collections.abc import Mapping
from pathlib import Path

from release.cards import bars
from release.cards.release_page import NoPages, ReleasePage, Site
from release.pages import html
from release.review import comparison
from release.review import page as comparisons

INDEX = "index.html"


def release(page: ReleasePage, site: Site) -> str:
    """The page of one release."""
    compared = page.comparison
    return html.render(
        "release.cards", "release.html.jinja", page=page, site=site, bars=bars, found=compared,
        sections=comparisons.sections(compared, page.before or "", page.version) if compared else {},
        answers=compared.answers[: html.ANSWERS] if compared else (), verdict=comparison.verdict, who=comparison.who,
    )  # fmt: skip


def index(site: Site) -> str:
    """The list of the releases of ``site``."""
    return html.render("release.cards", "index.html.jinja", site=site, bars=bars)


def models(folder: Path, sites: Mapping[str, Site | NoPages]) -> Path:
    """Write the index over the projects ``sites``, by their folders below ``folder``. Raises as ``write``."""
    text = html.render("release.cards", "models.html.jinja", sites=sites)
    html.write(folder / INDEX, text)
    return folder / INDEX


def write(folder: Path, site: Site) -> list[Path]:
    """Write every page, and the index first; their paths. Raises MachineRefused if one cannot be written."""
    written = {} if site.alone else {INDEX: index(site)}
    written |= {page.file: release(page, site) for page in site.pages}
    for name, text in written.items():
        html.write(folder / name, text)
    return [folder / name for name in written]
