"""Secrets by name, variables, and the environments that jobs deploy to. GitHub never shows a secret's value."""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

from checks.errors import BuildRefused
from release.doctor.asking import Asker, Unseen, flag, items, part, seen, segment, shown, word
from release.doctor.check import Check, Line
from release.oci import reference

TOKEN, CREDENTIALS = "LOCKSTEP_TOKEN", "DVC_CONFIG_LOCAL"
IMAGE, STORAGE = "LOCKSTEP_IMAGE", "LOCKSTEP_STORAGE"
ENVIRONMENTS = ("staging", "production")
_EXTRAS = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}  # schemes of a DVC remote, by the extra they need
_ACTIONS = "Actions: read"
_SET = "gh api -X PUT repos/{{owner}}/{{repo}}/environments/{name} --input - # the JSON: docs/github.md"


class Settings:
    """What one repository has set. ``organization``: its owner may share secrets and variables with it."""

    def __init__(self, ask: Asker, branch: str, *, organization: bool) -> None:
        self._ask = ask
        self._branch = branch
        self._organization = organization

    def checks(self, remote: str | None) -> list[Check]:
        """``remote`` is the address of the DVC remote, None where there is none."""
        found = [
            seen(Line(f"secret {CREDENTIALS}", ("pr.yml", "release.yml")), self._credentials),
            seen(Line(f"variable {IMAGE}", ("release.yml",)), self._image),
            seen(Line(f"variable {STORAGE}", ("every workflow",)), lambda line: self._storage(line, remote)),
        ]
        for name in ENVIRONMENTS:
            by = ("release.yml",) if name == "staging" else ("promote.yml",)
            found.append(seen(Line(f"environment {name}", by), partial(self._environment, name)))
            found.append(seen(Line(f"{TOKEN} of {name}", by), partial(self._token, name)))
        return found

    def _credentials(self, line: Line) -> Check:
        if CREDENTIALS in self._named("secrets"):
            return line.ok("is set")
        return line.missing("is not set", f"gh secret set {CREDENTIALS} < .dvc/config.local")

    def _image(self, line: Line) -> Check:
        mend = f"gh variable set {IMAGE} --body ghcr.io/{shown(self._ask.repository.lower())}"
        value = self._named("variables", IMAGE).get(IMAGE)
        if not value:
            return line.missing("is not set", mend)
        try:
            where = reference.parse(value)
        except BuildRefused:
            return line.missing("is no HOST/NAME", mend)
        if where.host is None or where.tag is not None or where.digest is not None:
            return line.missing("is no HOST/NAME: a tag, a digest or a folder is not for it", mend)
        return line.ok(shown(f"{where.host}/{where.name}"))

    def _storage(self, line: Line, remote: str | None) -> Check:
        scheme = urlsplit(remote or "").scheme
        if not scheme:
            return line.ok("not needed by the DVC remote")
        if scheme not in _EXTRAS:
            extras = f"s3://, gs:// or https://, or add DVC's package for {shown(scheme)} to the extra dvc"
            return line.missing(f"the DVC remote is {shown(scheme)}://, which no extra brings", f"use {extras}")
        extra = _EXTRAS[scheme]
        if extra in self._named("variables", STORAGE).get(STORAGE, "").replace(",", " ").split():
            return line.ok(extra)
        return line.missing(f"lacks {extra}, which the DVC remote needs", f"gh variable set {STORAGE} --body {extra}")

    def _environment(self, name: str, line: Line) -> Check:
        found = {word(each, "name").lower(): each for each in self._ask.every("environments", "environments", _ACTIONS)}
        mend = _SET.format(name=name)
        if name not in found:
            return line.missing("there is none", mend)
        policy = part(found[name], "deployment_branch_policy")
        if not policy:
            return line.missing("every branch may deploy there", mend)
        if not flag(policy, "custom_branch_policies"):
            return line.missing(f"every protected branch may deploy there, not {self._branch} alone", mend)
        path = f"environments/{segment(name)}/deployment-branch-policies"
        branches = self._ask.every(path, "branch_policies", _ACTIONS)
        if [(word(each, "name"), each.get("type", "branch")) for each in branches] != [(self._branch, "branch")]:
            listed = ", ".join(shown(word(each, "name")) for each in branches[:5]) or "none"
            return line.missing(f"deploys from {listed}, not from {self._branch} alone", mend)
        reviewers = _reviewers(found[name])
        if name == "production" and not reviewers:
            return line.missing(f"deploys from {self._branch}, and nobody reviews it", mend)
        who = f", reviewed by {', '.join(reviewers[:6])}" if reviewers else ""
        return line.ok(f"deploys from {self._branch} alone{who}")

    def _token(self, name: str, line: Line) -> Check:
        mend = f"gh secret set {TOKEN} --env {name}"
        try:
            loose = TOKEN in self._named("secrets")
        except Unseen:
            loose = False  # the line of the repository's secrets says so
        if loose:
            return line.missing("lies beside the environments: every workflow reads it", f"gh secret delete {TOKEN}")
        path = f"environments/{segment(name)}/secrets"
        if any(word(each, "name") == TOKEN for each in self._ask.every(path, "secrets", "Environments: read")):
            return line.ok("is set")
        return line.missing("is not set", mend)

    def _named(self, kind: str, wanted: str | None = None) -> dict[str, str]:
        """The repository's ``secrets`` or ``variables`` by name; the organization's too, where they may be there.

        Values are the variables'; a secret has none.
        """
        permission = f"{kind.title()}: read"
        found = _by_name(self._ask.every(f"actions/{kind}", kind, permission))
        wanted = wanted or CREDENTIALS
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
