"""Checks of Actions, secrets (by name), variables, and the environments of jobs."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from release.doctor import tree
from release.doctor.check import Finding, Wanted, want
from release.doctor.github import parsed, quoted, shown
from release.doctor.repository import (
    ACTIONS,
    ADMINISTRATION,
    IMAGE,
    Repository,
    Setting,
    differences,
)

STORAGE, REGISTRY = "LOCKSTEP_STORAGE", "LOCKSTEP_REGISTRY"
PIPELINE = "pipeline"  # Jobs that move nothing run in it, of any branch.
PUSHING = "registry"  # The job that pushes images runs in it.
# Variables LOCKSTEP_STAGING and LOCKSTEP_PRODUCTION may name others.
STAGING, PRODUCTION = ("staging", "production")
ENVIRONMENTS = (STAGING, PRODUCTION)
LABELS = frozenset({"self-hosted", "gpu"})
_OWN_REGISTRY = "ghcr.io"  # A workflow's own token logs in there.
# Extras that DVC needs, by the remote's scheme.
_EXTRAS = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}
_EVERY, _RELEASE, _PROMOTE = ("every workflow",), ("release.yml",), ("promote.yml",)
_API = "gh api -X PUT repos/{owner}/{repo}"
_PERMISSIONS = "actions/permissions"


def _setting(path: str, options: str, **expected: object) -> Setting:
    """Return a row of the table: the expected values below Actions' permissions, and gh's options that set them."""
    return Setting(
        f"{_PERMISSIONS}{path}", ADMINISTRATION, expected, f"{_API}/{_PERMISSIONS}{path} {options}"
    )


ENABLED = _setting("", "-F enabled=true -f allowed_actions=all", enabled=True)
TOKEN = _setting(
    "/workflow",
    "-f default_workflow_permissions=read -F can_approve_pull_request_reviews=false",
    default_workflow_permissions="read",
    can_approve_pull_request_reviews=False,
)
FORKS = _setting(
    "/fork-pr-contributor-approval",
    "-f approval_policy=all_external_contributors",
    approval_policy="all_external_contributors",
)
PRIVATE_FORKS = _setting(
    "/fork-pr-workflows-private-repos",
    "-F run_workflows_from_fork_pull_requests=false",
    send_write_tokens_to_workflows=False,
    send_secrets_and_variables=False,
    require_approval_for_fork_pr_workflows=True,
)

_MAIN_ALONE = {"deployment_branch_policy": {"custom_branch_policies": True}}
_EXPECTED: Mapping[str, Mapping[str, object]] = {
    PIPELINE: {"deployment_branch_policy": None, "protection_rules": []},
    PUSHING: _MAIN_ALONE,
    STAGING: _MAIN_ALONE,
    PRODUCTION: {**_MAIN_ALONE, "protection_rules": [{"type": "required_reviewers"}]},
}


class Secret(NamedTuple):
    """A secret that jobs of the environments ``roles`` read. ``guarded``: workflows of other branches cannot read it.

    ``login``: it is a login of the registry, which ghcr.io does not need. ``source``: the end of gh's command.
    """

    name: str
    roles: tuple[str, ...]
    guarded: bool = True
    login: bool = False
    source: str = ""


def _actions(repository: Repository) -> str:
    """Require Actions to be enabled, for more than the actions of this repository."""
    ENABLED.hold(repository)
    allowed = repository.github.one(_PERMISSIONS, ADMINISTRATION, "allowed_actions")[
        "allowed_actions"
    ]
    want(
        allowed in ("all", "selected"),
        f"allows {shown(allowed)}, and the workflows use others",
        ENABLED.fix,
    )
    return (
        "on, all actions"
        if allowed == "all"
        else "on; must allow docker/login-action and GitHub's own actions"
    )


def _forks(repository: Repository) -> str:
    """Require that pull requests of forks start no workflow without a maintainer's approval."""
    if not repository.answer["private"]:
        return FORKS.hold(repository)
    running = "run_workflows_from_fork_pull_requests"
    if not repository.github.one(PRIVATE_FORKS.path, ADMINISTRATION, running)[running]:
        return "start no workflow"
    return PRIVATE_FORKS.hold(repository)


def _runner(repository: Repository) -> str:
    """Require a runner with the labels of the GPU jobs, online in this repository or its organization."""
    paths = {"actions/runners": ADMINISTRATION}
    if repository.is_shared:
        paths[f"/orgs/{quoted(repository.owner)}/actions/runners"] = (
            "the organization's Self-hosted runners: read"
        )
    for path, permission in paths.items():
        for runner in repository.github.every(path, permission, "runners"):
            labels = parsed(list[dict[str, object]], runner.get("labels"), path)
            names = {str(label.get("name")).lower() for label in labels}
            if names >= LABELS and runner.get("status") == "online":
                hook = (
                    "whether it has the hook that holds forks is not shown: docs/how-to/runners.md"
                )
                return f"{shown(runner.get('name'))} is online; {hook}"
    wanted = " and ".join(sorted(LABELS, reverse=True))
    raise Finding(f"none with the labels {wanted} is online", "start one: docs/how-to/runners.md")


def _named(role: str, repository: Repository) -> str:
    """Return the name of an environment that workflows use as ``role``."""
    return (
        role in ENVIRONMENTS and repository.variable(f"LOCKSTEP_{role.upper()}").lower()
    ) or role


def _environment(role: str, repository: Repository) -> str:
    """Compare an environment of jobs. The default branch alone deploys to it, but any branch to the pipeline's."""
    name, branch = _named(role, repository), repository.branch
    options = "" if role == PIPELINE else " --input - # the JSON: docs/how-to/github.md"
    fix = f"{_API}/environments/{name}{options}"
    environment = want(repository.environments().get(name), "there is none", fix)
    wrong = differences(_EXPECTED[role], environment)
    want(not wrong, "; ".join(wrong), fix)
    if role == PIPELINE:
        return "takes pull requests"
    path = f"environments/{quoted(name)}/deployment-branch-policies"
    policies = repository.github.every(path, ACTIONS, "branch_policies")
    names = [f"{policy.get('type', 'branch')} {policy.get('name')}" for policy in policies]
    listed = ", ".join(map(shown, names[:5])) or "none"
    want(
        names == [f"branch {branch}"],
        f"deploys from {listed}, not from the branch {branch} alone",
        fix,
    )
    return f"deploys from {branch} alone{', after a review' if role == PRODUCTION else ''}"


def _secret(secret: Secret, repository: Repository) -> str:
    """Check where a secret is set: of the repository for everybody, or of each environment that needs it."""
    name, shared = secret.name, secret.name in repository.secrets()
    if secret.guarded:
        fix = f"gh secret delete {name}{'' if shared else f' --env {PIPELINE}'}"
        loose = shared or name in repository.secrets_of(PIPELINE)
        want(not loose, f"{name} can be read by the workflow of any branch", fix)
    if secret.login and _has_own_login(repository):
        return f"the workflow's own token, at {_OWN_REGISTRY}/{shown(repository.owner.lower())}"
    if shared:
        return "is set"
    names = [_named(role, repository) for role in secret.roles]
    without = [
        environment for environment in names if name not in repository.secrets_of(environment)
    ]
    fix = f"gh secret set {name} --env {''.join(without[:1])} {secret.source}".rstrip()
    want(not without, f"{name} is not set in {' and '.join(without)}", fix)
    return f"is set in {' and '.join(names)}"


def _has_own_login(repository: Repository) -> bool:
    """Tell whether the image is in GitHub's registry under the repository's owner: a workflow's token logs in there.

    Raises Finding if the image is on another host than the registry that workflows log in to.
    """
    image = want(
        repository.image(),
        f"{IMAGE} names no registry",
        f"gh variable set {IMAGE} --body HOST/NAME",
    )
    if image.host == _OWN_REGISTRY:
        return image.name.partition("/")[0] == repository.owner.lower()
    want(
        repository.variable(REGISTRY) == image.host,
        f"{REGISTRY} is not the host of {IMAGE}",
        f"gh variable set {REGISTRY} --body {shown(image.host)}",
    )
    return False


def _image(repository: Repository) -> str:
    fix = f"gh variable set {IMAGE} --body {_OWN_REGISTRY}/{shown(repository.github.repository.lower())}"
    want(repository.variable(IMAGE), "is not set", fix)
    image = want(repository.image(), "is not HOST/NAME", fix)
    want(
        image.host is not None and image.tag is None and image.digest is None,
        "is not HOST/NAME: a tag, a digest or a folder is not for it",
        fix,
    )
    return shown(f"{image.host}/{image.name}")


def _storage(repository: Repository) -> str:
    scheme = tree.remote(repository.target)[1].partition("://")[0]
    extra = want(
        _EXTRAS.get(scheme),
        f"the DVC remote is {shown(scheme)}://, which no extra brings",
        f"use s3://, gs:// or https://, or add DVC's package for {shown(scheme)} to the extra dvc",
    )
    given = repository.variable(STORAGE).replace(",", " ").split()
    want(
        extra in given,
        f"lacks {extra}, which the DVC remote needs",
        f"gh variable set {STORAGE} --body {extra}",
    )
    return extra


_STAGING_TOKEN = Secret("LOCKSTEP_TOKEN", (STAGING,))
_CREDENTIALS = Secret(
    "DVC_CONFIG_LOCAL", tuple(_EXPECTED), guarded=False, source="< .dvc/config.local"
)
_USER = "# of a user who may only pull, and gh variable set LOCKSTEP_REGISTRY_USER"
_PULL = Secret(
    "LOCKSTEP_REGISTRY_PULL_TOKEN",
    (PIPELINE, *ENVIRONMENTS),
    guarded=False,
    login=True,
    source=_USER,
)
_PUSH = Secret("LOCKSTEP_REGISTRY_TOKEN", (PUSHING, STAGING), login=True)
WANTED = (
    Wanted(f"environment {PIPELINE}", _EVERY, partial(_environment, PIPELINE)),
    Wanted(f"environment {PUSHING}", _RELEASE, partial(_environment, PUSHING)),
    Wanted(f"environment {STAGING}", _RELEASE, partial(_environment, STAGING)),
    Wanted(f"LOCKSTEP_TOKEN of {STAGING}", _RELEASE, partial(_secret, _STAGING_TOKEN)),
    Wanted(f"environment {PRODUCTION}", _PROMOTE, partial(_environment, PRODUCTION)),
    Wanted(
        f"LOCKSTEP_TOKEN of {PRODUCTION}",
        _PROMOTE,
        partial(_secret, _STAGING_TOKEN._replace(roles=(PRODUCTION,))),
    ),
    Wanted("secret DVC_CONFIG_LOCAL", _EVERY, partial(_secret, _CREDENTIALS)),
    Wanted(f"variable {IMAGE}", _RELEASE, _image),
    Wanted("login of the registry", (*_RELEASE, *_PROMOTE), partial(_secret, _PULL)),
    Wanted("login that may push", _RELEASE, partial(_secret, _PUSH)),
    Wanted(f"variable {STORAGE}", _EVERY, _storage),
    Wanted("Actions", _EVERY, _actions),
    Wanted("workflow token", _EVERY, TOKEN.hold),
    Wanted("pull requests of forks", ("pr.yml",), _forks),
    Wanted("GPU runner", ("pr.yml", "release.yml", "scheduled.yml"), _runner),
)
