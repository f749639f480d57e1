"""Defines what `lockstep comment` posts on GitHub or GitLab, and the watermark by which it is found again.

The watermark is CML's. Source: https://github.com/iterative/cml/blob/v0.20.6/src/watermark.js.

Our comment is made once, and updated from then on.
"""

import re
from typing import Literal, NamedTuple

from checks.formats.verdict import Status
from checks.process.errors import RemoteRefused
from checks.records.rows import Record
from release.adapters.github import Conclusion, GitHub
from release.adapters.gitlab import GitLab
from release.adapters.rest import PATIENCE, Comment
from release.adapters.retries import Patience, RequestError
from release.review.facts import State

_TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}", re.ASCII)
_NO_COMMIT = "0" * 40  # git's name of no commit: CML overlooks a watermark without any


class ReviewRequest(NamedTuple):
    """The pull or merge request that a comment is for.

    ``commit``: the one that gets the check. ``links``: those of the options, and the running job's. ``web``: where the
    forge shows the repository's files.
    """

    client: GitHub | GitLab
    number: int
    commit: str | None
    links: tuple[tuple[str, str], ...]
    web: str | None


class Draft(NamedTuple):
    """A report, as it is posted. ``title``, ``summary`` and ``conclusion`` are those of the check."""

    markdown: str
    title: str
    summary: str
    state: State
    status: Status | None
    conclusion: Conclusion


class Thread(NamedTuple):
    """The comments of one request. ``title``: of our watermark; ``author``: the account that we post as."""

    client: GitHub | GitLab
    number: int
    title: str
    author: str

    def marked(self) -> tuple[Comment | None, int, list[Comment]]:
        """Return our comment, the oldest if there are several; how many of others have our watermark; all comments."""
        comments = list(self.client.comments(self.number))
        marked = [comment for comment in comments if is_marked(comment.body, self.title)]
        ours = [comment for comment in marked if comment.author.lower() == self.author.lower()]
        return next(iter(ours), None), len(marked) - len(ours), comments

    def put(self, body: str, ours: Comment | None) -> tuple[Comment, bool]:
        """Update our comment, or create it if there is none. Return it, and whether it is new."""
        if ours is not None:
            return self.client.update(ours, body), False
        tries = self.client.tries()
        while True:
            try:
                return self.client.create(self.number, body), True
            except RequestError as trouble:
                tries.failed(trouble)
            # A gateway may have failed after the comment was made.
            ours, *_ = self.marked()
            if ours is not None:
                return (ours if same(ours.body, body) else self.client.update(ours, body)), True


class CommentOptions(NamedTuple):
    """Options of `lockstep comment`.

    ``target`` and ``links``: of the report (``release.verbs.report``). ``number``: the pull request;
    ``commit``: the commit that gets the check; None: from the workflow's environment. ``title`` distinguishes the
    comment from others; ``projects``: folders below the root, each a part of the comment; none: the root itself.
    ``check`` names the check, None sets none. ``author``: the account of the token; None: ask the
    API, or GitHub Actions if the token may not ask. ``close``: as ``account`` of ``harvest_close.close``.
    """

    target: str | None = None
    links: tuple[tuple[str, str], ...] = ()
    number: int | None = None
    commit: str | None = None
    title: str = "lockstep"
    check: str | None = "lockstep"
    author: str | None = None
    use_cml: bool = True
    patience: Patience = PATIENCE
    projects: tuple[str, ...] = ()
    close: str | None = None


class Posted(Record):
    """``check``: how the check was set; ``conclusion``: its value. ``notes``: what went unusually, one line each.

    ``closed``: whether the pull request was closed, because it is a harvest that makes no better model.
    """

    state: State
    status: Status | None
    conclusion: Conclusion
    comment: str
    created: bool
    by: Literal["rest", "cml"]
    check: Literal["check-run", "status"] | None
    check_url: str | None
    notes: tuple[str, ...]
    closed: bool = False


def hold_title(title: str) -> None:
    """Raise RemoteRefused if a watermark cannot hold the title."""
    if not _TITLE.fullmatch(title):
        raise RemoteRefused(
            f"{title!r}: is not a valid title of a comment", "write letters, digits, spaces, . _ -"
        )


def with_link(
    links: tuple[tuple[str, str], ...], label: str, address: str | None
) -> tuple[tuple[str, str], ...]:
    """Return the links with one more in front, unless its address is not known or the label is there."""
    return ((label, address), *links) if address and label not in dict(links) else links


def watermark(title: str, commit: str | None) -> str:
    """The line by which CML finds its comment, as CML writes it: with an underscore of the title escaped."""
    escaped = title.replace("_", r"\_")
    return f'![](https://cml.dev/watermark.png#{commit or _NO_COMMIT} "CML watermark {escaped}")'


def is_marked(body: str, title: str) -> bool:
    """Whether the last line of a comment is the watermark of ``title``, for any commit or, as CML may write it, none.

    Only the last line counts: a quotation or untrusted text may contain a watermark elsewhere.
    """
    last = body.rstrip().rpartition("\n")[2].strip()
    pattern = _pattern("(#[0-9a-fA-F]*)?", re.escape(title).replace("_", r"\\?_"))
    return re.fullmatch(pattern, last) is not None


def is_seen_by_cml(body: str, title: str) -> bool:
    """Whether CML takes a comment for its own: it looks everywhere in the text, for a watermark with a commit."""
    return (
        re.search(_pattern("#[0-9a-fA-F]+", re.escape(title.replace("_", r"\_"))), body) is not None
    )


def _pattern(commit: str, title: str) -> str:
    return rf'!\[\]\(https://cml\.dev/watermark\.png{commit} "CML watermark {title}"\)'


def same(one: str, two: str) -> bool:
    """Tell whether two bodies are the same for a forge, which changes line ends and surrounding white space only."""
    return one.replace("\r\n", "\n").split() == two.replace("\r\n", "\n").split()


def left_alone(others: int, what: str) -> list[str]:
    """Return the note about comments of other authors with our watermark; none if there are none."""
    plural = "s" if others > 1 else ""
    text = f"{others} other {what}{plural} with this watermark, of other authors: left alone"
    return [text] if others else []
