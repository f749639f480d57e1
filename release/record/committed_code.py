"""Compares the code that the stages ran, by dvc.lock, with the code of a commit, where it could be reviewed."""

from collections.abc import Iterable
from pathlib import Path

from checks.code import lock, modules
from checks.config.params import Params
from checks.process import distribution
from checks.process.text import redact
from checks.storage import layout
from release.adapters import commits, projects
from release.adapters.git import Git
from release.record import pipeline_lock


def differences(
    root: Path,
    commit: str,
    params: Params,
    stages: pipeline_lock.Stages,
    deadline: float | None = None,
) -> list[str]:
    """Return a line for each stage of a dvc.lock that ran other code than ``commit`` has.

    ``params``: the parameters that the stages ran with. ``deadline``: the seconds that git may take. Where the code
    that runs here lies elsewhere than at the git root, it is what was reviewed, and the commit's files of its names are
    not read. The team's own kinds are those of the commit. Raises EvidenceRefused if git cannot read the code in time,
    MachineRefused if a package from outside cannot be hashed.
    """
    home = distribution.home()
    is_own = projects.top(root).resolve() == home
    lockstep = _below(home, commit, modules.PACKAGES, deadline) if is_own else lock.running()
    code = {**lockstep, **_below(root, commit, (layout.KINDS.name,), deadline)}
    return [
        f"{layout.CODE_LOCK} at {commit[:12]}: {stage} ran other code than this commit has"
        for stage in pipeline_lock.other_code(lock.of(params, code), stages)
    ]


def _below(root: Path, commit: str, folders: Iterable[str], deadline: float | None) -> modules.Code:
    below = [path for folder in folders for path in commits.below(root, commit, Path(folder))]
    paths = [path.as_posix() for path in below if path.suffix == ".py"]
    contents = Git(root, deadline).named([f"{commit}:./{path}" for path in paths])
    return {
        path: content for path, content in zip(paths, contents, strict=True) if content is not None
    }


def uncommitted_input(git: Git) -> str | None:
    """Return the first path, printable, that stages read and that differs from HEAD; None if there is none."""
    inputs = (*map(str, (layout.PARAMS, layout.PIPELINE, layout.KINDS)), "stages", "checks")
    out = git.ask("status", "--porcelain", "-z", "--untracked-files=no", "--", *inputs).decode(
        errors="replace"
    )
    first = out.partition("\0")[0]
    return redact(first[3:], 100) if first else None
