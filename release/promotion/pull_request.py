"""A move as a pull request: its commit on a branch of its own, and GitHub asked to show it to people.

The token comes by the environment (GITHUB_TOKEN) and is shown nowhere. Without one, or where the ledger is on another
host, the branch is pushed and the address to open a pull request at is given.

Source: GitHub's REST API, "Create a pull request".
"""

import json
import os
import re
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from checks.errors import RemoteRefused
from checks.pointer import Pointer
from release.ledger import DEADLINE, Change
from release.ledger.git import Git, printable
from release.promotion.site import Site

_API, _SERVER = "https://api.github.com", "https://github.com"
_SECONDS = (10.0, 30.0)  # to connect; between two reads
_LARGEST = 1 << 20  # bytes of a reply
_SCP = re.compile(r"^(?:[^/@]+@)?([^/:]+):(?!//)(.+)$")  # HOST:PATH, as git takes it
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
    return commit, _opened(token, name, {"title": title, "head": branch, "base": where.promote.branch, "body": body})


def _opened(token: str, name: str, request: dict[str, str]) -> str:
    """The address of the pull request."""
    url = f"{os.environ.get('GITHUB_API_URL', _API).rstrip('/')}/repos/{name}/pulls"
    status, reply = _ask("POST", url, token, request)
    if status == 422:  # one is open, or it cannot be
        owner = name.partition("/")[0]
        query = f"?state=open&head={quote(owner)}:{quote(request['head'])}&base={quote(request['base'])}"
        status, found = _ask("GET", url + query, token, None)
        if status == 200 and isinstance(found, list) and found:
            return _address(found[0], url)
        raise RemoteRefused(
            f"{_host(url)}: opens no pull request: {_said(reply)}", "open it by hand: the branch is there"
        )
    if status != 201:
        todo = "give GITHUB_TOKEN the permission pull-requests: write, or open it by hand: the branch is there"
        raise RemoteRefused(f"{_host(url)}: opens no pull request: HTTP {status}: {_said(reply)}", todo)
    return _address(reply, url)


def _ask(method: str, url: str, token: str, body: dict[str, str] | None) -> tuple[int, Any]:
    headers = {
        "Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28",
        "Authorization": f"Bearer {token}",
    }  # fmt: skip
    try:
        # A redirect would take the token elsewhere.
        with requests.request(
            method, url, headers=headers, json=body, timeout=_SECONDS, allow_redirects=False, stream=True
        ) as response:
            data = response.raw.read(_LARGEST, decode_content=True)
            status = response.status_code
    except (requests.RequestException, HTTPError, OSError) as error:
        what = f"{_host(url)}: does not answer: {type(error).__name__}"
        raise RemoteRefused(what, "run it again, or open the pull request by hand: the branch is there") from None
    try:
        return status, json.loads(data)
    except (ValueError, RecursionError):
        return status, None


def _address(reply: object, url: str) -> str:
    found = reply.get("html_url") if isinstance(reply, dict) else None
    if not isinstance(found, str) or not found.startswith(("https://", "http://")):
        raise RemoteRefused(f"{_host(url)}: says nothing of the pull request it took", "look for it there")
    return printable(found, 500)


def _said(reply: object) -> str:
    """What GitHub says, for a person."""
    if not isinstance(reply, dict):
        return "nothing that can be read"
    errors = reply.get("errors")
    more = [str(one.get("message", "")) for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    return printable(" ".join([str(reply.get("message", "")), *more]), 200)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _repository(where: Site) -> str | None:
    """OWNER/NAME on GitHub, by the environment or by the ledger's address; None where neither says."""
    named = os.environ.get("GITHUB_REPOSITORY") if where.promote.repository is None else None
    if named is None:
        address = where.promote.repository or _remote(where)
        found = _SCP.match(address) if "://" not in address else None
        host, path = (found[1], found[2]) if found else (urlsplit(address).hostname or "", urlsplit(address).path)
        if host != urlsplit(os.environ.get("GITHUB_SERVER_URL", _SERVER)).hostname:
            return None
        named = path.strip("/").removesuffix(".git")
    return named if _NAME.fullmatch(named) else None


def _remote(where: Site) -> str:
    git = Git(where.root, DEADLINE)
    name = git.config(f"branch.{where.promote.branch}.remote") or "origin"
    return git.config(f"remote.{name}.url") or ""
