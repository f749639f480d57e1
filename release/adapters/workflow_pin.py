"""The commit by which a team's workflows call those of Lockstep's repository: ``OWNER/NAME@COMMIT``."""

import os
import re
from pathlib import Path

from checks.process.errors import ParamsRefused, RemoteRefused
from release.adapters import thin_files
from release.adapters.git import Git

_CALLED = re.compile(rb"uses: ([\w.-]+/[\w.-]+)/\.github/workflows/[\w.-]+@([0-9a-f]{40})")
_NAMED = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<commit>[0-9a-f]{40}))?")
# The git server must answer within this time.
_SECONDS = 30


def check(name: str) -> re.Match[str]:
    """Return the parts of a pin, with or without a commit. Raises ParamsRefused if it is none."""
    named = _NAMED.fullmatch(name)
    if named is None:
        raise ParamsRefused(f"--workflows: {name!r}", "give OWNER/NAME, or OWNER/NAME@COMMIT")
    return named


def of(name: str, version: str) -> str:
    """Return the pin ``name``; without a commit, that of the tag of ``version`` in the repository.

    Raises ParamsRefused if it is no pin or if there is no such tag; RemoteRefused if the git server does not answer.
    """
    named = check(name)
    if named["commit"]:
        return name
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    address, tag = f"{server}/{named['repository']}", f"refs/tags/v{version}"
    answer = Git(Path(), _SECONDS).run("ls-remote", address, tag, f"{tag}^{{}}")
    if answer.code != 0:
        raise RemoteRefused(
            f"{address}: {answer.why()}", f"try again, or give --workflows {name}@COMMIT"
        )
    listed = answer.out.decode()
    # An annotated tag has two lines. The last one is the commit that it names.
    commits = [line.partition("\t")[0] for line in listed.splitlines()]
    if not commits:
        raise ParamsRefused(
            f"{address}: has no tag v{version}",
            f"push it there, as docs/how-to/upgrade.md says, or give --workflows {name}@COMMIT",
        )
    return f"{named['repository']}@{commits[-1]}"


def chosen(top: Path, given: str | None, version: str, *, write: bool) -> str | None:
    """Return the pin of the called workflows: what was given, or the version's tag where they are called from now.

    Where nothing is written, and the git server does not answer, it is the pin of now.
    """
    current = called(top)
    if given is None and current is None:
        return None
    try:
        return of(given or str(current).partition("@")[0], version)
    except RemoteRefused:
        if write or current is None:
            raise
        return current


def called(top: Path) -> str | None:
    """Return where Lockstep's own workflows call, OWNER/NAME@COMMIT. Raises ParamsRefused for several repositories."""
    names = [name for name in thin_files.templates() if name.startswith(".github/workflows/")]
    contents = [(top / name).read_bytes() for name in names if (top / name).exists()]
    calls = [match for data in contents for match in _CALLED.finditer(data)]
    repositories = sorted({match[1].decode() for match in calls})
    if len(repositories) > 1:
        raise ParamsRefused(
            f".github/workflows: call workflows of {' and '.join(repositories)}",
            "give --workflows OWNER/lockstep, the one that all call from now on",
        )
    return f"{repositories[0]}@{calls[0][2].decode()}" if calls else None
