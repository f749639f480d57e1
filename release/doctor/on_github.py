"""Checks the repository's settings on GitHub that its workflows need: tables of checks.

What the token may not read is ``unknown``, never ``ok``. With one unknown line the repository is not reported as ready.
"""

from pathlib import Path

from checks.process.errors import Refusal, RemoteRefused
from release.doctor import github, rulesets, settings, tree
from release.doctor.check import Check, Unseen, Wanted, walk, want
from release.doctor.repository import EVERYBODY, Repository, Target

_BRANCH = "main"  # The workflows are written for it.
_EVERY = ("every workflow",)
_ALL = (
    "a fine-grained token with Metadata, Contents, Actions, Administration, "
    "Environments, Secrets and Variables: read"
)


def on_github(root: Path, deadline: float = github.DEADLINE) -> list[Check]:
    """Run all checks. Missing or hidden settings are findings, so nothing is raised for them.

    ``deadline``: seconds for one request.
    """
    try:
        target = Target(root)
    except Refusal as refusal:
        return [Check("target branch", "missing", refusal.what, _EVERY, refusal.todo)]
    local = list(walk(tree.LOCAL, target))
    try:
        place = github.place(root)
        token = github.token(place)
        if token is None:
            fix = f"gh auth login as an administrator, or GITHUB_TOKEN=… of {_ALL}"
            unknown = "needs a token: there is no GITHUB_TOKEN and no login of gh"
            return [Check("repository", "unknown", unknown, _EVERY, fix), *local]
        session = github.Session(place, token, deadline)
        first, *others = _checks(session, target, github.on_github_com(place))
    except RemoteRefused as refused:
        return [Check("repository", "missing", refused.what, _EVERY, refused.todo), *local]
    return [
        check._replace(found=check.found.replace(token, "…"), fix=check.fix.replace(token, "…"))
        for check in [first, *local, *others]
    ]


def _checks(session: github.Session, target: Target, public: bool) -> list[Check]:
    """Return the checks of the repository, then of all tables, in the order in which a new repository is set up."""
    try:
        answer = session.one("", EVERYBODY, "full_name", "default_branch", "private", "archived")
    except Unseen as unseen:
        return [
            Check(
                "repository",
                "unknown",
                f"{github.shown(session.repository)}: {unseen.found}",
                _EVERY,
                unseen.fix,
            )
        ]
    repository = Repository(session, answer, target, public)
    return [check for table in _TABLES for check in walk(table, repository)]


def _repository(repository: Repository) -> str:
    name, branch = github.shown(repository.answer["full_name"]), github.shown(repository.branch)
    want(
        repository.branch == _BRANCH,
        f"{name}: the default branch is {branch}, not {_BRANCH}",
        f"gh api repos/{{owner}}/{{repo}}/branches/{branch}/rename -f new_name={_BRANCH}",
    )
    want(not repository.answer["archived"], f"{name}: is archived", "gh repo unarchive")
    visibility = "private" if repository.answer["private"] else "public"
    return f"{name}, {visibility}, default branch {branch}"


_FIRST = (Wanted("repository", _EVERY, _repository),)
_TABLES = (_FIRST, settings.WANTED, tree.OWNERS, rulesets.WANTED, tree.SIGNERS)
