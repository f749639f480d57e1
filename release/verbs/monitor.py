"""monitor: writes the rules, their tests and the dashboard of an environment from the section monitor."""

import json
from pathlib import Path

from checks import files, layout, params_file, plain_yaml
from checks.errors import ParamsRefused
from release.monitoring import dashboard, rules

RULES, TESTS, DASHBOARD = "rules.yaml", "rules_test.yaml", "dashboard.json"


def write_rules(root: Path, environment: str, output: Path | None = None) -> tuple[Path, ...]:
    """Write the three files to ``output`` (default: reports/monitoring/ENV below ``root``); their paths.

    Raises ParamsRefused if there is no such environment, or an objective cannot be a rule.
    """
    params = params_file.load(root / layout.PARAMS)
    if environment not in params.promote.environments:
        raise ParamsRefused(
            f"{layout.PARAMS}: promote.environments has no {environment!r}",
            f"use one of {', '.join(params.promote.ordered)}",
        )
    folder = output or root / layout.MONITORING / environment
    made = {
        RULES: plain_yaml.dump(rules.rules(environment, params.monitor)),
        TESTS: plain_yaml.dump(rules.tests(environment, params.monitor, RULES)),
        DASHBOARD: json.dumps(dashboard.dashboard(environment, params.monitor), indent=2) + "\n",
    }
    for name, text in made.items():
        files.write_text(folder / name, text)
    return tuple(folder / name for name in made)
