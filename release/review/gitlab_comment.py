"""Posts a report as a note of a merge request on GitLab, and sets the status of its commit.

The note has the watermark of the comment on GitHub, so that it is found again and updated.
"""

import re

from checks.process.errors import RemoteRefused
from release.adapters import github, gitlab
from release.review import posting
from release.review.posting import CommentOptions, Draft, Posted, ReviewRequest, Thread


def request(options: CommentOptions) -> ReviewRequest:
    """Return the merge request that the options or the pipeline name. Raises RemoteRefused if something is missing."""
    place = gitlab.place()
    number = options.number or place.number
    commit = options.commit or place.commit
    if number is None:
        raise RemoteRefused(
            "no merge request is named",
            "give its number, or run in a merge request pipeline (CI_MERGE_REQUEST_IID)",
        )
    if options.check is not None and (commit is None or not github.is_commit(commit)):
        raise RemoteRefused(
            "no commit is named for the status", "give the whole hash of the branch's last commit"
        )
    client = gitlab.GitLab(place, patience=options.patience)
    return ReviewRequest(
        client,
        number,
        commit,
        posting.with_link(options.links, "Pipeline", place.run),
        f"{place.page}/-" if place.page else None,
    )


def post(request: ReviewRequest, draft: Draft, options: CommentOptions) -> Posted:
    """Post ``draft``. Raises RequestError if GitLab does not take it."""
    client = request.client
    assert isinstance(client, gitlab.GitLab)
    watermark = posting.watermark(options.title, request.commit)
    comments = Thread(client, request.number, options.title, options.author or client.login())
    marked = comments.marked()
    notes = posting.left_alone(marked.others, "note")
    note, created = comments.put(without_actions(f"{draft.markdown}\n{watermark}"), marked.ours)
    address = None
    if options.check is not None and request.commit is not None:
        address = client.status(options.check, request.commit, draft.conclusion, draft.title)
    return Posted(
        state=draft.state, status=draft.status, conclusion=draft.conclusion, comment=note.url, created=created,
        by="rest", check=None if options.check is None else "status", check_url=address or None, notes=tuple(notes),
    )  # fmt: skip


def without_actions(text: str) -> str:
    """Put a space before each line that GitLab would run as a quick action, such as ``/merge``."""
    return re.sub(r"(?m)^/", " /", text)
