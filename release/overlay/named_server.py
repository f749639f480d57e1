"""The server image that an environment's kustomization names for weights alone. Pure functions."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from checks import layout, plain_yaml
from release.overlay.overlays import PLACEHOLDER

_OWN = "kustomization.yaml"
SERVER = re.compile(r"[^\s@]{1,400}@sha256:[0-9a-f]{64}")  # as the serving report names it


def named(environment: str, found: Mapping[Path, bytes | None]) -> str | None:
    """NAME@sha256:… from ``images:`` in the environment's kustomization.yaml; None if it names none in this form.

    ``found`` as for ``edits.failures``, which reports what is wrong with the file.
    """
    try:
        value = plain_yaml.load((found.get(layout.ENVIRONMENTS / environment / _OWN) or b"").decode())
    except (yaml.YAMLError, ValueError):
        return None
    listed = value.get("images") if isinstance(value, dict) else None
    entries = [
        f"{entry.get('newName')}@{entry.get('digest')}"
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and entry.get("name") == PLACEHOLDER
    ]
    return entries[0] if len(entries) == 1 and SERVER.fullmatch(entries[0]) else None


def of_all(root: Path) -> tuple[str, ...]:
    """The server images that the environments below ``root`` name, without duplicates."""
    folders = sorted(path for path in (root / layout.ENVIRONMENTS).glob("*") if (path / _OWN).is_file())
    files = {layout.ENVIRONMENTS / folder.name / _OWN: (folder / _OWN).read_bytes() for folder in folders}
    names = (named(folder.name, files) for folder in folders)
    return tuple(dict.fromkeys(name for name in names if name is not None))
