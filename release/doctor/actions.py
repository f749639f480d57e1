"""Checks of GitHub Actions: whether it runs, with which permissions, for whom, and on which runners."""

import re
from pathlib import Path

from release.doctor import answers
from release.doctor.case import Case
from release.doctor.check import Unseen, Wanted, want
from release.doctor.github import odd, shown

LABELS = frozenset({"self-hosted", "gpu"})
_API = "gh api -X PUT repos/{owner}/{repo}/actions/permissions"
_USES = re.compile(r"^\s*(?:- )?uses:\s*([A-Za-z0-9-]+)/([A-Za-z0-9._-]+)", re.MULTILINE)
_HOOK = "whether it has the hook that holds forks is not shown: docs/how-to/runners.md"


def _allowed(case: Case) -> str:
    """Actions is enabled and allows the actions that the workflows use."""
    found, fix = case.github.one(answers.PERMISSIONS), f"{_API} -F enabled=true -f allowed_actions=all"
    want(found.enabled, "switched off", fix)
    if found.allowed_actions is None:
        raise odd(answers.PERMISSIONS.path)
    if found.allowed_actions == "all":
        return "on, all actions"
    used = _used(case.target.root)
    if found.allowed_actions == "selected":
        choice = case.github.one(answers.SELECTED_ACTIONS)
        owners = {each.partition("/")[0] for each in choice.patterns_allowed}
        owners |= {"actions", "github"} if choice.github_owned_allowed else set()
        used = {name for name in used if name.partition("/")[0] not in owners}
        if used and choice.verified_allowed:
            unsaid = f"on, selected actions: whether {', '.join(sorted(used))} is of a verified creator is not told"
            raise Unseen(unsaid, "name it in the repository's settings, Actions, General")
    want(not used, f"{', '.join(sorted(used))}: not allowed", fix)
    return f"on, {shown(found.allowed_actions)} actions"


def _used(root: Path) -> set[str]:
    """OWNER/NAME of every external action that the workflows use."""
    files = [path for folder in ("workflows", "actions") for path in (root / ".github" / folder).rglob("*.y*ml")]
    try:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    except OSError as error:
        raise Unseen(f"a workflow cannot be read: {error.strerror}", "make it readable") from error
    return {f"{owner}/{name}" for text in texts for owner, name in _USES.findall(text)}


def _token(case: Case) -> str:
    """The default permissions of a workflow."""
    found = case.github.one(answers.WORKFLOW_TOKEN)
    fix = f"{_API}/workflow -f default_workflow_permissions=read -F can_approve_pull_request_reviews=false"
    want(found.default_workflow_permissions == "read", "may write unless a workflow declares permissions", fix)
    want(not found.can_approve_pull_request_reviews, "may approve pull requests", fix)
    return "read-only, unless a job declares more"


def _forks(case: Case) -> str:
    """Whose pull requests start a workflow without a maintainer's approval."""
    if case.about.private:
        found = case.github.one(answers.PRIVATE_FORKS)
        if not found.run_workflows_from_fork_pull_requests:
            return "start no workflow"
        fix = f"{_API}/fork-pr-workflows-private-repos -F run_workflows_from_fork_pull_requests=false"
        want(not found.send_write_tokens_to_workflows, "get a token that may write", fix)
        want(not found.send_secrets_and_variables, "get the secrets", fix)
        want(found.require_approval_for_fork_pr_workflows, "start workflows without a maintainer", fix)
    else:
        policy, safe = case.github.one(answers.FORKS).approval_policy, "all_external_contributors"
        fix = f"{_API}/fork-pr-contributor-approval -f approval_policy={safe}"
        want(policy == safe, f"start workflows after the first one ({shown(policy)})", fix)
    return "wait for a maintainer"


def _runner(case: Case) -> str:
    """A runner with the labels of the GPU jobs is online in this repository or its organization."""
    offline: list[str] = []
    shared = [answers.SHARED_RUNNERS] if case.about.owner == "Organization" else []
    for endpoint in (answers.RUNNERS, *shared):
        for each in case.github.every(endpoint, case.owner):
            if {label.name.lower() for label in each.labels} >= LABELS:
                if each.status == "online":
                    return f"{shown(each.name)} is online; {_HOOK}"
                offline.append(shown(each.name))
    wanted = " and ".join(sorted(LABELS, reverse=True))
    found = f"{', '.join(offline[:5])}: offline" if offline else f"none with the labels {wanted}"
    return want("", found, "start one: docs/how-to/runners.md")


WANTED = (
    Wanted("Actions", ("every workflow",), _allowed),
    Wanted("workflow token", ("every workflow",), _token),
    Wanted("pull requests of forks", ("pr.yml",), _forks),
    Wanted("GPU runner", ("pr.yml", "release.yml", "scheduled.yml"), _runner),
)
