"""Describes the checkout for a run in MLflow: commit, branch, whether files were edited, and the run's name."""

import os
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.storage import layout
from checks.training import steps

# The branch where a machine checks out a commit alone: an experiment of DVC, GitHub's pull request and push, GitLab.
_BRANCH = ("DVC_EXP_NAME", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")
# The pipeline writes these itself while it works.
_WRITTEN = (layout.LOCK, layout.CODE_LOCK, layout.REPORTS)
_LONGEST = 250  # characters of a run's name that MLflow's databases take


class Checkout(NamedTuple):
    """``commit``: None outside git and before the first commit. ``branch``: None where nothing names one.

    ``dirty``: tracked files differ from the commit, other than code.lock, dvc.lock and reports/.
    """

    commit: str | None = None
    branch: str | None = None
    dirty: bool = False


def current(root: Path) -> Checkout:
    """Return what is checked out at ``root``. Outside git, and on a machine without git, it is empty."""
    try:
        import git

        with git.Repo(root, search_parent_directories=True) as repository:
            commit = repository.head.commit.hexsha
            branch = None if repository.head.is_detached else repository.active_branch.name
            top = Path(str(repository.working_tree_dir))
            written = [
                (root.resolve() / path).relative_to(top.resolve()).as_posix() for path in _WRITTEN
            ]
            edited = repository.git.diff(
                "HEAD", "--name-only", "--no-ext-diff", "--ignore-submodules", "--", ".",
                *(f":(exclude,literal){path}" for path in written),
            )  # fmt: skip
    except (ImportError, ValueError):  # no git on this machine; no commit yet
        return Checkout()
    except git.GitError:
        return Checkout()
    return Checkout(
        commit, branch or next(filter(None, map(os.environ.get, _BRANCH)), None), bool(edited)
    )


def named(params: Params, checkout: Checkout) -> str:
    """Name a training: branch, commit, and each step's method with its rank, such as ``main 9a126a5 sft r16``.

    A ``+`` behind the commit says that files were edited.
    """
    commit = f"{checkout.commit[:7]}{'+' * checkout.dirty}" if checkout.commit else None
    trained = [
        f"{train.method} r{train.lora.r}" if train.lora else f"{train.method} full"
        for train in steps.of(params.training)
    ]
    return " ".join([*filter(None, (checkout.branch, commit)), ", ".join(trained)])[:_LONGEST]
