"""The models of GitHub's answers ask for nothing that GitHub's own description of its API does not promise."""

import importlib

import pytest
from pydantic import AliasChoices, AliasPath
from pydantic.fields import FieldInfo

from release.doctor import answers
from release.doctor.answers import Answer

# githubkit's types are generated from that description: one for each answer that a model reads.
TYPES: list[tuple[type[Answer], str]] = [
    (answers.Repository, "FullRepositoryType"),
    (answers.Permissions, "ActionsRepositoryPermissionsType"),
    (answers.SelectedActions, "SelectedActionsType"),
    (answers.WorkflowToken, "ActionsGetDefaultWorkflowPermissionsType"),
    (answers.Forks, "ActionsForkPrContributorApprovalType"),
    (answers.PrivateForks, "ActionsForkPrWorkflowsPrivateReposType"),
    (answers.Runner, "RunnerType"),
    (answers.Environment, "EnvironmentType"),
    (answers.OwnersErrors, "CodeownersErrorsType"),
    (answers.OwnersError, "CodeownersErrorsPropErrorsItemsType"),
    (answers.Named, "ActionsSecretType"),
    (answers.Named, "ActionsVariableType"),
    (answers.Named, "RunnerLabelType"),
    (answers.Named, "DeploymentBranchPolicyType"),
    (answers.Ruleset, "RepositoryRulesetType"),
    (answers.Actor, "RepositoryRulesetBypassActorType"),
    (answers.Rule, "RepositoryRuleDetailedOneof0Type"),
    (answers.Branch, "BranchWithProtectionType"),
    (answers.Protection, "BranchProtectionType"),
    (answers.RequiredChecks, "RepositoryRuleRequiredStatusChecksPropParametersType"),
    (answers.RequiredChecks, "ProtectedBranchRequiredStatusCheckType"),
    (answers.RequiredCheck, "RepositoryRuleParamsStatusCheckConfigurationType"),
    (answers.RequiredCheck, "ProtectedBranchRequiredStatusCheckPropChecksItemsType"),
    (answers.PullRequests, "RepositoryRulePullRequestPropParametersType"),
    (answers.PullRequests, "ProtectedBranchPullRequestReviewType"),
]


def _keys(name: str, field: FieldInfo) -> set[str]:
    """The keys that a field is read from."""
    match field.validation_alias:
        case AliasChoices(choices=choices):
            return {str(choice) for choice in choices}
        case AliasPath(path=path):
            return {str(path[0])}
    return {name}


@pytest.mark.parametrize(("model", "name"), TYPES, ids=[f"{model.__name__}-{name}" for model, name in TYPES])
def test_what_a_model_cannot_do_without_is_always_in_the_answer(model: type[Answer], name: str) -> None:
    # By name: the package holds thousands of types, which a type checker would read all of.
    described = getattr(importlib.import_module("githubkit_schemas.latest.types"), name)
    for field, info in model.model_fields.items():
        if info.is_required():
            assert _keys(field, info) & described.__required_keys__, field


def test_what_a_model_reads_is_in_one_of_its_answers() -> None:
    types = importlib.import_module("githubkit_schemas.latest.types")
    for model in {model for model, _ in TYPES}:
        described = {key for one, name in TYPES if one is model for key in getattr(types, name).__annotations__}
        if model is answers.Rule:
            described.add("parameters")  # of other kinds of rule than the first
        unknown = {field for field, info in model.model_fields.items() if not _keys(field, info) & described}
        assert unknown == set(), model
