"""Lets CML, if it is installed, post our comment on GitHub: https://github.com/iterative/cml.

CML reads one page of comments, ignores their author, and overlooks a watermark without a commit. So it posts only if it
would take this very comment.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from release.adapters import process
from release.adapters.github import Place
from release.adapters.rest import Comment
from release.review import posting

_PAGE = 30  # comments that CML looks through
_SECONDS = 120
_KEPT = (
    "PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "https_proxy", "NO_PROXY",
    "no_proxy",
)  # fmt: skip


def post(
    place: Place, title: str, markdown: str, comments: Sequence[Comment], ours: Comment | None
) -> str | None:
    """Post a comment on the pull request of ``place``, whose comments are known, and which of them is ours.

    Return None if that succeeded, the reason if it did not; an empty one if CML is missing.
    """
    program = shutil.which("cml")
    address = server(place)
    if program is None:
        return ""
    if address is None:
        return "does not speak to this API address"
    if not _takes(title, comments, ours):
        return "would not find this comment, or update someone else's"
    if place.commit is None:
        return "would write a watermark that it cannot find again, because no commit is known"
    # CML gets a HOME of its own, because it edits git's configuration.
    with tempfile.TemporaryDirectory(prefix="lockstep-cml-") as home:
        body = Path(home) / "report.md"
        body.write_text(markdown, encoding="utf-8")
        command = [
            program, "--driver=github", f"--repo={address}/{place.repository}", "comment", "update",
            f"--target=pr/{place.number}", "--publish=false", f"--watermark-title={title}", str(body),
        ]  # fmt: skip
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env |= {
            "HOME": home,
            # CML reads the commit of the watermark here: its --commit-sha excludes --target.
            "GITHUB_SHA": place.commit,
            "REPO_TOKEN": os.environ.get("GITHUB_TOKEN", ""),
            "TPI_ANALYTICS": "0",
            "ITERATIVE_DO_NOT_TRACK": "1",
        }
        try:
            done = process.run(command, deadline=_SECONDS, cwd=home, env=env)
        except subprocess.TimeoutExpired:
            return f"did not end within {_SECONDS} s"
        except OSError as error:
            return f"does not start: {error.strerror}"
    # What CML prints may hold the token.
    return f"ended with {done.returncode}" if done.returncode else None


def _takes(title: str, comments: Sequence[Comment], ours: Comment | None) -> bool:
    """Tell whether CML would update our comment, or make a new one if there is none."""
    page = comments[:_PAGE]
    seen = [comment for comment in page if posting.is_seen_by_cml(comment.body, title)]
    if ours is None:
        return not seen and len(comments) < _PAGE
    return bool(seen) and seen[-1].id == ours.id


def server(place: Place) -> str | None:
    """Return the server address that CML would derive from this API's address; None if that would be another API."""
    parts = urlsplit(place.api)
    if parts.scheme != "https":
        return None
    if parts.netloc == "api.github.com" and not parts.path:
        return "https://github.com"
    return f"https://{parts.netloc}" if parts.path == "/api/v3" else None
