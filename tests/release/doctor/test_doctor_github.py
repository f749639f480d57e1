"""`lockstep doctor --github`: what it finds of a repository on GitHub, against a stand-in, and of a real clone."""

import json
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from checks.formats import signers
from release import doctor
from release.cli import main
from release.doctor import rulesets, tree
from release.doctor.check import Check
from tests.conftest import REPOSITORY as ROOT
from tests.github_settings_standin import HIDDEN, NOT_FOUND, REPOSITORY, TOKEN, Refusal, StandIn

pytestmark = pytest.mark.slow

HOME = f"https://github.com/{REPOSITORY}/.github/workflows"
IDENTITY, VERIFIER = (f"{HOME}/{file}@refs/heads/main" for file in ("release.yml", "verify.yml"))
ISSUER = "https://token.actions.githubusercontent.com"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("GITHUB_REPOSITORY", "GITHUB_EVENT_PATH", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    with StandIn() as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield server


def _git(root: Path, *args: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *identity, *args], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a repository whose files lack nothing: this one's, with owners, a signer and a DVC remote.

    Read-only by custom.
    """
    root = tmp_path_factory.mktemp("whole")
    (root / ".github" / "workflows").mkdir(parents=True)
    text = (ROOT / ".github" / "CODEOWNERS").read_text().replace(f"{tree.PLACEHOLDER}model-owners", "@octo/owners")
    (root / ".github" / "CODEOWNERS").write_text(text)
    for file in (rulesets.MAIN, rulesets.TAGS, rulesets.EVIDENCE):
        shutil.copy(ROOT / file, root / file)
    for name in tree.WORKFLOWS:
        (root / ".github" / "workflows" / name).write_text("on: push\njobs: {}\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = s3://me:secret@bucket/dvc\n"
    )
    (root / "release" / "policy").mkdir(parents=True)
    signers = [
        {"name": "ci", "may": ["release"], "identity": IDENTITY, "issuer": ISSUER},
        {"name": "verifier", "may": ["verify"], "identity": VERIFIER, "issuer": ISSUER},
    ]
    (root / "release" / "policy" / "signers.yaml").write_text(yaml.safe_dump(signers))
    _git(root, "init", "-q", "-b", "main")
    _commit(root)
    _git(root, "remote", "add", "origin", f"git@github.com:{REPOSITORY}.git")
    _git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    return root


@pytest.fixture
def clone(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "clone"))


def _commit(root: Path) -> None:
    """Commit everything here, and have it on the target branch."""
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "All")
    _git(root, "update-ref", "refs/remotes/origin/main", "HEAD")


def _look(root: Path) -> dict[str, Check]:
    return {check.name: check for check in doctor.on_github(root)}


def _run(root: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["-C", str(root), "doctor", "--github", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_a_repository_that_lacks_nothing_is_ready(api: StandIn, whole: Path) -> None:
    code, output = _run(whole)
    assert (code, output.splitlines()[-1]) == (0, "ready for a pull request"), output
    assert "secret@" not in output
    assert all(check.status == "ok" for check in doctor.on_github(whole))
    assert all(path.startswith(("/repos/octo/router", "/orgs/octo/")) for path in api.asked)


# One thing is wrong at a time: which, what is changed, the line that says so, and what it says.


def _rule(api: StandIn, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(rule for rule in api.at("/rules/branches/main") if rule["type"] == kind)
    return found


def _without(kind: str) -> Callable[[StandIn], None]:
    return lambda api: api.put("/rules/branches/main", [r for r in api.at("/rules/branches/main") if r["type"] != kind])


def _parameter(kind: str, key: str, value: object) -> Callable[[StandIn], None]:
    return lambda api: _rule(api, kind)["parameters"].update({key: value})


def _answer(path: str, **values: object) -> Callable[[StandIn], None]:
    return lambda api: api.at(path).update(values)


def _environment(number: int, **values: object) -> Callable[[StandIn], None]:
    return lambda api: api.at("/environments")["environments"][number].update(values)


def _actors(*actors: dict[str, object]) -> Callable[[StandIn], None]:
    return lambda api: api.at("/rulesets/42").update(bypass_actors=list(actors))


def _tags(**values: object) -> Callable[[StandIn], None]:
    return lambda api: api.at("/rulesets")[1].update(values)


# fmt: off
WRONG: list[tuple[str, Callable[[StandIn], None], str, str]] = [
    ("Actions is off", _answer("/actions/permissions", enabled=False), "Actions", "enabled is false, not true"),
    ("a token that writes", _answer("/actions/permissions/workflow", default_workflow_permissions="write"), "workflow token", 'default_workflow_permissions is "write", not "read"'),
    ("a token that approves", _answer("/actions/permissions/workflow", can_approve_pull_request_reviews=True), "workflow token", "can_approve_pull_request_reviews is true, not false"),
    ("forks that were here before", _answer("/actions/permissions/fork-pr-contributor-approval", approval_policy="first_time_contributors"), "pull requests of forks", 'approval_policy is "first_time_contributors"'),
    ("no runner", _answer("/actions/runners", runners=[]), "GPU runner", "none with the labels self-hosted and gpu"),
    ("a runner that is off", lambda api: api.at("/actions/runners")["runners"][0].update(status="offline"), "GPU runner", "none with the labels self-hosted and gpu is online"),
    ("a runner without a GPU", lambda api: api.at("/actions/runners")["runners"][0]["labels"].pop(), "GPU runner", "none with the labels"),
    ("no secret for staging", _answer("/environments/staging/secrets", secrets=[{"name": "LOCKSTEP_TOKEN"}]), "secret DVC_CONFIG_LOCAL", "is not set in staging"),
    ("no pipeline", lambda api: api.at("/environments")["environments"].pop(), "environment pipeline", "there is none"),
    ("a pipeline of main alone", _environment(3, deployment_branch_policy={"protected_branches": True, "custom_branch_policies": False}), "environment pipeline", "deployment_branch_policy is"),
    ("packages of another owner", lambda api: api.at("/actions/variables")["variables"][0].update(value="ghcr.io/other/router"), "login of the registry", "is not set in pipeline and staging and production"),
    ("a registry without a login", lambda api: api.at("/actions/variables")["variables"][0].update(value="registry.example/octo/router"), "login of the registry", "LOCKSTEP_REGISTRY is not the host"),
    ("no variable", _answer("/actions/variables", variables=[]), "variable LOCKSTEP_IMAGE", "is not set"),
    ("an image with a tag", lambda api: api.at("/actions/variables")["variables"][0].update(value="ghcr.io/octo/router:latest"), "variable LOCKSTEP_IMAGE", "a tag"),
    ("another storage", lambda api: api.at("/actions/variables")["variables"][1].update(value="gs"), "variable LOCKSTEP_STORAGE", "lacks s3"),
    ("no environment to push from", lambda api: api.at("/environments")["environments"].pop(2), "environment registry", "there is none"),
    ("images pushed from any branch", _environment(2, deployment_branch_policy=None), "environment registry", "deployment_branch_policy is null"),
    ("a login that pushes, for every branch", lambda api: api.at("/environments/pipeline/secrets")["secrets"].append({"name": "LOCKSTEP_REGISTRY_TOKEN"}), "login that may push", "can be read by the workflow of any branch"),
    ("a login that pushes, of the repository", lambda api: api.at("/actions/secrets")["secrets"].append({"name": "LOCKSTEP_REGISTRY_TOKEN"}), "login that may push", "can be read by the workflow of any branch"),
    ("another registry, and nothing that pushes there", lambda api: api.at("/actions/variables")["variables"][0].update(value="ghcr.io/other/router"), "login that may push", "LOCKSTEP_REGISTRY_TOKEN is not set in registry and staging"),
    ("no staging", lambda api: api.at("/environments")["environments"].pop(0), "environment staging", "there is none"),
    ("production of any branch", _environment(1, deployment_branch_policy=None), "environment production", "deployment_branch_policy is null"),
    ("production of protected branches", _environment(1, deployment_branch_policy={"protected_branches": True, "custom_branch_policies": False}), "environment production", "custom_branch_policies is false"),
    ("production of another branch too", lambda api: api.at("/environments/production/deployment-branch-policies")["branch_policies"].append({"id": 2, "name": "feature/*", "type": "branch"}), "environment production", "deploys from branch main, branch feature/*"),
    ("nobody reviews", _environment(1, protection_rules=[]), "environment production", "protection_rules lacks"),
    ("no token in staging", _answer("/environments/staging/secrets", secrets=[]), "LOCKSTEP_TOKEN of staging", "is not set"),
    ("the token for everybody", lambda api: api.at("/actions/secrets")["secrets"].append({"name": "LOCKSTEP_TOKEN"}), "LOCKSTEP_TOKEN of production", "can be read by the workflow of any branch"),
    ("no code owners' review", _parameter("pull_request", "require_code_owner_review", False), "rules of main", "require_code_owner_review is false, not true"),
    ("rebase merges", _parameter("pull_request", "allowed_merge_methods", ["squash", "rebase"]), "rules of main", 'allowed_merge_methods has "rebase"'),
    ("no pull requests", _without("pull_request"), "rules of main", "there is no rule pull_request"),
    ("nobody passes", _actors(), "ruleset bypass", "no promotion can be pushed"),
    ("deploy keys pass", _actors({"actor_id": None, "actor_type": "DeployKey", "bypass_mode": "always"}), "ruleset bypass", "no token passes"),
    ("pull requests alone pass", _actors({"actor_id": 9, "actor_type": "Team", "bypass_mode": "pull_request"}), "ruleset bypass", "no token passes"),
    ("an older protection beside the ruleset", _answer("/branches/main", protection={"enabled": True}), "older protection", "protection.enabled is true, not false"),
    ("all writers pass", _actors({"actor_id": 4, "actor_type": "RepositoryRole", "bypass_mode": "always"}), "ruleset bypass", "everybody who may write"),
    ("looks can be taken back", lambda api: api.put("/rules/branches/lockstep%2Flooks", []), "counted looks", "there is no rule"),
    ("no ruleset of tags", lambda api: api.put("/rulesets", []), "release tags", "anybody who may push"),
    ("a ruleset of tags that only looks", _tags(enforcement="evaluate"), "release tags", "anybody who may push"),
    ("tags may be deleted", lambda api: api.at("/rulesets/43").update(rules=[{"type": "creation"}, {"type": "update"}]), "release tags", "anybody who may push"),
    ("the tags of moves alone", lambda api: api.at("/rulesets/43")["conditions"]["ref_name"].update(include=["refs/tags/*#*"]), "release tags", "anybody who may push"),
    ("another default branch", _answer("", default_branch="trunk"), "repository", "not main"),
    ("an owner who is nobody", _answer("/codeowners/errors", errors=[{"line": 12, "column": 1, "kind": "Unknown owner", "path": "x"}]), "CODEOWNERS", "line 12: Unknown owner"),
]
# fmt: on


@pytest.mark.parametrize(("change", "name", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_said_with_the_command_that_fixes_it(
    api: StandIn, whole: Path, change: Callable[[StandIn], None], name: str, says: str
) -> None:
    change(api)
    found = _look(whole)[name]
    assert found.status == "missing", found
    assert says in found.found
    assert found.fix


def test_environments_have_the_names_that_variables_give_them(api: StandIn, whole: Path) -> None:
    api.at("/actions/variables")["variables"].append({"name": "LOCKSTEP_PRODUCTION", "value": "Live"})
    found = _look(whole)
    assert (found["environment production"].status, found["environment production"].found) == (
        "missing",
        "there is none",
    )
    assert "environments/live" in found["environment production"].fix
    assert "--env live" in found["LOCKSTEP_TOKEN of production"].fix
    assert found["environment staging"].status == "ok"

    api.at("/environments")["environments"][1]["name"] = "live"
    for what in ("secrets", "deployment-branch-policies"):
        api.put(f"/environments/live/{what}", api.at(f"/environments/production/{what}"))
    found = _look(whole)
    assert found["environment production"].status == found["LOCKSTEP_TOKEN of production"].status == "ok"
    assert "set in live" in found["LOCKSTEP_TOKEN of production"].found


def test_a_runner_that_is_online_is_not_said_to_hold_forks(api: StandIn, whole: Path) -> None:
    assert "whether it has the hook that holds forks is not shown" in _look(whole)["GPU runner"].found


def test_what_is_missing_exits_with_9_and_is_not_ready(api: StandIn, whole: Path) -> None:
    api.put("/environments/pipeline/secrets", {"secrets": []})
    code, output = _run(whole)
    assert code == 9
    assert "→ gh secret set DVC_CONFIG_LOCAL --env pipeline < .dvc/config.local" in output
    assert "ready for" not in output
    code, output = _run(whole, "--json")
    listed = json.loads(output[: output.rindex("]") + 1])
    assert code == 9
    assert [each["name"] for each in listed if each["status"] == "missing"] == ["secret DVC_CONFIG_LOCAL"]


def test_what_the_organization_shares_counts(api: StandIn, whole: Path) -> None:
    api.put("/actions/organization-secrets", api.at("/environments/pipeline/secrets"))
    api.put("/environments/pipeline/secrets", {"secrets": []})
    api.shown["/orgs/octo/actions/runners"] = api.at("/actions/runners")
    api.put("/actions/runners", {"runners": []})
    assert all(check.status == "ok" for check in doctor.on_github(whole))


def test_names_beyond_the_first_page_are_seen(api: StandIn, whole: Path) -> None:
    many = [{"name": f"SECRET_{number}"} for number in range(64)]
    many.append({"name": "DVC_CONFIG_LOCAL"})
    api.at("/actions/secrets")["secrets"] = many
    api.put("/environments/pipeline/secrets", {"secrets": []})
    assert _look(whole)["secret DVC_CONFIG_LOCAL"].status == "ok"


def test_a_list_that_is_not_shown_whole_is_unknown(api: StandIn, whole: Path) -> None:
    api.put("/actions/secrets", {"secrets": [], "total_count": 3})
    assert _look(whole)["secret DVC_CONFIG_LOCAL"].status == "unknown"


@pytest.mark.parametrize("refusal", [HIDDEN, NOT_FOUND], ids=["403", "404"])
def test_what_the_token_may_not_see_is_unknown_and_never_ok(api: StandIn, whole: Path, refusal: Refusal) -> None:
    for path in list(api.shown):
        if not path.endswith(("/octo/router", "/rules/branches/main")):
            api.shown[path] = refusal
    found = _look(whole)
    unknown = {name for name, check in found.items() if check.status == "unknown"}
    settled = {"repository", "workflows", "called workflows", "DVC remote", "signers", "verifiers", "rules of main"}
    assert unknown == set(found) - settled
    assert all("needs a token with" in found[name].found and found[name].fix for name in unknown)
    code, output = _run(whole)
    assert code == 0
    assert (
        output.splitlines()[-1] == f"not known to be ready: {len(unknown)} of {len(found)} settings could not be read"
    )


def test_every_difference_from_a_ruleset_is_named_and_a_ruleset_is_read_from_the_target_branch(
    api: StandIn, clone: Path
) -> None:
    api.put("/rules/branches/main", [])
    found = _look(clone)["rules of main"]
    assert found.found.count("there is no rule") == 4
    assert found.fix.endswith("--input .github/ruleset.json")
    (clone / rulesets.MAIN).write_text('{"rules": 7}')
    _commit(clone)
    assert _look(clone)["rules of main"].found == ".github/ruleset.json is not a ruleset"


def test_a_private_repository_is_asked_for_the_policy_of_private_ones(api: StandIn, whole: Path) -> None:
    api.at("")["private"] = True
    api.put("/actions/permissions/fork-pr-contributor-approval", Refusal(422, "only applies to public repositories"))
    policy = {
        "run_workflows_from_fork_pull_requests": True,
        "send_write_tokens_to_workflows": False,
        "send_secrets_and_variables": True,
        "require_approval_for_fork_pr_workflows": True,
    }
    api.put("/actions/permissions/fork-pr-workflows-private-repos", policy)
    assert _look(whole)["pull requests of forks"].found == "send_secrets_and_variables is true, not false"
    policy["send_secrets_and_variables"] = False
    assert _look(whole)["pull requests of forks"].status == "ok"


def test_selected_actions_are_in_order_and_local_ones_are_not(api: StandIn, whole: Path) -> None:
    api.at("/actions/permissions")["allowed_actions"] = "selected"
    found = _look(whole)["Actions"]
    assert (found.status, "must allow docker/login-action" in found.found) == ("ok", True)
    api.at("/actions/permissions")["allowed_actions"] = "local_only"
    assert "allows local_only" in _look(whole)["Actions"].found


# what lies in the tree


def test_the_placeholder_of_codeowners_is_refused_before_anybody_is_asked(api: StandIn, clone: Path) -> None:
    shutil.copy(ROOT / ".github" / "CODEOWNERS", clone / ".github" / "CODEOWNERS")
    _commit(clone)
    found = _look(clone)["CODEOWNERS"]
    assert (found.status, "placeholder" in found.found) == ("missing", True)
    fix = found.fix.replace("OWNER/TEAM", "octo/owners")
    subprocess.run(fix, shell=True, cwd=clone, check=True)
    _commit(clone)
    assert _look(clone)["CODEOWNERS"].status == "ok"


@pytest.mark.parametrize(
    ("last", "bare"),
    [
        ("/release/policy/", "release/policy/signers.yaml, release/policy/approved.yaml"),
        ("*.yaml", "dvc.yaml, release/runtimes/own.yaml, release/policy/signers.yaml"),
        (".github/workflows/*", ".github/workflows/pr.yml"),
        ("gates", "checks/gates/__init__.py"),
        ("**/production", "release/environments/production/environment.yaml"),
    ],
)
def test_the_last_pattern_of_codeowners_decides(api: StandIn, clone: Path, last: str, bare: str) -> None:
    with (clone / ".github" / "CODEOWNERS").open("a") as file:
        file.write(f"{last}   # nobody\n")
    _commit(clone)
    assert f"nobody owns {bare}" in _look(clone)["CODEOWNERS"].found


def test_a_comment_of_codeowners_names_nobody_and_an_open_bracket_is_refused(api: StandIn, clone: Path) -> None:
    path = clone / ".github" / "CODEOWNERS"
    text = path.read_text()
    path.write_text(f"{text}/release/policy/  # @octo/owners had it\n")
    _commit(clone)
    assert "nobody owns release/policy/signers.yaml" in _look(clone)["CODEOWNERS"].found
    path.write_text(f"{text}/docs/[a @octo/owners\n")
    _commit(clone)
    found = _look(clone)["CODEOWNERS"]
    assert (found.status, "/docs/[a" in found.found) == ("missing", True)


def test_files_count_once_they_are_on_the_target_branch(api: StandIn, clone: Path) -> None:
    for path in (".github/CODEOWNERS", ".github/workflows/promote.yml", ".dvc/config", "release/policy/signers.yaml"):
        (clone / path).unlink()
    _git(clone, "add", "-A")
    _git(clone, "commit", "-q", "-m", "None")
    assert all(check.status == "ok" for check in doctor.on_github(clone))
    _git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    found = _look(clone)
    missing = {name for name, check in found.items() if check.status == "missing"}
    assert missing == {"CODEOWNERS", "workflows", "DVC remote", "signers", "verifiers", "variable LOCKSTEP_STORAGE"}


def test_a_folder_as_dvc_remote_is_no_remote_of_several_machines(api: StandIn, clone: Path) -> None:
    (clone / ".dvc" / "config").write_text("[core]\nremote = a\n['remote \"a\"']\nurl = /mnt/dvc\n")
    _commit(clone)
    assert "folder of one machine" in _look(clone)["DVC remote"].found


def test_a_cloud_versioned_remote_is_found_before_a_run_pushes_to_it(api: StandIn, clone: Path) -> None:
    with (clone / ".dvc" / "config").open("a") as stream:
        stream.write("    worktree = True\n")
    _commit(clone)
    assert _look(clone)["DVC remote"].found.startswith("DVC's default remote store has worktree: with it `dvc push`")


def test_release_yml_of_another_repository_may_not_sign_here(api: StandIn, clone: Path) -> None:
    path = clone / "release" / "policy" / "signers.yaml"
    path.write_text(path.read_text().replace("octo/router", "octo/other"))
    _commit(clone)
    found = _look(clone)["signers"]
    assert (found.status, IDENTITY in found.fix) == ("missing", True)


def test_a_pinned_workflow_signs_at_its_commit_and_for_this_repository(api: StandIn, clone: Path) -> None:
    """A thin repository: its release.yml calls the one of Lockstep, which calls verify.yml of the same commit."""
    home, old, new = "https://github.com/octo/lockstep/.github/workflows", "0" * 40, "1" * 40
    thin, policy = clone / ".github" / "workflows" / "release.yml", clone / "release" / "policy" / "signers.yaml"
    (thin.parent / "verify.yml").unlink()
    for file in (rulesets.MAIN, rulesets.TAGS, rulesets.EVIDENCE):
        (clone / file).unlink()
    thin.write_text(f"jobs:\n  release:\n    uses: octo/lockstep/.github/workflows/release.yml@{new}\n")
    _commit(clone)
    assert _look(clone)["workflows"].status == "ok"
    found = _look(clone)["verifiers"]
    (entry,) = signers.parse(f"[{found.fix.partition(': ')[2]}]", "the entry")
    assert (found.status, entry.identities, entry.caller) == ("missing", (f"{home}/verify.yml@{new}",), IDENTITY)
    roles = [("ci", "release"), ("verifier", "verify")]
    lines = [{"name": name, "may": [role], "identity": f"{home}/{role}.yml", "commits": [old], "caller": IDENTITY,
              "issuer": ISSUER} for name, role in roles]  # fmt: skip
    policy.write_text(yaml.safe_dump(lines))
    _commit(clone)
    assert _look(clone)["signers"].fix == f"add {new} to the commits of ci in release/policy/signers.yaml"
    policy.write_text(yaml.safe_dump([line | {"commits": [old, new]} for line in lines]))
    _commit(clone)
    assert {name: _look(clone)[name].status for name in ("signers", "verifiers")} == {
        "signers": "ok",
        "verifiers": "ok",
    }


# who asks, and whom


def test_without_a_token_it_looks_at_the_tree_and_asks_nobody(
    api: StandIn, whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    monkeypatch.setenv("PATH", str(_only_git(tmp_path)))
    code, output = _run(whole)
    assert code == 0
    assert "needs a token" in output
    assert "not known to be ready" in output
    assert api.asked == []


def _only_git(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    git = shutil.which("git")
    assert git
    (folder / "git").symlink_to(git)
    return folder


def test_the_login_of_gh_is_asked_for_this_very_host(
    api: StandIn, whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _only_git(tmp_path)
    gh = folder / "gh"
    gh.write_text(f'#!/bin/sh\n[ "$*" = "auth token --hostname 127.0.0.1" ] && echo {TOKEN}\n')
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("GITHUB_TOKEN")
    monkeypatch.setenv("PATH", str(folder))
    assert _run(whole)[0] == 0
    assert api.asked


def test_a_repository_on_another_host_is_not_asked_for(api: StandIn, clone: Path) -> None:
    _git(clone, "remote", "set-url", "origin", "https://git.example/octo/router.git")
    code, output = _run(clone)
    assert code == 9
    assert "another host" in output
    assert api.asked == []


@pytest.mark.parametrize("address", ["https://github.com/octo/router", "ssh://git@github.com/octo/router.git"])
def test_every_form_of_origin_is_read(api: StandIn, clone: Path, address: str) -> None:
    _git(clone, "remote", "set-url", "origin", address)
    assert _run(clone)[0] == 0


@pytest.mark.parametrize("name", ["GITHUB_API_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN"])
@pytest.mark.parametrize("value", ["https://[", "http://example.invalid", "a b", "../..", "\u00e9"])
def test_variables_that_are_none_are_refused_and_nobody_is_asked(
    api: StandIn, whole: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, output = _run(whole)
    assert "ready for" not in output
    if name != "GITHUB_TOKEN" or " " in value or not value.isascii():
        assert (code, api.asked) == (9, [])


@pytest.mark.parametrize("address", ["https://[", "http://[::1", "/srv/git", "github.com", "a:b:c", "-x", "git@:o/r"])
def test_an_odd_origin_is_no_repository_on_github(api: StandIn, clone: Path, address: str) -> None:
    _git(clone, "config", "remote.origin.url", address)
    assert _run(clone)[0] == 9
    assert api.asked == []


# odd answers


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b"{}", b"null", b'{"full_name": 7}', b"[" * 100_000, b"\xff"])
def test_answers_of_another_shape_are_unknown_and_no_traceback(api: StandIn, whole: Path, garbage: bytes) -> None:
    api.garbage = garbage
    code, output = _run(whole)
    assert code == 0
    assert "not known to be ready" in output


ODD: dict[str, Callable[[Any], Any]] = {
    "null": lambda _: None,
    "empty": lambda _: {},
    "numbers": lambda answer: dict.fromkeys(answer, 7) if isinstance(answer, dict) else 7,
    "lists of numbers": lambda answer: (
        {key: [7] if isinstance(value, list) else value for key, value in answer.items()}
        if isinstance(answer, dict)
        else [7]
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_answer_leaves_the_other_lines_as_they_are(
    api: StandIn, clone: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(clone / ".git")  # git is asked once a file, and answers the same
    monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
    before = _look(clone)
    for path, answer in list(api.shown.items()):
        odd = ODD[name](answer)
        if path.count("/") < 4 or odd == answer or not isinstance(answer, dict | list):
            continue
        api.shown[path] = odd
        found = _look(clone)
        assert found.keys() == before.keys()
        worse = [row for row, check in found.items() if check.status != "ok"]
        asked = any(each.partition("?")[0] == path for each in api.asked)
        needed = asked and "organization" not in path
        assert worse or not needed, f"{path} answers {odd!r} and nothing is amiss"
        api.shown[path] = answer
        api.asked.clear()


def test_the_token_is_in_no_output(api: StandIn, whole: Path) -> None:
    api.echo = True
    for path in ("/actions/secrets", "/rules/branches/main", "/environments/staging/secrets"):
        api.put(path, Refusal(502, "it went wrong"))
    api.at("")["full_name"] = f"octo/{TOKEN}"
    for options in ([], ["--json"]):
        output = _run(whole, *options)[1]
        assert "it went wrong" in output
        assert TOKEN not in output


def test_a_token_that_github_does_not_know_ends_the_asking(
    api: StandIn, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_old")
    code, output = _run(whole)
    assert code == 0
    assert "does not know the token" in output
    assert len(api.asked) == 1


def test_a_trickle_of_bytes_ends_at_the_deadline(api: StandIn, whole: Path) -> None:
    api.trickle = True
    began = time.monotonic()
    found = doctor.on_github(whole, deadline=0.4)
    assert time.monotonic() - began < 15
    assert "does not answer within 0.4 s" in found[0].found
    assert found[0].status == "unknown"


# the files that GitHub reads


def test_code_owners_own_what_doctor_guards_and_not_the_parameters() -> None:
    rules = tree.parse((ROOT / ".github" / "CODEOWNERS").read_text())
    assert [file for file in tree.GUARDED if not rules.of(file)] == []
    for free in ("params.yaml", "dvc.lock", "reports/verdict.json", "README.md", "datasets/tickets.jsonl"):
        assert rules.of(free) == []
    for odd in ("click.py", "dvc/__init__.py", "setup.py", "sitecustomize.py", "newcomer"):
        assert rules.of(odd) != []
    patterns = re.findall(r"^(/\S+)", (ROOT / ".github" / "CODEOWNERS").read_text(), re.MULTILINE)
    for pattern in set(patterns) - {"/datasets/"}:  # where docs/tutorial/first-pull-request.md has a team put its own
        assert (ROOT / pattern.strip("/")).exists(), pattern


def test_forms_and_dependabot_are_as_github_wants_them() -> None:
    command = Path(sys.executable).parent / "check-jsonschema"
    folder = ROOT / ".github"
    forms = [path for path in sorted((folder / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
    assert len(forms) == 3
    for schema, files in (
        ("vendor.dependabot", [folder / "dependabot.yml"]),
        ("vendor.github-issue-forms", forms),
        ("vendor.github-issue-config", [folder / "ISSUE_TEMPLATE" / "config.yml"]),
    ):
        done = subprocess.run(
            [command, "--builtin-schema", schema, *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
