"""render: writes an environment's kustomization.yaml from its environment.yaml."""

from pathlib import Path

from checks.storage import files
from release.overlay import environment_file, kustomization


def render(root: Path, environment: str) -> Path:
    """Write the kustomization.yaml of ``environment``; its path in the repository.

    Raises ParamsRefused if environment.yaml is missing or invalid.
    """
    source = environment_file.path(environment)
    data = (root / source).read_bytes() if (root / source).is_file() else None
    file = environment_file.read(environment, {source: data})
    written = source.with_name(kustomization.NAME)
    files.write_text(root / written, kustomization.render(environment, file).decode())
    return written
