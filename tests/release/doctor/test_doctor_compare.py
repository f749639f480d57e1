"""What `doctor --github` compares: an answer of GitHub, and the rules that apply, with what is expected."""

import copy
import json
from typing import Any

import pytest

from release.doctor import rulesets
from release.doctor.repository import differences, laxer
from tests.conftest import REPOSITORY

SHIPPED: list[dict[str, Any]] = json.loads((REPOSITORY / rulesets.MAIN).read_text())["rules"]
EXPECTED = {rule["type"]: rule.get("parameters", {}) for rule in SHIPPED}


@pytest.mark.parametrize(
    ("expected", "actual", "found"),
    [
        ({"a": True}, {"a": True, "b": 1}, []),
        ({"a": True, "b": "x"}, {"a": False, "b": "y"}, ["a is false, not true", 'b is "y", not "x"']),
        ({"a": False}, {"a": 0}, ["a is 0, not false"]),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, ["a.b is 2, not 1"]),
        ({"a": {"b": 1}}, {"a": None}, ['a is null, not {"b": 1}']),
        ({"a": None}, {"a": {"b": 1}}, ['a is {"b": 1}, not null']),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}, {"b": 1, "c": 2}]}, []),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ['a lacks {"b": 1}']),
        ({"a": []}, {"a": [{"b": 1}]}, ['a is [{"b": 1}], not []']),
        ({"n_count": 1}, {"n_count": 2}, []),
        ({"n_count": 1}, {"n_count": 0}, ["n_count is 0, not 1"]),
        ({"n_count": 1}, {"n_count": True}, ["n_count is true, not 1"]),
        ({"allowed_x": ["a", "b"]}, {"allowed_x": ["b"]}, []),
        ({"allowed_x": ["a"]}, {"allowed_x": ["a", "c"]}, ['allowed_x has "c"']),
        ({"allowed_x": ["a"]}, {}, ['allowed_x is null, not ["a"]']),
    ],
)
def test_every_value_that_is_laxer_than_expected_is_named(
    expected: dict[str, Any], actual: dict[str, Any], found: list[str]
) -> None:
    assert differences(expected, actual) == found


# Which parameter of which rule is changed to what, and the difference; a rule that is taken away has no parameter.
CHANGES: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "no check": ("required_status_checks", None, "there is no rule required_status_checks"),
    "a check of anybody": (
        "required_status_checks",
        {"required_status_checks": [{"context": "lockstep"}]},
        "required_status_checks lacks",
    ),
    "a check of another app": (
        "required_status_checks",
        {"required_status_checks": [{"context": "lockstep", "integration_id": 7}]},
        "required_status_checks lacks",
    ),
    "branches that are behind": (
        "required_status_checks",
        {"strict_required_status_checks_policy": False},
        "strict_required_status_checks_policy is false, not true",
    ),
    "no code owners": ("pull_request", {"require_code_owner_review": False}, "require_code_owner_review is false"),
    "no approval": ("pull_request", {"required_approving_review_count": 0}, "required_approving_review_count is 0"),
    "stale approvals": ("pull_request", {"dismiss_stale_reviews_on_push": False}, "dismiss_stale_reviews_on_push is"),
    "rebase merges": ("pull_request", {"allowed_merge_methods": ["rebase"]}, 'allowed_merge_methods has "rebase"'),
    "force pushes": ("non_fast_forward", None, "there is no rule non_fast_forward"),
    "deletion": ("deletion", None, "there is no rule deletion"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_rules_that_are_laxer_than_the_shipped_ones_are_named(what: str) -> None:
    kind, change, text = CHANGES[what]
    rules = copy.deepcopy(SHIPPED)
    changed = next(rule for rule in rules if rule["type"] == kind)
    if change is None:
        rules.remove(changed)
    else:
        changed["parameters"].update(change)
    (found,) = laxer(EXPECTED, rules)
    assert found.startswith(text)


def test_rules_of_several_rulesets_count_together_and_may_be_stricter() -> None:
    stricter: dict[str, Any] = {
        "required_approving_review_count": 2,
        "require_last_push_approval": True,
        "require_code_owner_review": False,
        "allowed_merge_methods": ["squash"],
    }
    owners = {"type": "pull_request", "parameters": {"require_code_owner_review": True}}
    rules = copy.deepcopy(SHIPPED)
    next(rule for rule in rules if rule["type"] == "pull_request")["parameters"].update(stricter)
    assert laxer(EXPECTED, [*rules, owners, {"type": "pull_request"}]) == []
    assert laxer(EXPECTED, rules) == ["require_code_owner_review is false, not true"]
