"""Every key that `doctor --github` expects in GitHub's answers is in GitHub's own description of its API."""

import importlib
import json

import pytest

from release.doctor import rulesets, settings
from tests.conftest import REPOSITORY

# githubkit's types are generated from that description: one for each answer that is compared.
KEYS: list[tuple[str, set[str]]] = [
    ("FullRepositoryType", {"full_name", "default_branch", "private", "archived", "owner"}),
    ("ActionsRepositoryPermissionsType", {*settings.ENABLED.expected, "allowed_actions"}),
    ("ActionsGetDefaultWorkflowPermissionsType", {*settings.TOKEN.expected}),
    ("ActionsForkPrContributorApprovalType", {*settings.FORKS.expected}),
    (
        "ActionsForkPrWorkflowsPrivateReposType",
        {*settings.PRIVATE_FORKS.expected, "run_workflows_from_fork_pull_requests"},
    ),
    ("RunnerType", {"name", "status", "labels"}),
    ("EnvironmentType", {"name", "deployment_branch_policy", "protection_rules"}),
    ("EnvironmentPropProtectionRulesItemsAnyof1Type", {"type", "reviewers"}),
    ("DeploymentBranchPolicyType", {"name", "type"}),
    ("CodeownersErrorsType", {"errors"}),
    ("CodeownersErrorsPropErrorsItemsType", {"kind", "line"}),
    ("ActionsSecretType", {"name"}),
    ("ActionsVariableType", {"name", "value"}),
    ("RepositoryRulesetType", {"id", "target", "enforcement", "rules", "conditions", "bypass_actors"}),
    ("RepositoryRulesetBypassActorType", {"actor_id", "actor_type", "bypass_mode"}),
    ("BranchWithProtectionType", {"protection"}),
]


def _keys(name: str) -> set[str]:
    # By name: the package holds thousands of types, which a type checker would read all of.
    return set(getattr(importlib.import_module("githubkit_schemas.latest.types"), name).__annotations__)


@pytest.mark.parametrize(("name", "keys"), KEYS, ids=[name for name, _ in KEYS])
def test_github_describes_every_key_that_is_compared(name: str, keys: set[str]) -> None:
    assert keys - _keys(name) == set()


def test_github_describes_every_parameter_of_the_rulesets() -> None:
    rules = {rule["type"]: rule for rule in json.loads((REPOSITORY / rulesets.MAIN).read_text())["rules"]}
    for kind, name in (
        ("pull_request", "RepositoryRulePullRequestPropParametersType"),
        ("required_status_checks", "RepositoryRuleRequiredStatusChecksPropParametersType"),
    ):
        assert rules[kind]["parameters"].keys() - _keys(name) == set()
