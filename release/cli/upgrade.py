"""The command upgrade: another version of Lockstep for this repository."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from release.cli.common import JSON, refusing, to_json

if TYPE_CHECKING:
    from release.verbs.upgrade import Upgraded


@click.command()
@click.argument("version", required=False)
@click.option(
    "--files", "only_files", is_flag=True, help="Leave the pin; write the files of its version."
)
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing, and end with 8 if a file is not of the pinned version.",
)
@click.option(
    "--workflows",
    metavar="OWNER/lockstep[@COMMIT]",
    help="Call the workflows of this repository. Default: the one that is called now, at its tag of the version.",
)
@click.option(
    "--replace",
    multiple=True,
    metavar="FILE",
    help="Write FILE although a person changed it. Repeatable.",
)
@JSON
@click.pass_obj
@refusing
def upgrade(
    root: Path, version: str | None, only_files: bool, check: bool, workflows: str | None, replace: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Move this repository to VERSION of Lockstep, by default the newest.

    Writes the pin in lockstep-requirements.txt, sets that version up, and writes what it generates: the launcher,
    dvc.yaml, the workflows and code.lock. Moves keys of params.yaml that the version has elsewhere, writes defaults
    that DVC tracks, and adds missing lines to .gitignore, .gitattributes and .dvcignore. Prints each difference. A
    generated file that a person changed is kept and named. Says which stages run again. Commits nothing.

    After a pull request of Dependabot or Renovate that changes the pin alone: `./lockstep upgrade --files`.
    """
    from checks.process.errors import ParamsRefused
    from release.adapters import thin_files, workflow_pin
    from release.verbs import upgrade as verb

    if version is not None and (check or only_files):
        raise click.UsageError(
            "VERSION excludes --check and --files: they are about the pinned version"
        )
    names = thin_files.names()
    unknown = [name for name in replace if Path(name).name not in names]
    if unknown:
        raise ParamsRefused(
            f"--replace {unknown[0]}: is no generated file",
            f"give one of {', '.join(names)}",
        )
    if workflows:
        workflow_pin.check(workflows)
    top = _top(root)
    if not (check or only_files):
        _move(top, version, workflows, replace, as_json=as_json)
    done = verb.upgrade(top, workflows, frozenset(replace), write=not check)
    if as_json:
        click.echo(to_json(done._asdict()))
    else:
        _show(done, check=check)
    _refuse(done, check=check)


def _top(root: Path) -> Path:
    """Return the top of the repository, in which a launcher can be written."""
    from checks.process.errors import ParamsRefused
    from release.adapters import thin_files

    top = thin_files.top_of(root)
    if top is None:
        raise ParamsRefused(f"{root.resolve()}: is not in a git repository", "git init")
    launcher = top / thin_files.LAUNCHER
    for is_wrong, what, todo in (
        (
            (top / "checks/process/distribution.py").is_file(), f"{top}: is Lockstep's own repository, or a copy of it",
            "docs/how-to/upgrade.md says how a copy moves over",
        ),
        (not thin_files.projects(top), f"{top}: no folder has a params.yaml", "begin with `lockstep init FILE`"),
        (
            os.path.lexists(launcher) and (launcher.is_symlink() or not launcher.is_file()),
            f"{launcher}: is no regular file", "move it away: the launcher has this name",
        ),
    ):  # fmt: skip
        if is_wrong:
            raise ParamsRefused(what, todo)
    return top


def _move(
    top: Path,
    version: str | None,
    workflows: str | None,
    replace: tuple[str, ...],
    *,
    as_json: bool,
) -> NoReturn:
    """Pin a version, and run the rest in it, by the launcher."""
    from release.adapters import thin_files
    from release.verbs import upgrade as verb

    new = verb.repin(top, version, workflows)
    click.echo(f"pinned Lockstep {new.version}", err=True)
    launcher = top / thin_files.LAUNCHER
    if not launcher.exists():  # Lockstep was copied to this repository.
        launcher.write_bytes(thin_files.generated(None)[thin_files.LAUNCHER])
        launcher.chmod(0o755)
    options = [
        *(("--workflows", workflows) if workflows else ()),
        *(["--json"] if as_json else []),
        *(word for name in replace for word in ("--replace", name)),
    ]
    os.chdir(top)
    command = [sys.executable, "-P", "./lockstep", "upgrade", "--files", *options]
    os.execv(sys.executable, command)  # noqa: S606


def _refuse(done: "Upgraded", *, check: bool) -> None:
    """Refuse what this version does not take; with ``check`` also what is not of it."""
    from checks.process.errors import EvidenceRefused, ParamsRefused

    ParamsRefused.raise_for(done.problems, "then run this again")
    behind = [
        *done.diffs,
        *(f"code.lock in {folder}" for folder, stages in done.stale.items() if stages),
    ]
    if check and behind:
        raise EvidenceRefused(
            f"{', '.join(behind)}: not of Lockstep {done.version}",
            "run ./lockstep upgrade --files, and commit",
        )


def _show(done: "Upgraded", *, check: bool) -> None:
    """Print the differences, and what to do next."""
    for difference in (*done.diffs.values(), *done.kept.values()):
        click.echo(difference, nl=False)
    for name in done.diffs:
        click.echo(f"{'would write' if check else 'wrote'} {name}")
    for name in done.kept:
        click.echo(
            f"kept {name}, which a person changed: take over the difference, or give --replace {name}"
        )
    for folder, stages in done.stale.items():
        run = f"run again: {', '.join(stages)}" if stages else "run nothing again"
        click.echo(f"stages of {folder}: {run}")
    if not (done.diffs or done.kept or done.problems or any(done.stale.values())):
        click.echo(f"this repository is of Lockstep {done.version}")
