"""comment: posts the report on its pull request, or updates it, and sets the check.

The comment has CML's format: a watermark identifies it, so either tool finds a comment that the other wrote. CML posts
if it is installed and would do the right thing. CML reads one page of comments, ignores their author, and overlooks a
watermark without a commit. So the REST client posts if CML would not take this very comment.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from checks.process.errors import RemoteRefused
from release.adapters import github, process
from release.adapters.github import Comment, Conclusion, Forbidden, GitHub, Place
from release.adapters.retries import RequestError
from release.pages.text import prose
from release.review import posting
from release.review.posting import CommentOptions, Posted
from release.verbs import report as renderer
from release.verbs.report import Report

ACTIONS = "github-actions[bot]"  # who a workflow's own token writes as; no person can be called so
_CML_PAGE = 30  # comments that CML looks through
_CML_SECONDS = 120
_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
)


def comment(root: Path, options: CommentOptions | None = None) -> Posted:
    """Post the report of ``root``, whatever its verdict.

    The check is ``success`` only for a pass that still holds, on a commit with its record byte for byte. Otherwise it
    is ``failure``: GitHub accepts a neutral result for a required check. Raises RemoteRefused if GitHub refuses or does
    not answer, and as ``report.report``.
    """
    options = options or CommentOptions()
    posting.hold_title(options.title)
    place = github.place()
    number = options.number or place.number
    commit = options.commit or place.commit
    if number is None:
        raise RemoteRefused(
            "no pull request is named", "give its number, or run in a workflow of a pull request"
        )
    if options.check is not None and (commit is None or not github.is_commit(commit)):
        raise RemoteRefused(
            "no commit is named for the check",
            "give the whole hash of the pull request's last commit",
        )
    client = GitHub(place, patience=options.patience)
    links = options.links
    if place.run and "Workflow run" not in dict(links):
        links = (("Workflow run", place.run), *links)
    checked = commit if options.check is not None else None
    report = renderer.report(
        root,
        renderer.ReportOptions(
            options.target, options.assets, links, number, checked, web=place.web
        ),
    )
    notes = list[str]()
    try:
        made, created, by = _posted(client, number, report, commit, options, notes)
        conclusion: Conclusion = "success" if report.passes else "failure"
        how, address = (
            _checked(client, commit, conclusion, report, options.check, notes)
            if commit
            else (None, None)
        )
    except RequestError as trouble:
        raise client.refused(trouble) from None
    return Posted(
        state=report.state, status=report.status, conclusion=conclusion, comment=made.url, created=created, by=by,
        check=how, check_url=address, notes=tuple(notes),
    )  # fmt: skip


def _posted(
    client: GitHub,
    number: int,
    found: Report,
    commit: str | None,
    options: CommentOptions,
    notes: list[str],
) -> tuple[Comment, bool, Literal["rest", "cml"]]:
    """The comment on GitHub, whether it is new, and which tool posted it."""
    author = options.author or client.login() or ACTIONS
    body = f"{found.markdown}\n{posting.watermark(options.title, commit)}"
    ours, others, takes_ours = _look(client, number, options.title, author)
    if others:
        notes.append(
            f"{others} other comment{'s' if others > 1 else ''} with this watermark, of other authors: left alone"
        )
    if options.use_cml and (program := shutil.which("cml")):
        if _server(client.where) is None:
            notes.append("cml: does not speak to this API address; posted by REST")
        elif not takes_ours:
            notes.append(
                "cml: would not find this comment, or update someone else's; posted by REST"
            )
        elif commit is None:
            notes.append(
                "cml: would write a watermark that it cannot find again, because no commit is known; posted by REST"
            )
        elif why := _by_cml(program, client.where, number, found.markdown, commit, options.title):
            notes.append(f"cml: {why}; posted by REST")
        else:
            now = _look(client, number, options.title, author)[0]
            if now is not None and _same(now.body, body):
                return now, ours is None, "cml"
            notes.append("cml: succeeded, but the comment is missing or different; posted by REST")
            ours = now
    return (*_by_rest(client, number, body, ours, options.title, author), "rest")


def _by_rest(
    client: GitHub, number: int, body: str, ours: Comment | None, title: str, author: str
) -> tuple[Comment, bool]:
    if ours is not None:
        return client.update(ours.id, body), False
    tries = client.tries()
    while True:
        try:
            return client.create(number, body), True
        except RequestError as trouble:
            tries.failed(trouble)
        # A gateway may have failed after the comment was made.
        ours = _look(client, number, title, author)[0]
        if ours is not None:
            return (ours if _same(ours.body, body) else client.update(ours.id, body)), True


def _look(client: GitHub, number: int, title: str, author: str) -> tuple[Comment | None, int, bool]:
    """Our comment, how many others have its watermark, and whether CML would take the same comment or a new one."""
    ours: Comment | None = None
    cmls: Comment | None = None
    others = count = 0
    for comment_there in client.comments(number):
        count += 1
        if comment_there.place <= _CML_PAGE and posting.is_seen_by_cml(comment_there.body, title):
            cmls = comment_there  # the last on its page
        if not posting.is_marked(comment_there.body, title):
            continue
        if comment_there.author.lower() != author.lower():
            others += 1
        elif ours is None:
            ours = comment_there
    return ours, others, cmls is ours and (ours is not None or count < _CML_PAGE)


def _same(one: str, two: str) -> bool:
    """Whether two bodies are the same for GitHub, which changes line ends and surrounding white space only."""
    return one.replace("\r\n", "\n").split() == two.replace("\r\n", "\n").split()


def _by_cml(
    program: str, where: Place, number: int, markdown: str, commit: str, title: str
) -> str | None:
    """Let CML post the comment; returns None on success, else the reason.

    CML gets a HOME of its own, because it edits git's configuration.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-cml-") as home:
        body = Path(home) / "report.md"
        body.write_text(markdown, encoding="utf-8")
        command = [
            program, "--driver=github", f"--repo={_server(where)}/{where.repository}", "comment", "update",
            f"--target=pr/{number}", "--publish=false", f"--watermark-title={title}", str(body),
        ]  # fmt: skip
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env |= {
            "HOME": home,
            # CML reads the watermark's commit here: its --commit-sha excludes --target.
            "GITHUB_SHA": commit,
            "REPO_TOKEN": os.environ.get("GITHUB_TOKEN", ""),
            "TPI_ANALYTICS": "0",
            "ITERATIVE_DO_NOT_TRACK": "1",
        }
        try:
            done = process.run(command, deadline=_CML_SECONDS, cwd=home, env=env)
        except subprocess.TimeoutExpired:
            return f"did not end within {_CML_SECONDS} s"
        except OSError as error:
            return f"does not start: {error.strerror}"
    # The program's words are not shown, because they may hold the token.
    return f"ended with {done.returncode}" if done.returncode else None


def _server(where: Place) -> str | None:
    """The server address that CML would derive from this API's address; None if that would be another API."""
    parts = urlsplit(where.api)
    if parts.scheme != "https":
        return None
    if parts.netloc == "api.github.com" and not parts.path:
        return "https://github.com"
    return f"https://{parts.netloc}" if parts.path == "/api/v3" else None


def _checked(
    client: GitHub,
    commit: str,
    conclusion: Conclusion,
    found: Report,
    name: str | None,
    notes: list[str],
) -> tuple[Literal["check-run", "status"] | None, str | None]:
    if name is None:
        return None, None
    summary = found.parts[0].markdown
    gates = next((part.markdown for part in found.parts if part.name == "gates"), "")
    if renderer.size(summary) + renderer.size(gates) < renderer.LIMIT - 100:
        summary = f"{summary}\n\n{gates}".strip()
    # A title is no Markdown.
    summary = summary if renderer.size(summary) < renderer.LIMIT else prose(found.title)
    try:
        return "check-run", client.check(name, commit, conclusion, found.title, summary)
    except Forbidden:
        notes.append("check runs are for the tokens of apps: a commit status was set in its place")
    return "status", client.status(name, commit, conclusion, found.title)
