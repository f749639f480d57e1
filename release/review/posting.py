"""Defines what `lockstep comment` posts on GitHub or GitLab, and the watermark by which it is found again.

The watermark is CML's. Source: https://github.com/iterative/cml/blob/v0.20.6/src/watermark.js.
"""

import re
from typing import Literal, NamedTuple

from checks.formats.verdict import Status
from checks.process.errors import RemoteRefused
from checks.records.rows import Record
from release.adapters.github import Conclusion
from release.adapters.rest import PATIENCE
from release.adapters.retries import Patience
from release.review.facts import State

_TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}", re.ASCII)
_NO_COMMIT = "0" * 40  # git's name of no commit: CML overlooks a watermark without any


class CommentOptions(NamedTuple):
    """Options of `lockstep comment`.

    ``target`` and ``links``: of the report (``release.verbs.report``). ``number``: the pull request;
    ``commit``: the commit that gets the check; None: from the workflow's environment. ``title`` distinguishes the
    comment from others; ``projects``: folders below the root, each a part of the comment; none: the root itself.
    ``check`` names the check, None sets none. ``author``: the account of the token; None: ask the
    API, or GitHub Actions if the token may not ask.
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


class Posted(Record):
    """``check``: how the check was set; ``conclusion``: its value. ``notes``: what went unusually, one line each."""

    state: State
    status: Status | None
    conclusion: Conclusion
    comment: str
    created: bool
    by: Literal["rest", "cml"]
    check: Literal["check-run", "status"] | None
    check_url: str | None
    notes: tuple[str, ...]


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
