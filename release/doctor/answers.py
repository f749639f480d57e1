"""The GitHub endpoints of ``doctor --github``, with a model of each answer: https://docs.github.com/rest.

A model has only the fields that are used. If a field without a default is missing in an answer, the setting is unknown.
"""

from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from release.doctor.github import Endpoint

_ADMIN, _EVERYBODY = "Administration: read", "Metadata: read"


class Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Named(Answer):
    """A secret (without its value), a variable, a runner's label, or a branch or tag that may deploy."""

    name: str
    value: str = ""
    type: str = ""


class Repository(Answer):
    full_name: str
    default_branch: str
    private: bool
    archived: bool
    owner: str = Field("", validation_alias=AliasPath("owner", "type"))
    allow_rebase_merge: bool | None = None  # shown to administrators alone


class Permissions(Answer):
    enabled: bool
    allowed_actions: str | None = None


class SelectedActions(Answer):
    github_owned_allowed: bool
    verified_allowed: bool
    patterns_allowed: list[str] = []


class WorkflowToken(Answer):
    default_workflow_permissions: str
    can_approve_pull_request_reviews: bool


class Forks(Answer):
    approval_policy: str


class PrivateForks(Answer):
    run_workflows_from_fork_pull_requests: bool
    send_write_tokens_to_workflows: bool
    send_secrets_and_variables: bool
    require_approval_for_fork_pr_workflows: bool


class Runner(Answer):
    name: str
    status: str
    labels: list[Named]


class Environment(Answer):
    name: str
    protection_rules: list[dict[str, Any]]
    deployment_branch_policy: dict[str, bool] | None = None


class Reviewers(Answer):
    """Of the protection rule ``required_reviewers``: each entry has an account or a team as its ``reviewer``."""

    reviewers: list[dict[str, Any]]


class OwnersError(Answer):
    kind: str
    line: int | None = None


class OwnersErrors(Answer):
    errors: list[OwnersError]


class Rule(Answer):
    type: str
    ruleset_id: int | None = None
    parameters: dict[str, Any] | None = None


class RequiredCheck(Answer):
    context: str = ""
    app: int | None = Field(None, validation_alias=AliasChoices("integration_id", "app_id"))


class RequiredChecks(Answer):
    """Of a rule, or of the older branch protection; so is PullRequests."""

    checks: list[RequiredCheck] = Field(validation_alias=AliasChoices("required_status_checks", "checks"))
    strict: bool = Field(validation_alias=AliasChoices("strict_required_status_checks_policy", "strict"))


class PullRequests(Answer):
    code_owners: bool = Field(validation_alias=AliasChoices("require_code_owner_review", "require_code_owner_reviews"))
    allowed_merge_methods: list[str] | None = None


class Branch(Answer):
    protected: bool | None = Field(None, validation_alias=AliasPath("protection", "enabled"))


class Protection(Answer):
    """The older branch protection."""

    required_status_checks: RequiredChecks | None = None
    required_pull_request_reviews: PullRequests | None = None
    admins: bool | None = Field(None, validation_alias=AliasPath("enforce_admins", "enabled"))
    force_pushes: bool | None = Field(None, validation_alias=AliasPath("allow_force_pushes", "enabled"))
    deletions: bool | None = Field(None, validation_alias=AliasPath("allow_deletions", "enabled"))


class Actor(Answer):
    actor_type: str = ""
    actor_id: int | None = None
    bypass_mode: str = ""


class Ruleset(Answer):
    """The list of rulesets omits rules, names and actors."""

    id: int
    target: str = ""
    enforcement: str = ""
    rules: list[Rule] = []
    include: list[str] = Field([], validation_alias=AliasPath("conditions", "ref_name", "include"))
    exclude: list[str] = Field([], validation_alias=AliasPath("conditions", "ref_name", "exclude"))
    bypass_actors: list[Actor] | None = None  # shown to those who may change them


REPOSITORY = Endpoint("", Repository, _EVERYBODY)
PERMISSIONS = Endpoint("actions/permissions", Permissions, _ADMIN)
SELECTED_ACTIONS = Endpoint("actions/permissions/selected-actions", SelectedActions, _ADMIN)
WORKFLOW_TOKEN = Endpoint("actions/permissions/workflow", WorkflowToken, _ADMIN)
FORKS = Endpoint("actions/permissions/fork-pr-contributor-approval", Forks, _ADMIN)
PRIVATE_FORKS = Endpoint("actions/permissions/fork-pr-workflows-private-repos", PrivateForks, _ADMIN)
RUNNERS = Endpoint("actions/runners", Runner, _ADMIN, "runners")
SHARED_RUNNERS = Endpoint("/orgs/{}/actions/runners", Runner, "the organization's Self-hosted runners: read", "runners")
SECRETS = Endpoint("actions/secrets", Named, "Secrets: read", "secrets")
SHARED_SECRETS = Endpoint("actions/organization-secrets", Named, "Secrets: read", "secrets")
VARIABLES = Endpoint("actions/variables", Named, "Variables: read", "variables")
SHARED_VARIABLES = Endpoint("actions/organization-variables", Named, "Variables: read", "variables")
ENVIRONMENTS = Endpoint("environments", Environment, "Actions: read", "environments")
DEPLOYING = Endpoint("environments/{}/deployment-branch-policies", Named, "Actions: read", "branch_policies")
ENVIRONMENT_SECRETS = Endpoint("environments/{}/secrets", Named, "Environments: read", "secrets")
OWNERS_ERRORS = Endpoint("codeowners/errors", OwnersErrors, "Contents: read")
RULES = Endpoint("rules/branches/{}", Rule, _EVERYBODY)
BRANCH = Endpoint("branches/{}", Branch, "Contents: read")
PROTECTION = Endpoint("branches/{}/protection", Protection, _ADMIN)
RULESETS = Endpoint("rulesets", Ruleset, _EVERYBODY)
RULESET = Endpoint("rulesets/{}", Ruleset, _EVERYBODY)
RULESET_ACTORS = Endpoint("rulesets/{}", Ruleset, "Administration: write")
