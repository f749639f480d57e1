"""The namespaces of all environments in a git repository, of whichever project.

The objects of every environment have the same names. So of two environments in one namespace, each would replace the
server of the other.
"""

from pathlib import Path

from release.adapters import projects
from release.adapters.git import Git
from release.overlay import environment_file


def of_repository(git: Git, commit: str) -> dict[Path, str]:
    """Return the namespace in each environment.yaml of ``commit``, by path below the git root.

    A file that is invalid is left out: a promotion of its environment is refused. Raises EvidenceRefused if git cannot
    read the commit.
    """
    listed = projects.paths(git, "ls-tree", "-r", "-z", "--full-tree", "--name-only", commit)
    pattern = str(environment_file.path("*"))
    folders = projects.folders(git, commit)
    paths = [path for path in listed if path.match(pattern) and project(path) in folders]
    contents = git.named([f"{commit}:{path.as_posix()}" for path in paths])
    namespaces = dict[Path, str]()
    for path, data in zip(paths, contents, strict=True):
        environment = path.parent.name
        committed = {environment_file.path(environment): data}
        if namespace := environment_file.namespace(environment, committed):
            namespaces[path] = namespace
    return namespaces


def project(path: Path) -> Path:
    """Return the folder of the project whose environment.yaml ``path`` is."""
    return path.parents[len(environment_file.path("*").parts) - 1]
