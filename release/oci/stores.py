"""The store that a reference names: a folder, or a registry."""

from pathlib import Path

from checks.errors import BuildRefused
from release.oci.layout import Layout
from release.oci.reference import Reference
from release.oci.types import Store


def open_store(reference: Reference, root: Path) -> Store:
    """Open the place of an image; a relative folder is below ``root``. Nothing is asked of it yet."""
    if reference.host is None:
        return Layout(root / reference.name)
    raise BuildRefused(f"{reference}: registries come with the next step", "use a layout")
