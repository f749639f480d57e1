"""A STAND-IN for GitHub's REST API, as far as it shows a repository's settings: what is asked with GET, by path.

It begins as a repository that is ready; a test changes ``shown``. Shapes are those of https://docs.github.com/rest
(2022-11-28), written here anew. It counts and pages as GitHub does, and answers 404 for what it does not have.
"""

import json
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.conftest import REPOSITORY as ROOT
from tests.http_standin import Handler
from tests.http_standin import StandIn as Base

TOKEN, REPOSITORY = "ghp_of-a-test-with-settings-0123456789", "octo/router"
_HERE = f"/repos/{REPOSITORY}"


class Refusal(NamedTuple):
    """An answer that shows nothing."""

    status: int
    message: str


HIDDEN = Refusal(403, "Resource not accessible by personal access token")
NOT_FOUND = Refusal(404, "Not Found")


def _named(kind: str, **values: str) -> dict[str, Any]:
    at = {"created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z"}
    each = [{"name": name} | ({"value": value} if kind == "variables" else {}) | at for name, value in values.items()]
    return {kind: each}


def _environment(name: str, *reviewers: str) -> dict[str, Any]:
    people = [{"type": "User", "reviewer": {"login": who, "id": 1, "type": "User"}} for who in reviewers]
    rules: list[dict[str, Any]] = [{"id": 1, "type": "branch_policy"}]
    if people:
        rules.append({"id": 2, "type": "required_reviewers", "prevent_self_review": True, "reviewers": people})
    policy = {"protected_branches": False, "custom_branch_policies": True}
    return {"id": 1, "name": name, "protection_rules": rules, "deployment_branch_policy": policy}


def ready() -> dict[str, Any]:
    """Every answer of a repository that lacks nothing, by path; the ruleset is the one of this repository."""
    ruleset = json.loads((ROOT / ".github" / "ruleset.json").read_text())
    tags = json.loads((ROOT / ".github" / "ruleset-tags.json").read_text())
    evidence = json.loads((ROOT / ".github" / "ruleset-evidence.json").read_text())
    source = {"ruleset_source_type": "Repository", "ruleset_source": REPOSITORY, "ruleset_id": 42}
    actor = {"actor_id": 777, "actor_type": "Integration", "bypass_mode": "always"}
    labels = [{"id": 1, "name": name, "type": "custom"} for name in ("self-hosted", "Linux", "X64", "gpu")]
    pipeline = {"id": 3, "name": "pipeline", "protection_rules": [], "deployment_branch_policy": None}
    shown: dict[str, Any] = {
        "": {
            "full_name": REPOSITORY,
            "private": False,
            "archived": False,
            "default_branch": "main",
            "owner": {"login": "octo", "type": "Organization"},
        },
        "/actions/permissions": {"enabled": True, "allowed_actions": "all"},
        "/actions/permissions/workflow": {
            "default_workflow_permissions": "read",
            "can_approve_pull_request_reviews": False,
        },
        "/actions/permissions/fork-pr-contributor-approval": {"approval_policy": "all_external_contributors"},
        "/actions/runners": {"runners": [{"id": 1, "name": "gpu-1", "status": "online", "labels": labels}]},
        "/actions/secrets": _named("secrets", CODECOV_TOKEN=""),
        "/actions/organization-secrets": _named("secrets"),
        "/actions/variables": _named(
            "variables",
            LOCKSTEP_IMAGE="ghcr.io/octo/router",
            LOCKSTEP_STORAGE="s3",
            LOCKSTEP_VERIFY_RUNTIME="transformers",
        ),
        "/actions/organization-variables": _named("variables"),
        "/environments": {
            "environments": [
                _environment("staging"),
                _environment("production", "ada"),
                _environment("registry"),
                pipeline,
            ]
        },
        "/codeowners/errors": {"errors": []},
        "/rules/branches/main": [rule | source for rule in ruleset["rules"]],
        "/rules/branches/lockstep%2Flooks": [rule | source | {"ruleset_id": 44} for rule in evidence["rules"]],
        "/rulesets": [
            {"id": number, **{key: each[key] for key in ("name", "target", "enforcement")}}
            for number, each in ((42, ruleset), (43, tags), (44, evidence))
        ],
        "/rulesets/42": ruleset | {"id": 42, "bypass_actors": [actor]},
        "/rulesets/43": tags | {"id": 43, "bypass_actors": [actor]},
        "/rulesets/44": evidence | {"id": 44, "bypass_actors": []},
        "/branches/main": {"name": "main", "protected": True, "protection": {"enabled": False}},
        "/branches/main/protection": Refusal(404, "Branch not protected"),
    }
    shown["/environments/pipeline/secrets"] = _named("secrets", DVC_CONFIG_LOCAL="")
    for name in ("staging", "production", "registry"):
        moving = {} if name == "registry" else {"LOCKSTEP_TOKEN": ""}
        shown[f"/environments/{name}/secrets"] = _named("secrets", DVC_CONFIG_LOCAL="", **moving)
        policies = [{"id": 1, "name": "main", "type": "branch"}]
        shown[f"/environments/{name}/deployment-branch-policies"] = {"branch_policies": policies}
    found = {_HERE + path: value for path, value in shown.items()}
    return found | {"/orgs/octo/actions/runners": {"runners": []}}


class StandIn(Base):
    """``shown``: the answers by path. ``asked``: the paths. ``garbage``, ``echo``, ``trickle``: how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.shown = ready()
        self.asked: list[str] = []
        self.garbage: bytes | None = None
        self.echo = False
        self.trickle = False

    def at(self, path: str) -> Any:
        """The answer at a path of the repository, to be changed."""
        return self.shown[_HERE + path]

    def put(self, path: str, value: Any) -> None:
        self.shown[_HERE + path] = value


class _Handler(Handler):
    server: StandIn

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        if self.server.garbage is not None:
            self._reply(200, self.server.garbage)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply(401, b'{"message": "Bad credentials"}')
        else:
            found = self.server.shown.get(parts.path, NOT_FOUND)
            if isinstance(found, Refusal):
                told = found.message + (f" {TOKEN}" if self.server.echo else "")
                self._reply(found.status, json.dumps({"message": told}).encode())
            else:
                self._reply(200, json.dumps(_page(found, parse_qs(parts.query))).encode())

    def _reply(self, status: int, body: bytes) -> None:
        if not self.server.trickle:
            self.reply(status, body)
            return
        self.reply(status, b"", {"Content-Length": str(len(body))})
        for byte in body:
            if self.server.ending.wait(0.1):
                return
            self.wfile.write(bytes([byte]))


def _page(found: Any, query: dict[str, list[str]]) -> Any:
    """One page of a list, with the count of all where GitHub gives one; everything else as it is."""
    if "page" not in query or not isinstance(found, dict | list):
        return found
    size, page = min(100, int(query["per_page"][0])), int(query["page"][0])
    here = slice(size * (page - 1), size * page)
    if isinstance(found, list):
        return found[here]
    counted = {key: value for key, value in found.items() if isinstance(value, list)}
    total = sum(map(len, counted.values()))
    return {"total_count": total} | found | {key: value[here] for key, value in counted.items()}
