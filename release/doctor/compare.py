"""Compares what GitHub answers with what is expected: a table of settings, and the rulesets in ``.github``."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from checks.process.text import redact
from release.doctor.check import want
from release.doctor.repository import Repository

_LONGEST = 200  # Characters of a value that are shown.


class Setting(NamedTuple):
    """The values that the answer at ``path`` must have. ``permission``: what a token needs to read them."""

    path: str
    permission: str
    expected: Mapping[str, object]
    fix: str

    def hold(self, repository: Repository) -> str:
        """Return what is in order. Raises Finding with every difference."""
        answer = repository.github.one(self.path, self.permission, *self.expected)
        wrong = differences(self.expected, answer)
        want(not wrong, "; ".join(wrong), self.fix)
        return ", ".join(f"{key}: {_shown(value)}" for key, value in self.expected.items())


def differences(expected: object, actual: object, key: str = "") -> list[str]:
    """List where ``actual`` is laxer than ``expected``. Keys that are not expected are ignored.

    A count may be larger. A list may have more items, but an empty one may not, and one of what is allowed may only
    have fewer.
    """
    if isinstance(expected, Mapping) and isinstance(actual, dict):
        path = f"{key}." if key else ""
        return [
            line
            for name, value in expected.items()
            for line in differences(value, actual.get(name), path + name)
        ]
    if isinstance(expected, list) and expected and isinstance(actual, list):
        if key.startswith("allowed_"):
            return [f"{key} has {_shown(item)}" for item in actual if item not in expected]
        lacking = [item for item in expected if all(differences(item, other) for other in actual)]
        return [f"{key} lacks {_shown(item)}" for item in lacking]
    if key.endswith("_count") and type(actual) is int and type(expected) is int:
        fine = actual >= expected
    else:
        fine = type(actual) is type(expected) and actual == expected
    return [] if fine else [f"{key} is {_shown(actual)}, not {_shown(expected)}"]


def laxer(
    expected: Mapping[str, Mapping[str, object]], actual: Iterable[Mapping[str, Any]]
) -> list[str]:
    """List where the rules that GitHub applies, of all rulesets together, are laxer than the expected rules.

    ``expected``: parameters by type of rule. What they leave off may be on.
    """
    wrong = []
    for kind, parameters in expected.items():
        applied = [rule.get("parameters") or {} for rule in actual if rule.get("type") == kind]
        if not applied:
            wrong.append(f"there is no rule {kind}")
            continue
        for key, value in parameters.items():
            compared = [differences({key: value}, other) for other in applied]
            if value is not False and all(compared):
                wrong += compared[0]
    return wrong


def _shown(value: object) -> str:
    return redact(json.dumps(value), _LONGEST)
