"""note: what `lockstep comment` does on GitLab: the report as a note of the merge request, and a commit status.

The note has the watermark of the comment on GitHub, so that it is found again and updated.
"""

import re
from pathlib import Path

from checks.process.errors import RemoteRefused
from release.adapters import github, gitlab
from release.adapters.github import Conclusion
from release.adapters.gitlab import GitLab, Note
from release.adapters.retries import RequestError
from release.review import posting
from release.review.posting import CommentOptions, Posted
from release.verbs import report as renderer


def note(root: Path, options: CommentOptions | None = None) -> Posted:
    """Post the report of ``root`` on its merge request, whatever its verdict, or update it.

    The status follows from the verdict as the check on GitHub does. Raises RemoteRefused if GitLab refuses or does not
    answer, and as ``report.report``.
    """
    options = options or CommentOptions()
    posting.hold_title(options.title)
    place = gitlab.place()
    number, commit = options.number or place.number, options.commit or place.commit
    if number is None:
        raise RemoteRefused(
            "no merge request is named",
            "give its number, or run in a merge request pipeline (CI_MERGE_REQUEST_IID)",
        )
    if options.check is not None and (commit is None or not github.is_commit(commit)):
        raise RemoteRefused(
            "no commit is named for the status", "give the whole hash of the branch's last commit"
        )
    client = GitLab(place, patience=options.patience)
    links = options.links
    if place.run and "Pipeline" not in dict(links):
        links = (("Pipeline", place.run), *links)
    checked = commit if options.check is not None else None
    # Without a number: with one, the report says how to fetch a pull request of GitHub.
    web = f"{place.page}/-" if place.page else None
    report = renderer.report(
        root, renderer.ReportOptions(options.target, options.assets, links, None, checked, web=web)
    )
    body = without_actions(f"{report.markdown}\n{posting.watermark(options.title, commit)}")
    notes = list[str]()
    conclusion: Conclusion = "success" if report.passes else "failure"
    try:
        author = options.author or client.login()
        made, created = _posted(client, number, body, options.title, author, notes)
        if options.check is not None and commit is not None:
            client.status(options.check, commit, conclusion, report.title)
    except RequestError as trouble:
        raise client.refused(trouble) from None
    check = options.check is not None
    return Posted(
        state=report.state, status=report.status, conclusion=conclusion, comment=made.url, created=created, by="rest",
        check="status" if check else None, check_url=(place.run or None) if check else None, notes=tuple(notes),
    )  # fmt: skip


def without_actions(text: str) -> str:
    """The Markdown, with a space before each line that GitLab would run as a quick action, such as ``/merge``."""
    return re.sub(r"(?m)^/", " /", text)


def _posted(
    client: GitLab, number: int, body: str, title: str, author: str, notes: list[str]
) -> tuple[Note, bool]:
    """The note on GitLab, and whether it is new."""
    ours, others = _look(client, number, title, author)
    if others:
        notes.append(
            f"{others} other note{'s' if others > 1 else ''} with this watermark, of other authors: left alone"
        )
    if ours is not None:
        return client.update(number, ours.id, body), False
    tries = client.tries()
    while True:
        try:
            return client.create(number, body), True
        except RequestError as trouble:
            tries.failed(trouble)
        # A gateway may have failed after the note was made.
        ours, _ = _look(client, number, title, author)
        if ours is not None:
            return client.update(number, ours.id, body), True


def _look(client: GitLab, number: int, title: str, author: str) -> tuple[Note | None, int]:
    """Our note, the oldest if there are several, and the number of others with its watermark."""
    marked = [
        note_there
        for note_there in client.comments(number)
        if posting.is_marked(note_there.body, title)
    ]
    ours = [note_there for note_there in marked if note_there.author.lower() == author.lower()]
    return next(iter(ours), None), len(marked) - len(ours)
