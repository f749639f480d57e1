"""Whether git ignores the file of a secret, so that no `git add` takes it in."""

from pathlib import Path

from checks.process.errors import MachineRefused
from checks.storage import layout
from release.adapters import git
from release.adapters.git import Git


def check(root: Path, path: Path) -> None:
    """Raise MachineRefused if git would take ``path`` in, which need not be there, with the line that ignores it.

    In ``root`` without a repository, which may still become one, only what lies below ``.lockstep`` is safe.
    """
    place = path.resolve()  # A folder may be a link to one that git does not ignore.
    state = root.resolve() / layout.STATE
    folder = next(parent for parent in place.parents if parent.is_dir())
    if not git.has_repository(folder):
        if place.is_relative_to(root.resolve()) and not place.is_relative_to(state):
            raise MachineRefused(
                f"{path}: git would take it in", f"keep it below {layout.STATE}/, or elsewhere"
            )
        return
    repository = Git(folder, None)
    if not repository.says("check-ignore", "--quiet", "--", str(place)):
        top = Path(repository.line("rev-parse", "--show-toplevel"))
        secret = (
            f"{state.relative_to(top)}/" if place.is_relative_to(state) else place.relative_to(top)
        )
        raise MachineRefused(
            f"{path}: git would take it in",
            f"add the line `/{secret}` to {top / '.gitignore'}, or keep it elsewhere",
        )
