"""GitHub Actions as this repository allows it: whether it runs, with which rights, for whom, and where."""

import re
from pathlib import Path
from typing import Any

from release.doctor.asking import Asker, Unseen, flag, items, segment, shown, word
from release.doctor.check import Check, Line

LABELS = frozenset({"self-hosted", "gpu"})
_ADMIN = "Administration: read"
_API = "gh api -X PUT repos/{owner}/{repo}/actions/permissions"
_USES = re.compile(r"^\s*(?:- )?uses:\s*([A-Za-z0-9-]+)/([A-Za-z0-9._-]+)", re.MULTILINE)
_EVERYBODY_OUTSIDE = "all_external_contributors"
_HOOK = "whether it has the hook that holds forks is not shown: docs/how-to/runners.md"


def allowed(line: Line, ask: Asker, root: Path) -> Check:
    """Whether Actions is on, and lets the actions run that the workflows here use."""
    path = "actions/permissions"
    found = ask.one(path, _ADMIN)
    if not flag(found, "enabled"):
        return line.missing("switched off", f"{_API} -F enabled=true -f allowed_actions=all")
    which = word(found, "allowed_actions")
    if which == "all":
        return line.ok("on, all actions")
    used = _used(root)
    if which == "selected":
        choice = ask.one(f"{path}/selected-actions", _ADMIN)
        patterns = choice.get("patterns_allowed")
        named = {str(each).partition("/")[0] for each in patterns} if isinstance(patterns, list) else set()
        if flag(choice, "github_owned_allowed"):
            named |= {"actions", "github"}
        used = {name for name in used if name.partition("/")[0] not in named}
        if used and flag(choice, "verified_allowed"):
            raise Unseen(
                f"on, selected actions: whether {', '.join(sorted(used))} is of a verified creator is not told",
                "name it in the repository's settings, Actions, General",
            )
    if used:
        return line.missing(f"{', '.join(sorted(used))}: not allowed", f"{_API} -F enabled=true -f allowed_actions=all")
    return line.ok(f"on, {shown(which)} actions")


def token(line: Line, ask: Asker) -> Check:
    """What a workflow may do that asks for nothing."""
    path = "actions/permissions/workflow"
    found = ask.one(path, _ADMIN)
    mend = f"{_API}/workflow -f default_workflow_permissions=read -F can_approve_pull_request_reviews=false"
    if word(found, "default_workflow_permissions") != "read":
        return line.missing("may write wherever a workflow asks for nothing", mend)
    if flag(found, "can_approve_pull_request_reviews"):
        return line.missing("may approve pull requests", mend)
    return line.ok("reads, unless a job asks for more")


def forks(line: Line, ask: Asker, repository: dict[str, Any]) -> Check:
    """Whose pull requests start a workflow without a maintainer."""
    if flag(repository, "private"):
        path = "actions/permissions/fork-pr-workflows-private-repos"
        found = ask.one(path, _ADMIN)
        if not flag(found, "run_workflows_from_fork_pull_requests"):
            return line.ok("start no workflow")
        mend = f"{_API}/fork-pr-workflows-private-repos -F run_workflows_from_fork_pull_requests=false"
        for key, what in (
            ("send_write_tokens_to_workflows", "get a token that may write"),
            ("send_secrets_and_variables", "get the secrets"),
        ):
            if flag(found, key):
                return line.missing(what, mend)
        if not flag(found, "require_approval_for_fork_pr_workflows"):
            return line.missing("start workflows without a maintainer", mend)
        return line.ok("wait for a maintainer")
    path = "actions/permissions/fork-pr-contributor-approval"
    policy = word(ask.one(path, _ADMIN), "approval_policy")
    if policy == _EVERYBODY_OUTSIDE:
        return line.ok("wait for a maintainer")
    mend = f"{_API}/fork-pr-contributor-approval -f approval_policy={_EVERYBODY_OUTSIDE}"
    return line.missing(f"start workflows after the first one ({shown(policy)})", mend)


def runner(line: Line, ask: Asker, owner: str, *, organization: bool) -> Check:
    """Whether a runner with the labels of the GPU jobs is online: in this repository, else in its organization."""
    places = [("actions/runners", _ADMIN)]
    if organization:
        places.append((f"/orgs/{segment(owner)}/actions/runners", "the organization's Self-hosted runners: read"))
    offline: list[str] = []
    for path, permission in places:
        for each in ask.every(path, "runners", permission):
            labels = {word(label, "name").lower() for label in items(each, "labels")}
            if labels >= LABELS:
                if each.get("status") == "online":
                    return line.ok(f"{shown(word(each, 'name'))} is online; {_HOOK}")
                offline.append(shown(word(each, "name")))
    wanted = " and ".join(sorted(LABELS, reverse=True))
    found = f"{', '.join(offline[:5])}: offline" if offline else f"none with the labels {wanted}"
    return line.missing(found, "start one: docs/how-to/runners.md")


def _used(root: Path) -> set[str]:
    """OWNER/NAME of every action from elsewhere that the workflows here use."""
    files = [path for folder in ("workflows", "actions") for path in (root / ".github" / folder).rglob("*.y*ml")]
    try:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    except OSError as error:
        raise Unseen(f"a workflow cannot be read: {error.strerror}", "make it readable") from error
    return {f"{owner}/{name}" for text in texts for owner, name in _USES.findall(text)}
