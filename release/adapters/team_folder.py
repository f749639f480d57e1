"""The folder of a team in which `lockstep init` works: one that has a params.yaml, or one that gets all files."""

import shutil
from pathlib import Path
from typing import NamedTuple

from checks.config import params_file
from checks.config.params import Params
from checks.formats.placeholder_cards import PLACEHOLDERS
from checks.process import distribution
from checks.process.errors import DataRefused, ParamsRefused
from checks.storage import layout
from release.adapters import commits, git, pin, thin_files
from release.adapters.thin_files import Plan

EXAMPLE = "azure-cli"  # the loader of the configurations that come with the repository
# Folders that the pipeline writes; git ignores most of them.
_WRITTEN = (Path("data"), Path("models"), layout.REPORTS, Path(".lockstep"))
_BRANCHES = ("refs/heads/", f"refs/remotes/{commits.ORIGIN}/")


class TeamFolder(NamedTuple):
    """The folder ``root``. ``plan``: the files to write there; None if they are there. ``pin``: as a file of them.

    ``old``: the text of the params.yaml that is adapted to the data; ``params``: the same, parsed.
    """

    root: Path
    plan: Plan | None
    old: str
    params: Params
    pin: str = ""

    @property
    def is_example(self) -> bool:
        """Whether its params.yaml is about the example that comes with Lockstep."""
        return self.params.prepare.loader.kind == EXAMPLE

    @property
    def has_master_alone(self) -> bool:
        """Whether its repository's branch is called master, and none main."""
        if not git.has_repository(self.root):
            return False
        names = git.Git(self.root, None).line(
            "for-each-ref", "--format=%(refname:lstrip=-1)", *_BRANCHES
        )
        head = git.Git(self.root, None).found("symbolic-ref", "--quiet", "--short", "HEAD")
        branches = {*names.split("\n"), head}
        return "master" in branches and "main" not in branches

    def example_cards(self) -> tuple[Path, ...]:
        """Return the files for the cards that describe the example, by its tag, and that git has as they are."""
        root, tag = self.root, f"tags: [{EXAMPLE}]".encode()
        if not self.is_example or commits.resolve(root, "HEAD") is None:
            return ()
        there = [
            card
            for card in PLACEHOLDERS
            if (root / card).is_file() and not (root / card).is_symlink()
        ]
        changed = commits.uncommitted(root, "HEAD", there)
        return tuple(
            card for card in there if card not in changed and tag in (root / card).read_bytes()
        )

    def remove_record(self) -> None:
        """Remove dvc.lock, code.lock and the reports, but for the noise.

        The stage gate needs that file, and asks to measure it again for another task.
        """
        for path in (layout.LOCK, layout.CODE_LOCK):
            (self.root / path).unlink(missing_ok=True)
        for report in (self.root / layout.REPORTS).glob("*"):
            if report.is_dir():
                shutil.rmtree(report)
            elif report.name != layout.NOISE.name:
                report.unlink()

    def path(self, address: str) -> str:
        """Return an address for stages that run elsewhere; one that is no path in the folder stays as it is."""
        path = self.root / address
        return str(path.resolve()) if path.exists() else address

    def address(self, file: Path) -> str:
        """Return the address of ``file`` for params.yaml.

        Raises DataRefused for a file that is missing, or that the pipeline would overwrite.
        """
        check_file(file)
        path = file.resolve()
        top = self.root.resolve()
        if not path.is_relative_to(top):
            return str(path)
        within = path.relative_to(top)
        for folder in _WRITTEN:
            if folder in within.parents:
                raise DataRefused(
                    f"{within}: the pipeline writes {folder}/ itself",
                    f"mkdir -p datasets && mv {within} datasets/ && ./lockstep init datasets/{within.name}",
                )
        return within.as_posix()


def find(root: Path, file: Path, *, force: bool, workflows: str | None = None) -> TeamFolder:
    """Decide where to work, with rows in ``file``. Writes nothing. ``workflows``: as in ``thin_files.generated``.

    Raises as ``pin.of``, ParamsRefused as ``thin_files.plan``, and for a params.yaml that may not be replaced or a
    clone without git; DataRefused if ``file`` is not a file.
    """
    if not thin_files.exist_in(root):
        check_file(file)  # before anything else is reported
        plan = thin_files.plan(root, file, workflows)
        text = thin_files.templates()[layout.PARAMS.as_posix()].decode()
        pinned = pin.written(pin.of(distribution.version()))
        return TeamFolder(root, plan, text, params_file.parse(text), pinned)
    if not git.has_repository(root):
        raise ParamsRefused(
            f"{root.resolve()}: is not in a git repository", "git init && git add -A && git commit"
        )
    params = params_file.load(root / layout.PARAMS)
    text = (root / layout.PARAMS).read_text(encoding="utf-8")
    folder = TeamFolder(root, None, text, params)
    if not force:
        _check_replaceable(folder)
    return folder


def check_file(file: Path) -> None:
    """Raise DataRefused if ``file`` is not a file."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise DataRefused(
            f"{file}: {what}",
            "give one file in JSONL, CSV or Parquet; for others: docs/how-to/data.md",
        )


def _check_replaceable(folder: TeamFolder) -> None:
    """Raise ParamsRefused unless params.yaml is the example's and git has it."""
    if not folder.is_example:
        raise ParamsRefused(
            f"{layout.PARAMS}: is about data of your own already", "give --force to replace it"
        )
    head = commits.resolve(folder.root, "HEAD")
    if head is None or commits.uncommitted(folder.root, "HEAD", [layout.PARAMS]):
        raise ParamsRefused(
            f"{layout.PARAMS}: has changes that git does not have",
            "commit them, or give --force to replace them",
        )
