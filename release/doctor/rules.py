"""Checks of the protection of the default branch, of tags, and of the branch with the looks at test splits.

They use rulesets, which every reader may see, else the older branch protection, which administrators may see. If
neither can be read, the result is unknown.
"""

from functools import partial

from release.doctor import answers
from release.doctor.answers import Protection, PullRequests, RequiredChecks, Rule
from release.doctor.case import Case
from release.doctor.check import Finding, Unseen, Wanted, want
from release.doctor.github import Model, needs, parsed, shown
from release.record.looks_branch import BRANCH

CHECK = "lockstep"  # the name of the one required check
ACTIONS = 15368  # GitHub Actions as an app, on github.com
_NEW = "gh api repos/{owner}/{repo}/rulesets --input .github/"
_RULESET, _TAGS, _EVIDENCE = (f"{_NEW}ruleset{which}.json" for which in ("", "-tags", "-evidence"))
_EVERYBODY = {4: "everybody who may write", 2: "every maintainer"}  # roles of a repository, by their number
_OF_RELEASES = {"refs/tags/*@v*", "refs/tags/*#*"}  # as Lockstep writes them


def _required(case: Case) -> str:
    """The required check of the rulesets, else of the older protection. If all are too lax, the last one is named."""
    found = _lax(case, _parameters(case, "required_status_checks", RequiredChecks))
    if not found and (older := _protection(case)) and older.required_status_checks:
        found = _lax(case, [older.required_status_checks])
    want(found, f"`{CHECK}` is not required", _RULESET)
    want("" in found, found[-1], _RULESET)
    return f"`{CHECK}`, set by GitHub Actions, on branches that are up to date"


def _lax(case: Case, required: list[RequiredChecks]) -> list[str]:
    """What is wrong with each required check of our name; an empty text if nothing is."""
    found = []
    for app, strict in (
        (check.app, each.strict) for each in required for check in each.checks if check.context == CHECK
    ):
        if app is None or app < 1:
            found.append(f"`{CHECK}` may be set by anybody who may write statuses")
        elif case.public and app != ACTIONS:
            found.append(f"`{CHECK}` is bound to the app {app}, and GitHub Actions is {ACTIONS}")
        else:
            found.append("" if strict else "a branch that is not up to date can be merged: the result was not judged")
    return found


def _review(case: Case) -> str:
    if not any(rule.code_owners for rule in _parameters(case, "pull_request", PullRequests)):
        reviews = (_protection(case) or Protection()).required_pull_request_reviews
        want(reviews and reviews.code_owners, "their review is not required", _RULESET)
    return "their review is required"


def _rebase(case: Case) -> str:
    for rule in _parameters(case, "pull_request", PullRequests):
        if (methods := rule.allowed_merge_methods) and "rebase" not in methods:
            return ", ".join(map(shown, methods[:3]))
    if case.about.allow_rebase_merge is None:
        raise Unseen(*needs("Administration: read"))
    fix = "gh repo edit --enable-rebase-merge=false"
    want(not case.about.allow_rebase_merge, "rebase merges add commits to the branch that nobody judged", fix)
    return "no rebase merges in this repository"


def _forbidden(rule: str, older: str, what: str, case: Case) -> str:
    if not any(each.type == rule for each in _rules(case)):
        want(getattr(_protection(case), older, None) is False, f"{what}: allowed", _RULESET)
    return f"{what}: forbidden"


def _bypass(case: Case) -> str:
    """Whoever moves environments commits to the branch directly, so someone must bypass the rules: few accounts."""
    numbers = {each.ruleset_id for each in _rules(case) if each.type in ("pull_request", "required_status_checks")}
    if not numbers:
        older = want(_protection(case), "no rule applies, so anybody can push", _RULESET)
        if older.admins is None:
            raise Unseen(*needs("Administration: read"))
        want(not older.admins, "the branch's protection stops everybody, promotions too", _RULESET)
        return "administrators"
    names = [name for number in sorted(numbers, key=str) for name in _passing(case, number)]
    older = _protection(case) or Protection()
    fix = f"gh api -X DELETE repos/{{owner}}/{{repo}}/branches/{shown(case.branch)}/protection"
    stops = older.required_pull_request_reviews or older.required_status_checks
    want(not stops, "the branch's older protection stops promotions too", fix)
    return ", ".join(dict.fromkeys(names))


def _passing(case: Case, number: int | None) -> list[str]:
    """Who always bypasses one ruleset."""
    if number is None:
        raise Unseen("a rule names no ruleset", "look at it in the repository's settings")
    actors = case.github.one(answers.RULESET_ACTORS, number).bypass_actors
    if actors is None:
        raise Unseen(*needs("Administration: write"))
    fix = "let the owner of LOCKSTEP_TOKEN bypass the ruleset, and nobody else: docs/how-to/github.md"
    always = [each for each in actors if each.bypass_mode != "pull_request"]
    tokens = [each for each in always if each.actor_type != "DeployKey"]
    want(tokens, f"no token passes the ruleset {number}: no promotion can be pushed", fix)
    for each in always:
        if each.actor_type == "RepositoryRole" and each.actor_id in _EVERYBODY:
            raise Finding(f"{_EVERYBODY[each.actor_id]} passes the ruleset {number}", fix)
    return [shown(f"{each.actor_type} {each.actor_id or ''}").strip() for each in always]


def _tags(case: Case) -> str:
    """Who creates tags with the names of releases. No move waits for a tag; `gto` and people read them."""
    names = set[str]()
    for each in case.github.every(answers.RULESETS):
        if (each.target, each.enforcement) == ("tag", "active"):
            found = case.github.one(answers.RULESET, each.id)
            if {"creation", "update", "deletion"} <= {rule.type for rule in found.rules} and not found.exclude:
                names.update(found.include)
    safe = "~ALL" in names or names >= _OF_RELEASES
    want(safe, "anybody who may push can make them, and take the names of releases", _TAGS)
    return "made, moved and deleted by those who pass the ruleset alone"


def _looks(case: Case) -> str:
    """Whether looks at a test split can be taken back. GitHub also has rules for a branch that does not exist yet."""
    kinds = {rule.type for rule in case.github.every(answers.RULES, BRANCH)}
    want(
        {"deletion", "non_fast_forward"} <= kinds,
        f"`{BRANCH}` can be deleted or rewritten: looks would be lost",
        _EVIDENCE,
    )
    return f"`{BRANCH}`: no force push, no deletion"


def _rules(case: Case) -> list[Rule]:
    """The rules that rulesets have for the default branch."""
    return case.github.every(answers.RULES, case.branch)


def _parameters(case: Case, kind: str, model: type[Model]) -> list[Model]:
    """The parameters of all rules of one kind."""
    found = [rule.parameters or {} for rule in _rules(case) if rule.type == kind]
    return [parsed(model, parameters, f"rule {kind}") for parameters in found]


def _protection(case: Case) -> Protection | None:
    """The older protection of the default branch; None if it has none. Raises Unseen if it cannot be read."""
    if case.github.one(answers.BRANCH, case.branch).protected is False:
        return None
    try:
        return case.github.one(answers.PROTECTION, case.branch)
    except Unseen as unseen:
        if "Branch not protected" in unseen.said:
            return None
        raise


_MERGING, _MOVING = ("merging",), ("release.yml", "promote.yml")
WANTED = (
    Wanted("required check", _MERGING, _required),
    Wanted("code owners", _MERGING, _review),
    Wanted("merge methods", _MERGING, _rebase),
    Wanted("force pushes", _MERGING, partial(_forbidden, "non_fast_forward", "force_pushes", "force pushes")),
    Wanted("deletion", _MERGING, partial(_forbidden, "deletion", "deletions", "deleting it")),
    Wanted("counted looks", _MERGING, _looks),
    Wanted("ruleset bypass", _MOVING, _bypass),
    Wanted("release tags", _MOVING, _tags),
)
