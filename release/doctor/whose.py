"""Which repository on GitHub, and whose token asks: the environment first, then git and the command gh."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from checks.errors import RemoteRefused
from release.adapters import github
from release.adapters.github import Place
from release.doctor.command import ask

_SERVER = "https://github.com"
_SCP = re.compile(r"^(?:[^/@]+@)?([^/:]+):(?!//)(.+)$")  # HOST:PATH, as git takes it
_SECONDS = 10


def place(root: Path) -> Place:
    """GITHUB_REPOSITORY, else what the remote origin names. Raises RemoteRefused where neither is one of GitHub's."""
    env = {name: os.environ.get(name, "") for name in ("GITHUB_API_URL", "GITHUB_SERVER_URL")}
    name = os.environ.get("GITHUB_REPOSITORY") or _of_origin(root, env["GITHUB_SERVER_URL"] or _SERVER)
    return github.place({**env, "GITHUB_REPOSITORY": name})


def on_github_com(where: Place) -> bool:
    """Whether it is GitHub's own server: an enterprise server has apps of other numbers, and another issuer."""
    return _host(os.environ.get("GITHUB_SERVER_URL") or _SERVER) == "github.com" and not urlsplit(where.api).path


def token(where: Place) -> str | None:
    """GITHUB_TOKEN, else the one that gh has for this very host; None where there is none."""
    if given := os.environ.get("GITHUB_TOKEN"):
        return given
    if not shutil.which("gh"):
        return None
    host = _host(where.api).removeprefix("api.")
    return ask(["gh", "auth", "token", "--hostname", host], _SECONDS) or None


def _of_origin(root: Path, server: str) -> str:
    address = ask(["git", "-C", str(root), "remote", "get-url", "origin"]) or ""
    found = _SCP.match(address) if "://" not in address else None
    host = found[1].lower() if found else _host(address)
    if not host or host != _host(server):
        what = "the remote origin is on another host than GITHUB_SERVER_URL" if address else "there is no remote origin"
        todo = "gh repo create, or set GITHUB_REPOSITORY to OWNER/NAME (on a server of your own GITHUB_SERVER_URL too)"
        raise RemoteRefused(what, todo)
    path = found[2] if found else urlsplit(address).path
    return path.strip("/").removesuffix(".git")


def _host(address: str) -> str:
    """The host of an address; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
