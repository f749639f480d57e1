"""Checks that GitHub applies the rulesets of ``.github``, and that the token of promotions bypasses them.

A thin repository has no such files: then Lockstep's own, which come with the wheel, are compared.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from release.doctor.check import Finding, Unseen, Wanted, want
from release.doctor.github import hidden, odd, parsed, quoted, shown
from release.doctor.repository import CONTENTS, EVERYBODY, Repository, Setting, laxer
from release.record.looks_branch import BRANCH

MAIN, TAGS, EVIDENCE = (
    Path(".github") / f"ruleset{which}.json" for which in ("", "-tags", "-evidence")
)
_FILES = Path(__file__).with_name("files")
_NEW = "gh api repos/{owner}/{repo}/rulesets --input"
_WRITE = "Administration: write"  # The list of those who bypass a ruleset is shown to those who may change it.
# Roles of a repository, by their number.
_EVERYBODY = {4: "everybody who may write", 2: "every maintainer"}


class Shipped(NamedTuple):
    """The expected ruleset. ``rules``: parameters by type; ``names``: patterns of the names that it is for."""

    file: Path
    rules: dict[str, dict[str, Any]]
    names: set[str]


def _shipped(repository: Repository, file: Path) -> Shipped:
    """Return a ruleset of the target branch, or Lockstep's own. Raises Finding if it is not JSON."""
    data = repository.target.read_shared(file)
    if data is None:
        file = _FILES / file.name
        data = file.read_bytes()
    try:
        ruleset = json.loads(data)
        rules = {rule["type"]: rule.get("parameters", {}) for rule in ruleset["rules"]}
        return Shipped(file, rules, set(ruleset["conditions"]["ref_name"]["include"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Finding(f"{file} is not a ruleset", f"git restore {file}, commit, push") from None


def _branch(file: Path, branch: str | None, repository: Repository) -> str:
    """Compare the rules of a branch. GitHub also has rules for a branch that does not exist yet."""
    name = branch or repository.branch
    applied = repository.github.every(f"rules/branches/{quoted(name)}", EVERYBODY)
    shipped = _shipped(repository, file)
    wrong = laxer(shipped.rules, applied)
    want(not wrong, f"{shown(name)}: {'; '.join(wrong)}", f"{_NEW} {shipped.file}")
    return f"{shown(name)} has the rules of {file.name}"


def _tags(repository: Repository) -> str:
    """Compare the rulesets of tags, which GitHub does not evaluate for a name as it does for branches."""
    shipped, names = _shipped(repository, TAGS), set[str]()
    for listed in repository.github.every("rulesets", EVERYBODY):
        if (listed.get("target"), listed.get("enforcement")) != ("tag", "active"):
            continue
        ruleset = repository.github.one(
            f"rulesets/{quoted(listed.get('id'))}", EVERYBODY, "rules", "conditions"
        )
        try:
            condition = ruleset["conditions"]["ref_name"]
            if not condition["exclude"] and not laxer(shipped.rules, ruleset["rules"]):
                names.update(condition["include"])
        except (LookupError, TypeError, AttributeError):
            raise odd("rulesets") from None
    want(
        "~ALL" in names or names >= shipped.names,
        "anybody who may push can make them, and take the names of releases",
        f"{_NEW} {shipped.file}",
    )
    return "made, moved and deleted by those who pass the ruleset alone"


def _bypass(repository: Repository) -> str:
    """Require few accounts to bypass the rules. One must: whoever moves environments commits to the branch directly."""
    applied = repository.github.every(f"rules/branches/{quoted(repository.branch)}", EVERYBODY)
    stopping = [
        rule for rule in applied if rule.get("type") in ("pull_request", "required_status_checks")
    ]
    want(stopping, "no rule applies, so anybody can push", f"{_NEW} {MAIN}")
    numbers = sorted({str(rule.get("ruleset_id")) for rule in stopping})
    names = [name for number in numbers for name in _passing(repository, number)]
    return ", ".join(dict.fromkeys(names))


def _passing(repository: Repository, number: str) -> list[str]:
    """Return who always bypasses one ruleset."""
    if not number.isdigit():
        raise Unseen("a rule names no ruleset", "look at it in the repository's settings")
    path = f"rulesets/{number}"
    listed = repository.github.one(path, _WRITE).get("bypass_actors")
    if listed is None:
        raise hidden(_WRITE)
    actors = parsed(list[dict[str, Any]], listed, path)
    fix = (
        "let the owner of LOCKSTEP_TOKEN bypass the ruleset, and nobody else: docs/how-to/github.md"
    )
    always = [actor for actor in actors if actor.get("bypass_mode") != "pull_request"]
    tokens = [actor for actor in always if actor.get("actor_type") != "DeployKey"]
    want(tokens, f"no token passes the ruleset {number}: no promotion can be pushed", fix)
    for actor in always:
        if actor.get("actor_type") == "RepositoryRole" and actor.get("actor_id") in _EVERYBODY:
            raise Finding(f"{_EVERYBODY[actor['actor_id']]} passes the ruleset {number}", fix)
    return [
        shown(f"{actor.get('actor_type')} {actor.get('actor_id') or ''}").strip()
        for actor in always
    ]


def _older(repository: Repository) -> str:
    """Refuse the older protection of the branch, which would stop promotions beside a ruleset."""
    path = f"branches/{quoted(repository.branch)}"
    Setting(
        path,
        CONTENTS,
        {"protection": {"enabled": False}},
        f"gh api -X DELETE repos/{{owner}}/{{repo}}/{path}/protection, once the ruleset is there",
    ).hold(repository)
    return "none"


_MERGING, _MOVING = ("merging",), ("release.yml", "promote.yml")
WANTED = (
    Wanted("rules of main", _MERGING, partial(_branch, MAIN, None)),
    Wanted("counted looks", _MERGING, partial(_branch, EVIDENCE, BRANCH)),
    Wanted("ruleset bypass", _MOVING, _bypass),
    Wanted("older protection", _MOVING, _older),
    Wanted("release tags", _MOVING, _tags),
)
