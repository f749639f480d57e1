"""Our comment among those of a pull or merge request: found by its watermark, made once, and updated from then on."""

from typing import NamedTuple

from checks.formats.verdict import Status
from release.adapters.github import Conclusion, GitHub
from release.adapters.gitlab import GitLab
from release.adapters.rest import Comment
from release.adapters.retries import RequestError
from release.review import posting
from release.review.facts import State


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


class Marked(NamedTuple):
    """Our comment, the oldest if there are several; how many of others have its watermark; and all comments."""

    ours: Comment | None
    others: int
    comments: list[Comment]


class Thread(NamedTuple):
    """The comments of one request. ``title``: of our watermark; ``author``: the account that we post as."""

    client: GitHub | GitLab
    number: int
    title: str
    author: str

    def marked(self) -> Marked:
        """Look up the comments that have our watermark."""
        comments = list(self.client.comments(self.number))
        marked = [comment for comment in comments if posting.is_marked(comment.body, self.title)]
        ours = [comment for comment in marked if comment.author.lower() == self.author.lower()]
        return Marked(next(iter(ours), None), len(marked) - len(ours), comments)

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
            ours = self.marked().ours
            if ours is not None:
                return (ours if same(ours.body, body) else self.client.update(ours, body)), True


def same(one: str, two: str) -> bool:
    """Tell whether two bodies are the same for a forge, which changes line ends and surrounding white space only."""
    return one.replace("\r\n", "\n").split() == two.replace("\r\n", "\n").split()


def left_alone(others: int, what: str) -> list[str]:
    """Return the note about comments of other authors with our watermark; none if there are none."""
    plural = "s" if others > 1 else ""
    text = f"{others} other {what}{plural} with this watermark, of other authors: left alone"
    return [text] if others else []
