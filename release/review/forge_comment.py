"""Posts a report as the comment of a pull request on GitHub, or as a note on GitLab, and sets the check of its commit.

The comment has CML's format: a watermark identifies it, so either tool finds a comment that the other wrote.

On GitHub, CML posts it if it is installed: https://github.com/iterative/cml. CML reads one page of comments, ignores
their author, and overlooks a watermark without a commit. So it posts only if it would take this very comment.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from checks.process.errors import RemoteRefused
from release.adapters import github, gitlab, process
from release.adapters.rest import Comment
from release.review import posting

ACTIONS = "github-actions[bot]"  # A workflow's own token writes as this account. No person can have the name.

_PAGE = 30  # comments that CML looks through
_SECONDS = 120
_KEPT = (
    "PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "https_proxy", "NO_PROXY",
    "no_proxy",
)  # fmt: skip


def request(options: posting.CommentOptions) -> posting.ReviewRequest:
    """Return the request that the options, or the workflow or pipeline, name. In a pipeline of GitLab it is GitLab's.

    Raises RemoteRefused if something is missing.
    """
    place = gitlab.place() if gitlab.is_here() else github.place()
    number, commit = options.number or place.number, options.commit or place.commit
    is_github = isinstance(place, github.Place)
    if number is None:
        kind = "pull request" if is_github else "merge request"
        variable = "" if is_github else " pipeline (CI_MERGE_REQUEST_IID)"
        job = f"workflow of a {kind}" if is_github else f"{kind}{variable}"
        raise RemoteRefused(f"no {kind} is named", f"give its number, or run in a {job}")
    if options.check is not None and (commit is None or not github.is_commit(commit)):
        check, of = ("check", "pull request") if is_github else ("status", "branch")
        todo = f"give the whole hash of the {of}'s last commit"
        raise RemoteRefused(f"no commit is named for the {check}", todo)
    client: github.GitHub | gitlab.GitLab
    if isinstance(place, github.Place):
        place = place._replace(number=number, commit=commit)
        client, run, web = (
            github.GitHub(place, patience=options.patience),
            "Workflow run",
            place.web,
        )
    else:
        client, run = gitlab.GitLab(place, patience=options.patience), "Pipeline"
        web = f"{place.page}/-" if place.page else None
    links = posting.with_link(options.links, run, place.run)
    return posting.ReviewRequest(client, number, commit, links, web)


def post(
    request: posting.ReviewRequest, draft: posting.Draft, options: posting.CommentOptions
) -> posting.Posted:
    """Post ``draft``, with CML if that would take our comment. Raises RequestError if the forge does not take it."""
    client = request.client
    comments = posting.Thread(
        client, request.number, options.title, options.author or client.login() or ACTIONS
    )
    body = f"{draft.markdown}\n{posting.watermark(options.title, request.commit)}"
    ours, others, known = comments.marked()
    why: str | None = ""
    if isinstance(client, github.GitHub):
        notes = posting.left_alone(others, "comment")
        if options.use_cml:
            given = (known, ours)
            why = post_by_cml(client.where, options.title, draft.markdown, *given)
    else:
        notes, body = posting.left_alone(others, "note"), without_actions(body)
    comment, created, by = _posted(comments, body, ours, why, notes)
    check, address = _checked(client, request.commit, draft, options.check, notes)
    return posting.Posted(
        state=draft.state, status=draft.status, conclusion=draft.conclusion, comment=comment.url, created=created,
        by=by, check=check, check_url=address or None, notes=tuple(notes),
    )  # fmt: skip


def without_actions(text: str) -> str:
    """Put a space before each line that GitLab would run as a quick action, such as ``/merge``."""
    return re.sub(r"(?m)^/", " /", text)


def _posted(
    comments: posting.Thread, body: str, ours: Comment | None, why: str | None, notes: list[str]
) -> tuple[Comment, bool, Literal["rest", "cml"]]:
    """Return the comment, whether it is new, and who posted it. ``why``: as of ``cml.post``."""
    if why is None:
        now, *_ = comments.marked()
        if now is not None and posting.same(now.body, body):
            return now, ours is None, "cml"
        why = "succeeded, but the comment is missing or different"
        ours = now
    if why:
        notes.append(f"cml: {why}; posted by REST")
    return (*comments.put(body, ours), "rest")


def _checked(
    client: github.GitHub | gitlab.GitLab,
    commit: str | None,
    draft: posting.Draft,
    name: str | None,
    notes: list[str],
) -> tuple[Literal["check-run", "status"] | None, str | None]:
    """Set the check ``name``, or a status where none may be set, as on GitLab. Return which, and its address."""
    if name is None or commit is None:
        return None, None
    if isinstance(client, gitlab.GitLab):
        return "status", client.status(name, commit, draft.conclusion, draft.title)
    try:
        address = client.check(name, commit, draft.conclusion, draft.title, draft.summary)
    except github.Forbidden:
        notes.append("check runs are for the tokens of apps: a commit status was set in its place")
        return "status", client.status(name, commit, draft.conclusion, draft.title)
    return "check-run", address


def post_by_cml(
    place: github.Place,
    title: str,
    markdown: str,
    comments: Sequence[Comment],
    ours: Comment | None,
) -> str | None:
    """Post a comment on the pull request of ``place``, whose comments are known, and which of them is ours.

    Return None if that succeeded, the reason if it did not; an empty one if CML is missing.
    """
    program = shutil.which("cml")
    address = server(place)
    if program is None or address is None:
        return "does not speak to this API address" if program else ""
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


def server(place: github.Place) -> str | None:
    """Return the server address that CML would derive from this API's address; None if that would be another API."""
    parts = urlsplit(place.api)
    if parts.scheme != "https":
        return None
    if parts.netloc == "api.github.com" and not parts.path:
        return "https://github.com"
    return f"https://{parts.netloc}" if parts.path == "/api/v3" else None
