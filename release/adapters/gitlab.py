"""GitLab's REST API, as far as a merge request's note and commit status need it: https://docs.gitlab.com/api/rest/.

Everything it needs comes from the environment of a pipeline. The token is sent to the host that CI_API_V4_URL names and
to no other.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from checks.process.errors import RemoteRefused
from checks.process.text import redact
from release.adapters import http
from release.adapters.github import Conclusion
from release.adapters.rest import PATIENCE, Comment, Forge, shaped
from release.adapters.retries import TEMPORARY, Patience, RequestError, retry_after

_PROJECT = re.compile(
    r"[1-9][0-9]{0,18}|[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+", re.ASCII
)
_DESCRIPTION = 255  # characters of a commit status
_FIX = {
    401: "give GITLAB_TOKEN an access token that is valid, with the scope api",
    403: "give GITLAB_TOKEN the scope api and the role Developer",
    404: "see that the project, the merge request and the commit exist, and that the token's account may read them",
    413: "raise the size of a request that the server in front of GitLab takes",
}


class Place(NamedTuple):
    """Which merge request, and the commit that a status is put on; None where nothing says so.

    ``project``: of the merge request. ``runs_in``: where the pipeline runs, which is the fork for a fork's request.
    """

    api: str
    project: str
    runs_in: str
    number: int | None
    commit: str | None
    pipeline: tuple[str, int] | None  # the commit that it is of, and its id
    page: str  # the project's address
    run: str  # the pipeline's address


def is_here(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment is that of GitLab: it names GitLab's API, and no repository of GitHub."""
    env = os.environ if environment is None else environment
    return bool(env.get("CI_API_V4_URL")) and not env.get("GITHUB_REPOSITORY")


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Return what the environment of a pipeline says.

    Raises RemoteRefused for a bad address, or where no project is named.
    """
    env = os.environ if environment is None else environment
    api = env.get("CI_API_V4_URL", "").rstrip("/")
    if not http.takes_token(api):
        raise RemoteRefused(
            "CI_API_V4_URL: is no https address without a login", "set it: https://HOST/api/v4"
        )
    here = env.get("CI_PROJECT_ID", "")
    project = env.get("CI_MERGE_REQUEST_PROJECT_ID") or here
    for name, value in (("CI_PROJECT_ID", here), ("CI_MERGE_REQUEST_PROJECT_ID", project)):
        if not _PROJECT.fullmatch(value):
            raise RemoteRefused(
                f"{name}: {redact(value, 80)!r} is no project", "set it to the project's number"
            )
    # GitLab takes no status for a child pipeline; without an id it takes the parent, the newest one of the commit.
    is_child = env.get("CI_PIPELINE_SOURCE") == "parent_pipeline"
    pipeline = None if is_child else _number(env.get("CI_PIPELINE_ID"))
    commit = env.get("CI_COMMIT_SHA", "")
    return Place(
        api=api,
        project=quote(project, safe=""),
        runs_in=quote(here, safe=""),
        number=_number(env.get("CI_MERGE_REQUEST_IID")),
        # A pipeline for merged results runs on a commit that is on no branch.
        commit=env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or commit or None,
        pipeline=(commit, pipeline) if pipeline else None,
        page=_link(env.get("CI_MERGE_REQUEST_PROJECT_URL") or env.get("CI_PROJECT_URL", "")),
        run=_link(env.get("CI_PIPELINE_URL", "")),
    )


class GitLab(Forge):
    """A client for the merge request that ``where`` names."""

    name = "GitLab"
    variable = "GITLAB_TOKEN"
    unset_fix = "set it as a masked variable of the project"

    def __init__(
        self, where: Place, token: str | None = None, patience: Patience = PATIENCE
    ) -> None:
        super().__init__(where.api, token, patience)
        self.where = where

    def login(self) -> str:
        """The account of the token; a project's or group's access token has one of its own."""
        return str(self.ask("GET", "user").get("username") or "")

    def comments(self, number: int) -> Iterator[Comment]:
        """Every comment of a merge request, from all pages, the oldest first."""
        for note in self.pages(f"{self._notes(number)}?sort=asc&order_by=created_at", "notes"):
            yield self._note(note, number)

    def create(self, number: int, body: str) -> Comment:
        """A new comment. It is not tried twice: whether the first try went through, the caller looks up."""
        return self._note(self.once("POST", self._notes(number), {"body": body}), number)

    def update(self, comment: Comment, body: str) -> Comment:
        """Replace the text of a comment."""
        path = f"{self._notes(comment.request)}/{comment.id}"
        return self._note(self.ask("PUT", path, {"body": body}), comment.request)

    def status(self, name: str, commit: str, conclusion: Conclusion, description: str) -> str:
        """Put a status on a commit; return the address of the pipeline that it links to, empty if there is none."""
        asked: dict[str, Any] = {
            "state": "success" if conclusion == "success" else "failed",
            "name": name,
        }
        asked["description"] = description[:_DESCRIPTION]
        if self.where.run:
            asked["target_url"] = self.where.run
        if self.where.pipeline and self.where.pipeline[0] == commit:
            # Without this, GitLab opens a second pipeline beside it.
            asked["pipeline_id"] = self.where.pipeline[1]
        self.ask("POST", f"projects/{self.where.runs_in}/statuses/{commit}", asked)
        return self.where.run

    def said(self, answer: Any) -> str:
        """Return what GitLab says of an error: words, or lists of words by the field that they are about."""
        message = (
            (answer.get("message") or answer.get("error") or "") if isinstance(answer, dict) else ""
        )
        return message if isinstance(message, str) else json.dumps(message)

    def failed(self, what: str, status: int, headers: Mapping[str, str]) -> RequestError:
        return RequestError(
            what, temporary=status in TEMPORARY, status=status, wait=retry_after(headers.get("Retry-After")),
            todo=_FIX.get(status, ""),
        )  # fmt: skip

    def _notes(self, number: int) -> str:
        return f"projects/{self.where.project}/merge_requests/{number}/notes"

    def _note(self, answer: Any, number: int) -> Comment:
        note = shaped(Comment, answer, "note")
        url = f"note {note.id} of merge request {number}"
        if self.where.page:
            url = f"{self.where.page}/-/merge_requests/{number}#note_{note.id}"
        return note.model_copy(update={"request": number, "url": url})


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) else None


def _link(address: str) -> str:
    """An address that a comment may link to, else nothing."""
    return (
        address
        if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&*+,;=%-]+", address, re.ASCII)
        else ""
    )
