"""Posts a report as the comment of a pull request on GitHub, and sets the check of its commit.

The comment has CML's format: a watermark identifies it, so either tool finds a comment that the other wrote.
"""

from typing import Literal

from checks.process.errors import RemoteRefused
from release.adapters import github
from release.adapters.github import Forbidden, GitHub
from release.adapters.rest import Comment
from release.review import cml, posting, thread
from release.review.posting import CommentOptions, Posted
from release.review.thread import Draft, ReviewRequest, Thread

ACTIONS = "github-actions[bot]"  # A workflow's own token writes as this account. No person can have the name.


def request(options: CommentOptions) -> ReviewRequest:
    """Return the pull request that the options or the workflow name. Raises RemoteRefused if something is missing."""
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
    place = place._replace(number=number, commit=commit)
    client = GitHub(place, patience=options.patience)
    links = posting.with_link(options.links, "Workflow run", place.run)
    return ReviewRequest(client, number, commit, links, place.web)


def post(request: ReviewRequest, draft: Draft, options: CommentOptions) -> Posted:
    """Post ``draft``, with CML if that would take our comment. Raises RequestError if GitHub does not take it."""
    client = request.client
    assert isinstance(client, GitHub)
    comments = Thread(
        client, request.number, options.title, options.author or client.login() or ACTIONS
    )
    body = f"{draft.markdown}\n{posting.watermark(options.title, request.commit)}"
    marked = comments.marked()
    notes = thread.left_alone(marked.others, "comment")
    why: str | None = ""
    if options.use_cml:
        title = options.title
        why = cml.post(client.where, title, draft.markdown, marked.comments, marked.ours)
    comment, created, by = _posted(comments, body, marked.ours, why, notes)
    check, address = _checked(client, request.commit, draft, options.check, notes)
    return Posted(
        state=draft.state, status=draft.status, conclusion=draft.conclusion, comment=comment.url, created=created,
        by=by, check=check, check_url=address, notes=tuple(notes),
    )  # fmt: skip


def _posted(
    comments: Thread, body: str, ours: Comment | None, why: str | None, notes: list[str]
) -> tuple[Comment, bool, Literal["rest", "cml"]]:
    """Return the comment, whether it is new, and who posted it. ``why``: as of ``cml.post``."""
    if why is None:
        now = comments.marked().ours
        if now is not None and thread.same(now.body, body):
            return now, ours is None, "cml"
        why = "succeeded, but the comment is missing or different"
        ours = now
    if why:
        notes.append(f"cml: {why}; posted by REST")
    return (*comments.put(body, ours), "rest")


def _checked(
    client: GitHub, commit: str | None, draft: Draft, name: str | None, notes: list[str]
) -> tuple[Literal["check-run", "status"] | None, str | None]:
    """Set the check ``name``, or a commit status if the token may set no check. Return which, and its address."""
    if name is None or commit is None:
        return None, None
    try:
        address = client.check(name, commit, draft.conclusion, draft.title, draft.summary)
    except Forbidden:
        notes.append("check runs are for the tokens of apps: a commit status was set in its place")
        return "status", client.status(name, commit, draft.conclusion, draft.title)
    return "check-run", address
