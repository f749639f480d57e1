"""Opens the store that a reference names: a folder or a registry."""

from pathlib import Path

from release.adapters.registry.documents import Store
from release.adapters.registry.reference import Reference
from release.image.layout import Layout


def open_store(reference: Reference, root: Path, *, push: bool = False) -> Store:
    """Open the store of an image, without contacting it; a relative folder is below ``root``.

    ``push``: it will be written to.
    """
    if reference.host is None:
        return Layout(root / reference.name)
    from release.adapters.registry.client import Repository  # It imports requests.

    return Repository(reference.host, reference.name, push=push)
