"""render: writes an environment's kustomization.yaml from its environment.yaml, and the shared files that it uses."""

from collections.abc import Iterator
from pathlib import Path

from checks.process.errors import ParamsRefused
from checks.storage import files, layout
from release.adapters import commits, projects
from release.overlay import edits, environment_file, kustomization, overlays


def render(root: Path, environment: str) -> list[Path]:
    """Write the kustomization.yaml of ``environment``, and the shared files that it uses or that are there.

    Return the paths of the files that changed. A shared folder of an earlier version of Lockstep is replaced as a
    whole; other files of people stay. Raises ParamsRefused if environment.yaml is missing or invalid, or if an update
    with it could not end, or would end every server unasked.
    """
    source = environment_file.path(environment)
    file = environment_file.read(environment, {source: _data(root / source)})
    ParamsRefused.raise_for(_outside(root, file), f"see {environment_file.PAGE}")
    paths = [path for path in (root / layout.ENVIRONMENTS).rglob("*") if not path.is_dir()]
    committed = {path.relative_to(root): _data(path) for path in paths}
    ParamsRefused.raise_for(edits.stuck(environment, committed), f"see {environment_file.PAGE}")
    if file.canary and layout.ENVIRONMENTS / file.canary / overlays.CANARY not in committed:
        raise ParamsRefused(
            f"{source}: canary: {file.canary} has no {overlays.CANARY}",
            f"`lockstep render {file.canary}` first, with variant: adapter",
        )
    wanted = {source.with_name(kustomization.NAME): kustomization.render(environment, file)}
    wanted |= edits.shared_files(file)
    if file.variant == "adapter" and not (root / source.parent / overlays.FOLDER).exists():
        wanted |= overlays.nothing(environment, adapter=True)
    for folder, content in edits.shared_folders().items():
        wanted |= content if edits.files_below(committed, folder) else {}
    for path in {path for stale in edits.earlier_folders(committed).values() for path in stale}:
        (root / path).unlink()
    changed = [path for path, data in wanted.items() if _data(root / path) != data]
    for path in changed:
        files.write_text(root / path, wanted[path].decode())
    return changed


def _outside(root: Path, file: environment_file.EnvironmentFile) -> Iterator[str]:
    """Yield each listed project that is outside of the repository. Outside of git, nobody knows where that ends."""
    if file.adapters and commits.has_repository(root):
        top = projects.top(root).resolve()
        for folder in file.adapters:
            if not (root / folder).resolve().is_relative_to(top):
                yield f"adapters: {folder}: is outside of the repository"


def _data(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None
