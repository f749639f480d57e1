"""Secrets by name, variables, and the environments that jobs deploy to. GitHub never shows a secret's value."""

from functools import partial
from typing import Any

from checks.errors import BuildRefused
from release.adapters.registry import reference
from release.doctor.asking import Asker, Unseen, flag, items, part, seen, segment, shown, word
from release.doctor.check import Check, Line
from release.doctor.tree import Serving

TOKEN, CREDENTIALS = "LOCKSTEP_TOKEN", "DVC_CONFIG_LOCAL"
PUSH_TOKEN, PULL_TOKEN = "LOCKSTEP_REGISTRY_TOKEN", "LOCKSTEP_REGISTRY_PULL_TOKEN"
IMAGE, STORAGE, REGISTRY = "LOCKSTEP_IMAGE", "LOCKSTEP_STORAGE", "LOCKSTEP_REGISTRY"
RUNTIME = "LOCKSTEP_VERIFY_RUNTIME"
PIPELINE = "pipeline"  # what jobs run in that move nothing: any branch may
PUSHING = "registry"  # what the job that pushes images runs in
ENVIRONMENTS = ("staging", "production")
_ALL = (PIPELINE, PUSHING, *ENVIRONMENTS)
_OWN_REGISTRY = "ghcr.io"  # a workflow's own token logs in there
_PULLS = "refs/pull/*/merge"  # what a pull request's jobs run on
_EXTRAS = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}  # schemes of a DVC remote, by the extra they need
_ACTIONS = "Actions: read"
_MAKE = "gh api -X PUT repos/{owner}/{repo}/environments/"


class Settings:
    """What one repository has set. ``organization``: its owner may share secrets and variables with it."""

    def __init__(self, ask: Asker, branch: str, *, organization: bool) -> None:
        self._ask = ask
        self._branch = branch
        self._organization = organization

    def checks(self, remote: str | None, serving: Serving) -> list[Check]:
        """``remote``: the address of the DVC remote. ``serving``: what weights are served in."""
        every = ("every workflow",)
        found = [
            seen(Line(f"environment {PIPELINE}", every), self._pipeline),
            seen(Line(f"environment {PUSHING}", ("release.yml",)), partial(self._environment, PUSHING)),
        ]
        for name in ENVIRONMENTS:
            by = ("release.yml",) if name == "staging" else ("promote.yml",)
            found.append(seen(Line(f"environment {name}", by), partial(self._environment, name)))
            found.append(seen(Line(f"{TOKEN} of {name}", by), partial(self._token, name)))
        return [
            *found,
            seen(Line(f"secret {CREDENTIALS}", every), partial(self._secret, CREDENTIALS, "< .dvc/config.local")),
            seen(Line(f"variable {IMAGE}", ("release.yml",)), self._image),
            seen(Line("login of the registry", ("release.yml", "promote.yml")), self._registry),
            seen(Line("login that may push", ("release.yml",)), self._pushing),
            seen(Line(f"variable {STORAGE}", every), lambda line: self._storage(line, remote)),
            seen(Line("server to verify", ("release.yml",)), lambda line: self._server(line, serving)),
        ]

    def _secret(self, name: str, source: str, line: Line, needing: tuple[str, ...] = _ALL) -> Check:
        """A secret that jobs of the environments ``needing`` need: the repository's own, or one of each of them."""
        if name in self._named("secrets", name):
            return line.ok("is set")
        lacking = [each for each in needing if name not in self._secrets(each)]
        if not lacking:
            return line.ok("is set in each environment")
        where = " and ".join(lacking) if len(lacking) < len(needing) else "any environment"
        return line.missing(f"is not set in {where}", f"gh secret set {name} --env {lacking[0]} {source}")

    def _registry(self, line: Line) -> Check:
        where = self._where()
        if where is None or where.host is None:
            return line.missing(f"{IMAGE} names no registry", f"gh variable set {IMAGE} --body HOST/NAME")
        if owner := self._own(where):
            return line.ok(f"the workflow's own token, at {_OWN_REGISTRY}/{shown(owner)}")
        if where.host != _OWN_REGISTRY and self._named("variables", REGISTRY).get(REGISTRY) != where.host:
            mend = f"gh variable set {REGISTRY} --body {shown(where.host)}"
            return line.missing(f"{REGISTRY} is not the host of {IMAGE}", mend)
        user = "# one that may only pull, and gh variable set LOCKSTEP_REGISTRY_USER"
        return self._secret(PULL_TOKEN, user, line, (PIPELINE, *ENVIRONMENTS))

    def _pushing(self, line: Line) -> Check:
        """The login that may push is read by the jobs that push, and by no other branch's."""
        try:
            loose = PUSH_TOKEN in self._named("secrets", PUSH_TOKEN)
        except Unseen:
            loose = False  # the lines of other secrets say so
        if loose or PUSH_TOKEN in self._secrets(PIPELINE):
            delete = f"gh secret delete {PUSH_TOKEN}{'' if loose else f' --env {PIPELINE}'}"
            return line.missing(f"{PUSH_TOKEN} lies where the workflow of any branch reads it", delete)
        where = self._where()
        if where is not None and self._own(where):
            return line.ok("the workflow's own token")
        needing = (PUSHING, ENVIRONMENTS[0])
        lacking = [each for each in needing if PUSH_TOKEN not in self._secrets(each)]
        if lacking:
            return line.missing(
                f"{PUSH_TOKEN} is not set in {' and '.join(lacking)}", f"gh secret set {PUSH_TOKEN} --env {lacking[0]}"
            )
        return line.ok(f"is set in {' and '.join(needing)} alone")

    def _own(self, where: reference.Reference) -> str | None:
        """The repository's owner, where the image is below that name at GitHub: there a workflow's token logs in."""
        owner = self._ask.repository.partition("/")[0].lower()
        return owner if where.host == _OWN_REGISTRY and where.name.partition("/")[0] == owner else None

    def _where(self) -> reference.Reference | None:
        """What the variable of the image says; None when it says nothing, or nothing that is one."""
        value = self._named("variables", IMAGE).get(IMAGE)
        try:
            return reference.parse(value) if value else None
        except BuildRefused:
            return None

    def _pipeline(self, line: Line) -> Check:
        found = self._environments().get(PIPELINE)
        if found is None:
            return line.missing("there is none", f"{_MAKE}{PIPELINE}")
        if _reviewers(found):
            return line.missing("every job waits for its reviewers", f"{_MAKE}{PIPELINE}")
        if part(found, "deployment_branch_policy"):
            branches = (
                self._branches(PIPELINE) if flag(found["deployment_branch_policy"], "custom_branch_policies") else []
            )
            if not {_PULLS, self._branch} <= set(branches):
                return line.missing("refuses the jobs of pull requests, or of main", f"{_MAKE}{PIPELINE}")
        return line.ok("takes pull requests")

    def _image(self, line: Line) -> Check:
        mend = f"gh variable set {IMAGE} --body {_OWN_REGISTRY}/{shown(self._ask.repository.lower())}"
        if not self._named("variables", IMAGE).get(IMAGE):
            return line.missing("is not set", mend)
        where = self._where()
        if where is None:
            return line.missing("is no HOST/NAME", mend)
        if where.host is None or where.tag is not None or where.digest is not None:
            return line.missing("is no HOST/NAME: a tag, a digest or a folder is not for it", mend)
        return line.ok(shown(f"{where.host}/{where.name}"))

    def _storage(self, line: Line, remote: str | None) -> Check:
        if remote is None:
            return line.unknown("depends on the DVC remote, and there is none", "add the DVC remote first")
        scheme = remote.partition("://")[0] if "://" in remote else ""
        if not scheme:
            return line.ok("not needed by the DVC remote")
        if scheme not in _EXTRAS:
            extras = f"s3://, gs:// or https://, or add DVC's package for {shown(scheme)} to the extra dvc"
            return line.missing(f"the DVC remote is {shown(scheme)}://, which no extra brings", f"use {extras}")
        extra = _EXTRAS[scheme]
        if extra in self._named("variables", STORAGE).get(STORAGE, "").replace(",", " ").split():
            return line.ok(extra)
        return line.missing(f"lacks {extra}, which the DVC remote needs", f"gh variable set {STORAGE} --body {extra}")

    def _server(self, line: Line, serving: Serving) -> Check:
        runtime = self._named("variables", RUNTIME).get(RUNTIME)
        if runtime and serving.strict:
            return line.missing(
                f"{RUNTIME} is set: {shown(runtime)} is verified as a process, which production does not take",
                f"gh variable delete {RUNTIME} (the GPU runner needs Docker), or set served_as_verified: false",
            )
        if runtime:
            return line.ok(f"{shown(runtime)}, as a process")
        if serving.server:
            return line.ok(shown(serving.server))
        mend = f"name one in serve.base, or one for all environments in their `images:`; or gh variable set {RUNTIME}"
        return line.missing(f"no server's image is named and {RUNTIME} is not set: nothing can be started", mend)

    def _environment(self, name: str, line: Line) -> Check:
        found = self._environments().get(name)
        mend = f"{_MAKE}{name} --input - # the JSON: docs/how-to/github.md"
        if found is None:
            return line.missing("there is none", mend)
        policy = part(found, "deployment_branch_policy")
        if not policy:
            return line.missing("every branch may deploy there", mend)
        if not flag(policy, "custom_branch_policies"):
            return line.missing(f"every protected branch may deploy there, not {self._branch} alone", mend)
        branches = self._branches(name)
        if branches != [self._branch]:
            listed = ", ".join(map(shown, branches[:5])) or "none"
            return line.missing(f"deploys from {listed}, not from {self._branch} alone", mend)
        reviewers = _reviewers(found)
        if name == "production" and not reviewers:
            return line.missing(f"deploys from {self._branch}, and nobody reviews it", mend)
        who = f", reviewed by {', '.join(reviewers[:6])}" if reviewers else ""
        return line.ok(f"deploys from {self._branch} alone{who}")

    def _token(self, name: str, line: Line) -> Check:
        try:
            loose = TOKEN in self._named("secrets", TOKEN)
        except Unseen:
            loose = False  # the lines of other secrets say so
        if loose or TOKEN in self._secrets(PIPELINE):
            return line.missing(
                "lies outside of staging and production: other jobs read it", f"gh secret delete {TOKEN}"
            )
        if TOKEN in self._secrets(name):
            return line.ok("is set")
        return line.missing("is not set", f"gh secret set {TOKEN} --env {name}")

    def _environments(self) -> dict[str, dict[str, Any]]:
        found = self._ask.every("environments", "environments", _ACTIONS)
        return {word(each, "name").lower(): each for each in found}

    def _branches(self, name: str) -> list[str]:
        """What may deploy to an environment: names of branches, and of tags with `tag ` before them."""
        path = f"environments/{segment(name)}/deployment-branch-policies"
        found = self._ask.every(path, "branch_policies", _ACTIONS)
        return [("tag " if each.get("type") == "tag" else "") + word(each, "name") for each in found]

    def _secrets(self, name: str) -> set[str]:
        """Names of the secrets of one environment; none where there is no such environment."""
        if name not in self._environments():
            return set()
        path = f"environments/{segment(name)}/secrets"
        return {word(each, "name").upper() for each in self._ask.every(path, "secrets", "Environments: read")}

    def _named(self, kind: str, wanted: str) -> dict[str, str]:
        """The repository's ``secrets`` or ``variables`` by name; the organization's too, where ``wanted`` may be there.

        Values are the variables'; a secret has none.
        """
        permission = f"{kind.title()}: read"
        found = _by_name(self._ask.every(f"actions/{kind}", kind, permission))
        if self._organization and wanted not in found:
            found = _by_name(self._ask.every(f"actions/organization-{kind}", kind, permission)) | found
        return found


def _by_name(listed: list[dict[str, Any]]) -> dict[str, str]:
    return {word(each, "name").upper(): word(each, "value") if "value" in each else "" for each in listed}


def _reviewers(environment: dict[str, Any]) -> list[str]:
    """Who must agree before a job deploys there."""
    names = []
    for rule in items(environment, "protection_rules"):
        if rule.get("type") == "required_reviewers":
            for each in items(rule, "reviewers"):
                who = part(each, "reviewer")
                names.append(shown(str(who.get("login") or who.get("slug") or "somebody")))
    return names
