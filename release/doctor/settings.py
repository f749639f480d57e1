"""Checks of secrets (by name), variables, and the environments of jobs."""

from functools import partial

from checks.errors import Refusal
from release.adapters.registry.reference import Reference
from release.doctor import answers, tree
from release.doctor.case import IMAGE, Case
from release.doctor.check import Finding, Unseen, Wanted, want
from release.doctor.github import parsed, shown

TOKEN, CREDENTIALS = "LOCKSTEP_TOKEN", "DVC_CONFIG_LOCAL"
PUSH_TOKEN, PULL_TOKEN = "LOCKSTEP_REGISTRY_TOKEN", "LOCKSTEP_REGISTRY_PULL_TOKEN"
STORAGE, REGISTRY, RUNTIME = "LOCKSTEP_STORAGE", "LOCKSTEP_REGISTRY", "LOCKSTEP_VERIFY_RUNTIME"
PIPELINE = "pipeline"  # what jobs run in that move nothing: any branch may
PUSHING = "registry"  # what the job that pushes images runs in
STAGING, PRODUCTION = "staging", "production"  # unless variables LOCKSTEP_STAGING and LOCKSTEP_PRODUCTION say otherwise
ENVIRONMENTS = (STAGING, PRODUCTION)
_ALL = (PIPELINE, PUSHING, *ENVIRONMENTS)
_OWN_REGISTRY = "ghcr.io"  # a workflow's own token logs in there
_PULLS = "refs/pull/*/merge"  # what a pull request's jobs run on
_EXTRAS = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}  # schemes of a DVC remote, by the extra they need
_MAKE = "gh api -X PUT repos/{owner}/{repo}/environments/"
_EVERY, _RELEASE, _PROMOTE = ("every workflow",), ("release.yml",), ("promote.yml",)


def _pipeline(case: Case) -> str:
    fix = f"{_MAKE}{PIPELINE}"
    found = want(case.environments().get(PIPELINE), "there is none", fix)
    want(not _reviewers(found), "every job waits for its reviewers", fix)
    if policy := found.deployment_branch_policy:
        branches = case.deploying(PIPELINE) if policy.get("custom_branch_policies") else []
        want({_PULLS, case.branch} <= set(branches), "refuses the jobs of pull requests, or of main", fix)
    return "takes pull requests"


def _named(role: str, case: Case) -> str:
    """The name of an environment that workflows use as ``role``."""
    return (role in ENVIRONMENTS and case.variable(f"LOCKSTEP_{role.upper()}").lower()) or role


def _environment(role: str, case: Case) -> str:
    name = _named(role, case)
    alone, fix = f"{case.branch} alone", f"{_MAKE}{name} --input - # the JSON: docs/how-to/github.md"
    found = want(case.environments().get(name), "there is none", fix)
    policy = want(found.deployment_branch_policy, "every branch may deploy there", fix)
    want(policy.get("custom_branch_policies"), f"every protected branch may deploy there, not {alone}", fix)
    branches, reviewers = case.deploying(name), _reviewers(found)
    listed = ", ".join(map(shown, branches[:5])) or "none"
    want(branches == [case.branch], f"deploys from {listed}, not from {alone}", fix)
    want(role != PRODUCTION or reviewers, f"deploys from {case.branch} without a reviewer", fix)
    return f"deploys from {alone}" + (f", reviewed by {', '.join(reviewers[:6])}" if reviewers else "")


def _reviewers(environment: answers.Environment) -> list[str]:
    """Who must approve before a job deploys to an environment."""
    rules = [rule for rule in environment.protection_rules if rule.get("type") == "required_reviewers"]
    found = [each for rule in rules for each in parsed(answers.Reviewers, rule, "environments").reviewers]
    people = [parsed(dict[str, object], each.get("reviewer") or {}, "environments") for each in found]
    return [shown(who.get("login") or who.get("slug") or "somebody") for who in people]


def _secret(name: str, source: str, needing: tuple[str, ...], case: Case) -> str:
    """A secret that jobs of the environments ``needing`` read: the repository's, or one of each environment."""
    if name in case.secrets(name):
        return "is set"
    return _in_each(case, name, source, needing)


def _guarded(name: str, needing: tuple[str, ...], case: Case) -> str:
    """A secret that only jobs of the environments ``needing`` may read, and not workflows of any branch."""
    try:
        loose = name in case.secrets(name)
    except Unseen:
        loose = False  # the rows of other secrets say so
    fix = f"gh secret delete {name}{'' if loose else f' --env {PIPELINE}'}"
    loose = loose or name in case.secrets_of(PIPELINE)
    want(not loose, f"{name} can be read by the workflow of any branch", fix)
    return _in_each(case, name, "", needing)


def _in_each(case: Case, name: str, source: str, roles: tuple[str, ...]) -> str:
    needing = tuple(_named(role, case) for role in roles)
    without = [each for each in needing if name not in case.secrets_of(each)]
    where = " and ".join(without) if len(without) < len(needing) or len(needing) < 3 else "any environment"
    fix = f"gh secret set {name} --env {''.join(without[:1])} {source}".rstrip()
    want(not without, f"{name} is not set in {where}", fix)
    return f"is set in {' and '.join(needing)}"


def _image(case: Case) -> str:
    fix = f"gh variable set {IMAGE} --body {_OWN_REGISTRY}/{shown(case.github.repository.lower())}"
    want(case.variable(IMAGE), "is not set", fix)
    found = want(case.image(), "is not HOST/NAME", fix)
    plain = found.host is not None and found.tag is None and found.digest is None
    want(plain, "is not HOST/NAME: a tag, a digest or a folder is not for it", fix)
    return shown(f"{found.host}/{found.name}")


def _is_own(case: Case, image: Reference) -> bool:
    """Whether the image is in GitHub's registry under the repository's owner: a workflow's token can log in there."""
    return image.host == _OWN_REGISTRY and image.name.partition("/")[0] == case.owner.lower()


def _login(case: Case) -> str:
    image = want(case.image(), f"{IMAGE} names no registry", f"gh variable set {IMAGE} --body HOST/NAME")
    if _is_own(case, image):
        return f"the workflow's own token, at {_OWN_REGISTRY}/{shown(case.owner.lower())}"
    named = image.host == _OWN_REGISTRY or case.variable(REGISTRY) == image.host
    want(named, f"{REGISTRY} is not the host of {IMAGE}", f"gh variable set {REGISTRY} --body {shown(image.host)}")
    user = "# one that may only pull, and gh variable set LOCKSTEP_REGISTRY_USER"
    return _secret(PULL_TOKEN, user, (PIPELINE, *ENVIRONMENTS), case)


def _pushing(case: Case) -> str:
    image = case.image()
    own = image is not None and _is_own(case, image)
    found = _guarded(PUSH_TOKEN, () if own else (PUSHING, ENVIRONMENTS[0]), case)
    return "the workflow's own token" if own else found


def _storage(case: Case) -> str:
    try:
        scheme, separator, _ = tree.remote(case.target)[1].partition("://")
    except (Finding, Refusal):
        raise Unseen("depends on the DVC remote, and there is none", "add the DVC remote first") from None
    if not separator or not scheme:
        return "not needed by the DVC remote"
    known = f"s3://, gs:// or https://, or add DVC's package for {shown(scheme)} to the extra dvc"
    want(scheme in _EXTRAS, f"the DVC remote is {shown(scheme)}://, which no extra brings", f"use {known}")
    extra, fix = _EXTRAS[scheme], f"gh variable set {STORAGE} --body {_EXTRAS[scheme]}"
    here = case.variable(STORAGE).replace(",", " ").split()
    want(extra in here, f"lacks {extra}, which the DVC remote needs", fix)
    return extra


def _server(case: Case) -> str:
    runtime, serving = case.variable(RUNTIME), tree.serving(case.target)
    strict = f"{RUNTIME} is set: {shown(runtime)} is verified as a process, which production does not take"
    fix = f"gh variable delete {RUNTIME} (the GPU runner needs Docker), or set served_as_verified: false"
    want(not (runtime and serving.strict), strict, fix)
    fix = f"name one in serve.base, or one for all environments in their `images:`; or gh variable set {RUNTIME}"
    nothing = f"no server's image is named and {RUNTIME} is not set: nothing can be started"
    want(runtime or serving.server, nothing, fix)
    return f"{shown(runtime)}, as a process" if runtime else shown(serving.server)


WANTED = (
    Wanted(f"environment {PIPELINE}", _EVERY, _pipeline),
    Wanted(f"environment {PUSHING}", _RELEASE, partial(_environment, PUSHING)),
    Wanted(f"environment {STAGING}", _RELEASE, partial(_environment, STAGING)),
    Wanted(f"{TOKEN} of {STAGING}", _RELEASE, partial(_guarded, TOKEN, (STAGING,))),
    Wanted(f"environment {PRODUCTION}", _PROMOTE, partial(_environment, PRODUCTION)),
    Wanted(f"{TOKEN} of {PRODUCTION}", _PROMOTE, partial(_guarded, TOKEN, (PRODUCTION,))),
    Wanted(f"secret {CREDENTIALS}", _EVERY, partial(_secret, CREDENTIALS, "< .dvc/config.local", _ALL)),
    Wanted(f"variable {IMAGE}", _RELEASE, _image),
    Wanted("login of the registry", (*_RELEASE, *_PROMOTE), _login),
    Wanted("login that may push", _RELEASE, _pushing),
    Wanted(f"variable {STORAGE}", _EVERY, _storage),
    Wanted("server to verify", _RELEASE, _server),
)
