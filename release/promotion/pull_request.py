"""A move as a pull request: pushes its commit to a branch, and opens the pull request through GitHub's API.

The token comes from GITHUB_TOKEN and is never printed. Without a token, or if the ledger is on another host, the branch
is pushed and the address for opening a pull request is returned.
"""

import os
import re
from urllib.parse import quote

from checks.formats.pointer import Pointer
from checks.process.errors import RemoteRefused
from release.adapters import github
from release.adapters.git import Git
from release.adapters.retries import RequestError
from release.ledger import DEADLINE, Change
from release.promotion.types import PromotionContext

_SERVER = "https://github.com"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")


def propose(
    context: PromotionContext, environment: str, after: Pointer, change: Change
) -> tuple[str, str | None]:
    """Push the commit to ``lockstep/ENVIRONMENT-VERSION`` and open a pull request. Returns the commit and an address.

    A pull request that is already open is used. Without access to the API the address is where a person can open one;
    it is None if the host is not GitHub. Raises RemoteRefused if GitHub refuses or does not answer; the branch exists
    then.
    """
    move = f"{environment}-{after.version}"
    branch = "/".join(filter(None, ("lockstep", context.ledger.folder, move)))
    commit = context.ledger.propose(context.tip, change, branch)
    name = _repository(context)
    if name is None:
        return commit, None
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        server = os.environ.get("GITHUB_SERVER_URL", _SERVER).rstrip("/")
        return (
            commit,
            f"{server}/{name}/compare/{quote(context.promote.branch)}...{quote(branch)}?expand=1",
        )
    title, _, body = change.message.partition("\n\n")
    client = github.GitHub(github.place({**os.environ, "GITHUB_REPOSITORY": name}), token)
    try:
        return commit, client.open(title, branch, context.promote.branch, body)
    except RequestError as trouble:
        refused = client.refused(trouble)
        todo = "give GITHUB_TOKEN the permission pull-requests: write, or open it by hand: the branch is pushed"
        raise RemoteRefused(f"{refused.what}: opens no pull request", todo) from None


def _repository(context: PromotionContext) -> str | None:
    """OWNER/NAME on GitHub, from the environment or the ledger's address; None if neither gives it."""
    named = os.environ.get("GITHUB_REPOSITORY") if context.promote.repository is None else None
    if named is None:
        address = context.promote.repository or _remote(context)
        named = github.repository_of(address, os.environ.get("GITHUB_SERVER_URL", _SERVER))
    return named if named and _NAME.fullmatch(named) else None


def _remote(context: PromotionContext) -> str:
    git = Git(context.root, DEADLINE)
    name = git.config(f"branch.{context.promote.branch}.remote") or "origin"
    return git.config(f"remote.{name}.url") or ""
