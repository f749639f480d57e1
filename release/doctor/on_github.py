"""What the repository on GitHub has and lacks for its workflows: asked of GitHub's REST API and of the target branch.

What the token may not see is ``unknown``, never ``ok``: where one line is unknown, nobody says that it is ready.
"""

from pathlib import Path
from typing import Any

from checks.errors import Refusal, RemoteRefused
from release.adapters.github import GitHub
from release.doctor import actions, owners, rules, settings, tree, whose
from release.doctor.asking import DEADLINE, PATIENCE, Asker, Unseen, flag, part, seen, shown, word
from release.doctor.check import Check, Line

_BRANCH = "main"  # what the workflows are written for
_ALL = (
    "a fine-grained token with Metadata, Contents, Actions, Administration, Environments, Secrets and Variables: read"
)
_EVERY = ("every workflow",)
_REPOSITORY = Line("repository", _EVERY)


def on_github(root: Path, deadline: float = DEADLINE) -> list[Check]:
    """Look at everything; never raises for what is missing or hidden, since that is the answer. ``deadline``: seconds
    for one request."""
    try:
        target = tree.Target(root)
    except Refusal as refusal:
        return [Line("target branch", _EVERY).missing(refusal.what, refusal.todo)]
    remote, address = tree.remote(target)
    local = [tree.workflows(target), remote]
    try:
        where = whose.place(root)
        token = whose.token(where)
        if token is None:
            mend = f"gh auth login as an administrator, or GITHUB_TOKEN=… of {_ALL}"
            return [_REPOSITORY.unknown("needs a token: there is no GITHUB_TOKEN and no login of gh", mend), *local]
        ask = Asker(GitHub(where, token, PATIENCE), deadline)
    except RemoteRefused as refused:
        return [_REPOSITORY.missing(refused.what, refused.todo), *local]
    found = _asked(ask, target, whose.on_github_com(where), address, local)
    return [each._replace(found=each.found.replace(token, "…"), mend=each.mend.replace(token, "…")) for each in found]


def _asked(ask: Asker, target: tree.Target, public: bool, address: str | None, local: list[Check]) -> list[Check]:
    """All lines, in the order in which a new repository is set up. ``public``: it is on github.com."""
    try:
        repository = ask.one("", "Metadata: read")
        name, branch = word(repository, "full_name"), word(repository, "default_branch")
        organization = part(repository, "owner").get("type") == "Organization"
    except Unseen as unseen:
        return [_REPOSITORY.unknown(f"{shown(ask.repository)}: {unseen.why}", unseen.todo), *local]
    return [
        seen(_REPOSITORY, lambda line: _repository(line, repository, name, branch)),
        *local,
        *settings.Settings(ask, branch, organization=organization).checks(address, tree.serving(target)),
        seen(Line("Actions", _EVERY), lambda line: actions.allowed(line, ask, target.root)),
        seen(Line("workflow token", _EVERY), lambda line: actions.token(line, ask)),
        seen(Line("pull requests of forks", ("pr.yml",)), lambda line: actions.forks(line, ask, repository)),
        seen(
            Line("GPU runner", ("pr.yml", "release.yml", "scheduled.yml")),
            lambda line: actions.runner(line, ask, name.partition("/")[0], organization=organization),
        ),
        seen(Line("CODEOWNERS", ("merging",)), lambda line: owners.owners(line, target, ask)),
        *rules.Protection(ask, branch, repository, rules.ACTIONS if public else None).checks(),
        *tree.signers(target.root, shown(name), branch, public=public),
    ]


def _repository(line: Line, found: dict[str, Any], name: str, branch: str) -> Check:
    if branch != _BRANCH:
        mend = f"gh api repos/{{owner}}/{{repo}}/branches/{shown(branch)}/rename -f new_name={_BRANCH}"
        return line.missing(f"{shown(name)}: the default branch is {shown(branch)}, not {_BRANCH}", mend)
    if flag(found, "archived"):
        return line.missing(f"{shown(name)}: is archived", "gh repo unarchive")
    kind = "private" if flag(found, "private") else "public"
    return line.ok(f"{shown(name)}, {kind}, default branch {branch}")
