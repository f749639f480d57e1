"""projects: the projects of the repository, and those that a pull request changes."""

import re
from collections.abc import Mapping
from pathlib import Path

from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.process.text import redact
from checks.records.rows import Record
from checks.storage import layout
from release.adapters import commits, projects
from release.adapters.git import Git
from release.overlay import namespaces
from release.record.records import Records

_NAME = re.compile(r"[A-Za-z0-9_./-]+", re.ASCII)


class Project(Record):
    """A project by its ``folder`` below the git root. ``changed``: HEAD changes it since it left the target branch."""

    folder: str
    model: str | None  # serve.name; None if params.yaml does not say it.
    changed: bool


def listed(root: Path, target: str | None = None, since: str | None = None) -> tuple[Project, ...]:
    """Return the projects of HEAD. ``target``: the branch to compare with (default: ``commits.target``).

    All count as changed where HEAD changes nothing or a file that they share. ``since``: changed are those whose record
    or params.yaml differs from this commit's; all, if git has no such commit or none differs.

    Raises EvidenceRefused if git has no commit, no project or no ``target``, for a folder whose name a workflow cannot
    pass on, and for a project that lost params.yaml alone; ParamsRefused if two projects have one `serve.name`, or two
    environments one namespace.
    """
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None:
        raise EvidenceRefused(
            f"{root.resolve()}: git has no commit here", "commit the projects first"
        )
    git = Records(root).git
    folders = projects.folders(git, head)
    if not folders:
        raise EvidenceRefused(
            f"{head[:12]}: no folder has params.yaml and dvc.yaml",
            "begin a project with `lockstep init`, and commit it",
        )
    for folder in folders:
        if not _NAME.fullmatch(folder.as_posix()):
            raise EvidenceRefused(
                f"{redact(str(folder))!r}: a name of a project has other characters than A-Z a-z 0-9 _ . -",
                "rename the folder",
            )
    top = projects.top(root)
    models = {folder: _model(Records(top / folder), head) for folder in folders}
    names = {folder / layout.PARAMS: model for folder, model in models.items()}
    _refuse_same("serve.name", names, "give each project's model a name of its own")
    todo = "give each environment a namespace of its own, run `lockstep render`, and commit"
    _refuse_same("namespace", namespaces.of_repository(git, head), todo)
    tip = commits.target(root, target)[1]
    base = commits.merge_base(root, head, tip) if tip else None
    changed = projects.changed(git, base, head) if base else folders
    if since is not None:
        before = commits.resolve(root, since)
        changed = projects.recorded_anew(git, before, head) if before else folders
    _refuse_half_removed(git, base, head, folders)
    return tuple(
        Project(folder=str(folder), model=model, changed=folder in (changed or folders))
        for folder, model in models.items()
    )


def _refuse_half_removed(git: Git, base: str | None, head: str, folders: tuple[Path, ...]) -> None:
    """Refuse a project that lost params.yaml alone: added again, it would meet no policy of its own."""
    lost = set(projects.folders(git, base)) - set(folders) if base else set()
    for folder in sorted(lost):
        if projects.has_pipeline(git, head, folder):
            raise EvidenceRefused(
                f"{folder}: params.yaml was removed, and dvc.yaml was not",
                f"restore it, or remove the whole project: git rm -r {folder}",
            )


def _model(records: Records, head: str) -> str | None:
    """Return `serve.name` as of ``head``. A params.yaml that cannot be read is the gate's to refuse."""
    try:
        serve = records.at(head).document("params.yaml").get("serve")
    except (EvidenceRefused, ParamsRefused):
        return None
    name = serve.get("name") if isinstance(serve, Mapping) else None
    return name if isinstance(name, str) else None


def _refuse_same(what: str, value_in: Mapping[Path, str | None], todo: str) -> None:
    """Refuse two files with one value: clusters, dashboards and gateways tell models apart by it."""
    first = dict[str, Path]()
    for path, value in value_in.items():
        if value is not None and (other := first.setdefault(value, path)) != path:
            raise ParamsRefused(f"{what}: {redact(value)}: is in {other} and in {path}", todo)
