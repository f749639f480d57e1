"""Closes the pull request of a harvest whose model is not better than main's, with the reason as a comment.

Only one that `lockstep harvest --pr` made and nobody changed, apart from the signature: by its account, its branch, its
files, and the authors of its commits. If somebody opens it again, it stays open.

The comment comes first, and is marked as done once the pull request is closed, so an interrupted run can be repeated.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.formats import harvest
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import layout
from release.adapters import commits
from release.adapters.git import Git
from release.adapters.github import GitHub
from release.evidence import harvest_reviews
from release.ledger import DEADLINE, place, trees
from release.ledger.types import Place
from release.pages.text import prose
from release.review import forge_comment, harvest_pull, posting, proposals
from release.review.posting import CommentOptions, ReviewRequest, Thread

_REMOTE = "origin"
_TOPIC = "harvest-"
_PUSHED = "somebody pushed to its branch"
_RECORD = (layout.LOCK.as_posix(), layout.CODE_LOCK.as_posix())


def close(
    request: ReviewRequest, reasons: Mapping[Path, str], options: CommentOptions, account: str
) -> tuple[bool, tuple[str, ...]]:
    """Close the pull request of ``request``. Return whether it is closed by this, and notes.

    ``reasons``: by the root of each project why its model is not better (``advice.not_better``). ``account``: whose
    pull requests are closed. Raises RequestError if GitHub does not answer.
    """
    client = request.client
    if not isinstance(client, GitHub):
        return False, ("--close: closes on GitHub alone; this merge request stays as it is",)
    pull = client.pull(request.number)
    if (
        pull.author.lower() != account.lower()
        or pull.home.lower() != client.where.repository.lower()
    ):
        return False, ()
    for root, reason in reasons.items():
        prefix = Git(root, None).prefix()
        topic = proposals.topic_of(pull.head, prefix) or ""
        if reason and topic.startswith(_TOPIC):
            edited = _edited(root, prefix, topic.removeprefix(_TOPIC), request.commit, options)
            if edited:
                return False, (f"left open: {edited}",)
            branch = Place(Git(root, DEADLINE), pull.head, _REMOTE, prefix)
            return _closed(client, branch, request, reason, options)
    return False, ()


def _closed(
    client: GitHub, branch: Place, request: ReviewRequest, reason: str, options: CommentOptions
) -> tuple[bool, tuple[str, ...]]:
    author = options.author or client.login() or forge_comment.ACTIONS
    closing, closed = (
        Thread(client, request.number, f"{options.title} {word}", author)
        for word in ("closes", "closed")
    )
    text = (
        f"Lockstep closes this pull request, because of its verdict: {prose(reason)}.\n\n"
        f"`gh pr reopen {request.number}` opens it again. Then Lockstep leaves it open.\n"
    )
    (comment, *_), (done, *_) = closing.marked(), closed.marked()
    # It is asked after the comments: what is open beside a finished comment was opened again.
    if client.pull(request.number).state == "open":
        if done:
            return False, ("left open: somebody opened it again",)
        if place.look(branch).tip != request.commit:
            return False, (f"left open: {_PUSHED}",)
        mark = posting.watermark(closing.title, request.commit)
        comment, _ = closing.put(text + mark, comment)
        client.set_state(request.number, "closed")
        if place.look(branch).tip != request.commit:
            client.set_state(request.number, "open")
            closing.put(f"Lockstep opened this pull request again: {_PUSHED}.\n{mark}", comment)
            return False, (f"opened again: {_PUSHED}",)
    comment = comment or done
    if comment is None:
        return False, ()
    closed.put(text + posting.watermark(closed.title, request.commit), comment)
    return True, (f"closed: {reason}",)


def _edited(
    root: Path, prefix: str, environment: str, commit: str | None, options: CommentOptions
) -> str:
    """Return what somebody changed beside the signature; empty if nothing. The files are made again, and compared."""
    _, target = commits.target(root, options.target)
    base = commits.merge_base(root, commit, target) if commit and target else None
    if options.check is None or commit is None or base is None:
        return "no check was set on a commit that is here"
    git, review = Git(root, None), harvest.review_path(environment)
    made = [layout.PARAMS, review]
    try:
        before, after = (
            trees.read(git, at, f"{prefix}{layout.PARAMS}") or b"" for at in (base, commit)
        )
        data = trees.read(git, commit, f"{prefix}{review.as_posix()}") or b""
        harvested = harvest_reviews.parse(data, review)
        if harvest_pull.with_pin(before.decode(), harvested).encode() != after:
            return f"{layout.PARAMS} differs in more than the harvest's pin"
    except (EvidenceRefused, ParamsRefused) as refused:
        return refused.what
    ours = {f"{prefix}{path.as_posix()}" for path in (*made, harvest_reviews.signed_path(review))}
    changed = git.ask("diff", "--name-only", "--no-renames", "-z", base, commit).decode(
        "utf-8", "replace"
    )
    for name in changed.split("\0")[:-1]:
        path = name.removeprefix(prefix)
        if name not in ours and path not in _RECORD and not path.startswith(f"{layout.REPORTS}/"):
            return f"its branch changes {name!r}"
    names = [path.as_posix() for path in made]
    log = ("log", "--format=%ae", "--no-merges", f"{base}..{commit}", "--", *names)
    writers = {*git.line(*log).splitlines(), git.line("log", "-1", "--format=%ae", commit)}
    return "its commits have several authors" if len(writers) > 1 else ""
