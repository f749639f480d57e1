"""The server image that an environment names for weights alone."""

import re
from collections.abc import Mapping
from pathlib import Path

from checks.storage import layout
from release.overlay import environment_file

SERVER = re.compile(r"[^\s@]{1,400}@sha256:[0-9a-f]{64}")  # The serving report names a server so.


def named(environment: str, committed: Mapping[Path, bytes | None]) -> str | None:
    """Return the image in the environment's environment.yaml; None if it names none or is invalid."""
    file = environment_file.readable(environment, committed)
    return file.server if file else None


def of_all(root: Path) -> tuple[str, ...]:
    """Return the server images that the environments below ``root`` name, without duplicates."""
    paths = sorted((root / layout.ENVIRONMENTS).glob(f"*/{environment_file.NAME}"))
    files = {path.relative_to(root): path.read_bytes() for path in paths}
    names = (named(path.parent.name, files) for path in files)
    return tuple(dict.fromkeys(name for name in names if name is not None))
