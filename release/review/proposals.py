"""Pull requests that a command opens on GitHub, one at a time for each topic: `watch --pr`, `harvest --pr`.

While one is open, a later run is one more commit on its branch, on top of what people wrote there. Nothing is merged.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from checks.process.errors import EvidenceRefused, RemoteRefused
from release.adapters import commits, github
from release.adapters.git import Git
from release.adapters.retries import RequestError
from release.ledger import DEADLINE, Change, place, push
from release.ledger.types import Place
from release.ledger.write import commit_of

_REMOTE = "origin"


class Proposal(NamedTuple):
    """The outcome. ``closed``: people closed or merged the pull request of this date, and it is not opened again."""

    done: Literal["opened", "updated", "closed"]
    url: str


class Draft(NamedTuple):
    """A pull request to open. ``change``: the files, for the branch and its commit on top of which they come."""

    title: str
    body: str
    change: Callable[[Place, str], Change]


def propose(root: Path, topic: str, date: str, draft: Callable[[str], Draft]) -> Proposal | None:
    """Open the pull request of ``topic`` and ``date`` (YYYY-MM-DD), or update the topic's open one.

    None: none is open, and the target branch has the files already.

    ``draft`` is given the project's folder in the repository, with a final slash, empty for the root. Raises
    RemoteRefused if the remote or GitHub refuses or does not answer, EvidenceRefused without a remote, PromotionRefused
    if git does not know who commits.
    """
    git = Git(root, DEADLINE)
    trunk = Place(git, _base(root, git), _REMOTE, git.prefix())
    repository = github.repository_here(git.config(f"remote.{_REMOTE}.url") or "")
    client = github.GitHub(github.place({**os.environ, "GITHUB_REPOSITORY": repository or ""}))
    try:
        return _proposed(client, trunk, topic, date, draft(trunk.prefix))
    except RequestError as trouble:
        refused = client.refused(trouble)
        todo = "give GITHUB_TOKEN the permissions contents: write and pull-requests: write; then run it again"
        raise RemoteRefused(
            refused.what, todo if isinstance(trouble, github.Forbidden) else refused.todo
        ) from None


def topic_of(branch: str, prefix: str) -> str | None:
    """Return the topic of a branch that ``propose`` pushed, such as `harvest-production`; None for another branch.

    ``prefix``: the project's folder in the repository, with a final slash, empty for the root.
    """
    match = re.fullmatch(
        rf"lockstep/{re.escape(prefix)}([^/]+)-\d{{4}}-\d\d-\d\d", branch, re.ASCII
    )
    return match[1] if match else None


def _proposed(
    client: github.GitHub, trunk: Place, topic: str, date: str, draft: Draft
) -> Proposal | None:
    pulls = client.pulls("open", trunk.branch)
    open_pull = next((pull for pull in pulls if topic_of(pull.head, trunk.prefix) == topic), None)
    branch = open_pull.head if open_pull else f"lockstep/{trunk.prefix}{topic}-{date}"
    if open_pull is None and (closed := next(client.pulls("closed", trunk.branch, branch), None)):
        return Proposal("closed", closed.url)
    tip = _fetched(trunk if open_pull is None else trunk._replace(branch=branch))
    made = commit_of(trunk.git, tip, draft.change(trunk, tip), trunk.prefix)
    if open_pull is None and made == tip:
        return None
    if open_pull is None:
        push.propose(trunk, made, branch)
        return Proposal("opened", client.open(draft.title, branch, trunk.branch, draft.body))
    if made != tip:
        push.propose(trunk, made, branch, tip)
    client.edit(open_pull.number, draft.title, draft.body)
    return Proposal("updated", open_pull.url)


def _base(root: Path, git: Git) -> str:
    """The branch that pull requests are made for."""
    name, _ = commits.target(root)
    if name == f"{_REMOTE}/HEAD":
        name = git.line("symbolic-ref", "refs/remotes/origin/HEAD").removeprefix("refs/remotes/")
    if not name.startswith(f"{_REMOTE}/"):
        raise EvidenceRefused(
            f"{root.resolve()}: has no remote {_REMOTE}",
            f"git remote add {_REMOTE} URL, and git fetch",
        )
    return name.removeprefix(f"{_REMOTE}/")


def _fetched(branch: Place) -> str:
    """The commit that the branch has, with its history here."""
    git = branch.git
    tip = place.look(branch).tip
    if tip is None:
        raise RemoteRefused(
            f"{branch.shown}: there is no such branch", "restore it, or close its pull request"
        )
    done = git.run(
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=", "--", _REMOTE,
        branch.ref,
    )  # fmt: skip
    if done.code != 0:
        raise place.unreachable(branch, done)
    return tip
