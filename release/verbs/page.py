"""page: a page of HTML for each release, and an index. Reads git, DVC's outputs and the ledger; decides nothing."""

from pathlib import Path
from typing import NamedTuple

from release.cards import gathering, site
from release.cards.release_page import Site


class Pages(NamedTuple):
    """What was written, and where."""

    site: Site
    files: tuple[Path, ...]


def page(root: Path, folder: Path, name: str | None = None) -> Pages:
    """Write the pages into ``folder``: of all releases with an index, or of the one that ``name`` means.

    Raises as ``gathering.gather``, and MachineRefused if ``folder`` cannot be written.
    """
    found = gathering.gather(root, name)
    return Pages(found, tuple(site.write(folder, found)))
