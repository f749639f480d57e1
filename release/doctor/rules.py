"""What protects the branch that releases are made on: rulesets, which every reader may ask for, or the older
protection of a branch, which administrators may.

Each question is answered by the rulesets, else by the protection; where that could not be seen, the answer is unknown.
"""

from collections.abc import Callable
from typing import Any

from release.doctor.asking import Asker, Unseen, flag, items, part, seen, segment, shown, word
from release.doctor.check import Check, Line

CHECK = "lockstep"  # the name of the one required check
ACTIONS = 15368  # GitHub Actions as an app, on github.com
_JOBS = ("merging",)
_RULESET = "gh api repos/{owner}/{repo}/rulesets --input .github/ruleset.json"
_EVERYBODY = {4: "everybody who may write", 2: "every maintainer"}  # roles of a repository, by their number
_LINES = {
    "check": Line("required check", _JOBS),
    "review": Line("code owners", _JOBS),
    "rebase": Line("merge methods", _JOBS),
    "force": Line("force pushes", _JOBS),
    "deletion": Line("deletion", _JOBS),
    "bypass": Line("ruleset bypass", ("release.yml", "promote.yml")),
    "tags": Line("release tags", ("release.yml", "promote.yml")),
}
_TAGS = "gh api repos/{owner}/{repo}/rulesets --input .github/ruleset-tags.json"
_OF_RELEASES = {"refs/tags/*@v*", "refs/tags/*#*"}  # as Lockstep writes them


class Protection:
    """The rules of one branch, asked for as far as needed. ``app`` None: any one app may be the required check's."""

    def __init__(self, ask: Asker, branch: str, repository: dict[str, Any], app: int | None = ACTIONS) -> None:
        self._ask = ask
        self._branch = branch
        self._repository = repository
        self._app = app

    def checks(self) -> list[Check]:
        questions: dict[str, Callable[[Line], Check]] = {
            "check": self._required,
            "review": self._review,
            "rebase": self._rebase,
            "force": lambda line: self._forbidden(line, "non_fast_forward", "allow_force_pushes", "force pushes"),
            "deletion": lambda line: self._forbidden(line, "deletion", "allow_deletions", "deleting it"),
            "bypass": self._bypass,
            "tags": self._tags,
        }
        return [seen(_LINES[name], question) for name, question in questions.items()]

    def _required(self, line: Line) -> Check:
        wrong, named = f"`{CHECK}` is not required", False
        for rule in self._of("required_status_checks"):
            for each in items(rule, "required_status_checks"):
                if each.get("context") == CHECK:
                    strict = flag(rule, "strict_required_status_checks_policy")
                    if not (wrong := self._lax(each.get("integration_id"), strict)):
                        return line.ok(f"`{CHECK}`, set by GitHub Actions, on branches that are up to date")
                    named = True
        if named:
            return line.missing(wrong, _RULESET)
        needed = part(self._protection(), "required_status_checks")
        for each in items(needed, "checks") if needed else []:
            if each.get("context") == CHECK and not (wrong := self._lax(each.get("app_id"), flag(needed, "strict"))):
                return line.ok(f"`{CHECK}`, set by GitHub Actions, on branches that are up to date")
        return line.missing(wrong, _RULESET)

    def _lax(self, app: object, strict: bool) -> str:
        """What is wrong with a required check; nothing when it is empty."""
        if not isinstance(app, int) or app < 1:
            return f"`{CHECK}` may be set by anybody who may write statuses"
        if self._app is not None and app != self._app:
            return f"`{CHECK}` is bound to the app {app}, and GitHub Actions is {self._app}"
        return "" if strict else "a branch that is not up to date may be merged: what lands was not judged"

    def _review(self, line: Line) -> Check:
        if any(flag(rule, "require_code_owner_review") for rule in self._of("pull_request")):
            return line.ok("their review is required")
        reviews = part(self._protection(), "required_pull_request_reviews")
        if reviews and flag(reviews, "require_code_owner_reviews"):
            return line.ok("their review is required")
        return line.missing("their review is not required", _RULESET)

    def _rebase(self, line: Line) -> Check:
        for rule in self._of("pull_request"):
            allowed = rule.get("allowed_merge_methods")
            if isinstance(allowed, list) and allowed and "rebase" not in allowed:
                return line.ok(", ".join(shown(str(method)) for method in allowed[:3]))
        allowed = self._repository.get("allow_rebase_merge")
        if allowed is False:
            return line.ok("no rebase merges in this repository")
        if allowed is None:
            raise Unseen("needs a token with Administration: read", "ask as an administrator (gh auth login)")
        return line.missing(
            "rebase merges put commits on the branch that nobody judged", "gh repo edit --enable-rebase-merge=false"
        )

    def _forbidden(self, line: Line, rule: str, older: str, what: str) -> Check:
        if any(word(each, "type") == rule for each in self._all()):
            return line.ok(f"{what}: forbidden")
        protection = self._protection()
        if protection and not flag(part(protection, older) or {"enabled": True}, "enabled"):
            return line.ok(f"{what}: forbidden")
        return line.missing(f"{what}: allowed", _RULESET)

    def _bypass(self, line: Line) -> Check:
        """Who moves an environment commits to the branch itself, so somebody must be let past the rules: few."""
        mend = "let the owner of LOCKSTEP_TOKEN bypass the ruleset, and nobody else: docs/how-to/github.md"
        stopping = [each for each in self._all() if each.get("type") in ("pull_request", "required_status_checks")]
        numbers = {each.get("ruleset_id") for each in stopping}
        if not numbers:
            protection = self._protection()
            if not protection:
                return line.missing("no rule stands in the way, so everybody passes", _RULESET)
            if flag(part(protection, "enforce_admins"), "enabled"):
                return line.missing("the branch's protection stops everybody, promotions too", _RULESET)
            return line.ok("administrators")
        names: list[str] = []
        for number in sorted(numbers, key=str):
            if not isinstance(number, int):
                raise Unseen("a rule names no ruleset", "look at it in the repository's settings")
            ruleset = self._ask.one(f"rulesets/{number}", "Administration: write")
            if "bypass_actors" not in ruleset:
                raise Unseen("needs a token with Administration: write", "ask as an administrator (gh auth login)")
            always = [each for each in items(ruleset, "bypass_actors") if each.get("bypass_mode") != "pull_request"]
            if all(each.get("actor_type") == "DeployKey" for each in always):  # also where there are none
                return line.missing(f"no token passes the ruleset {number}: no promotion can be pushed", mend)
            for each in always:
                role = each.get("actor_id") if each.get("actor_type") == "RepositoryRole" else None
                if role in _EVERYBODY:
                    return line.missing(f"{_EVERYBODY[role]} passes the ruleset {number}", mend)
            names += [shown(f"{each.get('actor_type')} {each.get('actor_id') or ''}").strip() for each in always]
        older = self._protection()
        if older.get("required_pull_request_reviews") or older.get("required_status_checks"):
            delete = f"gh api -X DELETE repos/{{owner}}/{{repo}}/branches/{shown(self._branch)}/protection"
            return line.missing("the branch's older protection stops promotions too", delete)
        return line.ok(", ".join(dict.fromkeys(names)))

    def _tags(self, line: Line) -> Check:
        """Who makes tags in the names of releases. No move waits for one; `gto` and people read them."""
        names = set[str]()
        for each in self._ask.listed("rulesets", "Metadata: read"):
            if each.get("target") != "tag" or each.get("enforcement") != "active":
                continue
            found = self._ask.one(f"rulesets/{each.get('id')}", "Metadata: read")
            kinds = {word(rule, "type") for rule in items(found, "rules")}
            condition = part(part(found, "conditions"), "ref_name")
            if {"creation", "update", "deletion"} <= kinds and not condition.get("exclude"):
                names |= {str(name) for name in condition.get("include") or ()}
        if "~ALL" in names or names >= _OF_RELEASES:
            return line.ok("made, moved and deleted by those who pass the ruleset alone")
        return line.missing("anybody who may push can make them, and take the names of releases", _TAGS)

    def _of(self, kind: str) -> list[dict[str, Any]]:
        """The parameters of all rules of a kind."""
        return [part(each, "parameters") for each in self._all() if word(each, "type") == kind]

    def _all(self) -> list[dict[str, Any]]:
        return self._ask.listed(f"rules/branches/{segment(self._branch)}", "Metadata: read")

    def _protection(self) -> dict[str, Any]:
        """The older protection; empty where there is none. Raises Unseen where that is not known."""
        branch = f"branches/{segment(self._branch)}"
        if part(self._ask.one(branch, "Contents: read"), "protection").get("enabled") is False:
            return {}
        try:
            return self._ask.one(f"{branch}/protection", "Administration: read")
        except Unseen as unseen:
            if unseen.absent and "Branch not protected" in unseen.said:
                return {}
            raise
