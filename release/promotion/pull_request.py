"""A move as a pull request: its commit on a branch of its own, and GitHub asked to show it to people.

The token comes by the environment (GITHUB_TOKEN) and is shown nowhere. Without one, or where the ledger is on another
host, the branch is pushed and the address to open a pull request at is given.
"""

import os
import re
from urllib.parse import quote

from checks.errors import RemoteRefused
from checks.pointer import Pointer
from release.adapters import github
from release.adapters.git import Git
from release.adapters.retries import Trouble
from release.ledger import DEADLINE, Change
from release.promotion.site import Site

_SERVER = "https://github.com"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")


def propose(where: Site, environment: str, after: Pointer, change: Change) -> tuple[str, str | None]:
    """Push the commit to ``lockstep/ENVIRONMENT-VERSION``, and open a pull request; its commit and address.

    The address is where one can be opened when nobody may be asked here, None where the host is not GitHub. A request
    that is open already is taken. Raises RemoteRefused when GitHub refuses or does not answer: the branch is there.
    """
    branch = f"lockstep/{environment}-{after.version}"
    commit = where.ledger.propose(where.tip, change, branch)
    name = _repository(where)
    if name is None:
        return commit, None
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        server = os.environ.get("GITHUB_SERVER_URL", _SERVER).rstrip("/")
        return commit, f"{server}/{name}/compare/{quote(where.promote.branch)}...{quote(branch)}?expand=1"
    title, _, body = change.message.partition("\n\n")
    asked = github.GitHub(github.place({**os.environ, "GITHUB_REPOSITORY": name}), token)
    try:
        return commit, asked.open(title, branch, where.promote.branch, body)
    except Trouble as trouble:
        refused = github.refused(asked.where, trouble)
        todo = "give GITHUB_TOKEN the permission pull-requests: write, or open it by hand: the branch is there"
        raise RemoteRefused(f"{refused.what}: opens no pull request", todo) from None


def _repository(where: Site) -> str | None:
    """OWNER/NAME on GitHub, by the environment or by the ledger's address; None where neither says."""
    named = os.environ.get("GITHUB_REPOSITORY") if where.promote.repository is None else None
    if named is None:
        address = where.promote.repository or _remote(where)
        named = github.repository_of(address, os.environ.get("GITHUB_SERVER_URL", _SERVER))
    return named if named and _NAME.fullmatch(named) else None


def _remote(where: Site) -> str:
    git = Git(where.root, DEADLINE)
    name = git.config(f"branch.{where.promote.branch}.remote") or "origin"
    return git.config(f"remote.{name}.url") or ""
