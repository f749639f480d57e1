"""Fills the YAML templates of this package: rules, their tests, the dashboard, the kustomize component.

Placeholders are written ``<< name >>`` and statements ``<% if … %>``, because Grafana and Prometheus use ``{{ … }}``.
Text that may hold any character goes through the filter ``quoted``.
"""

import json
from typing import Any

from checks.process import distribution
from checks.storage import plain_yaml


def fill(name: str, **values: object) -> dict[str, Any]:
    """Return the plain value of the template ``name`` with ``values``. The same values give the same result."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701  # It writes YAML, not HTML.
        loader=PackageLoader("release.monitoring", "."),
        undefined=StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quoted"] = _quoted
    filled: dict[str, Any] = plain_yaml.load(
        distribution.linked(environment.get_template(name).render(values))
    )
    return filled


def _quoted(value: object) -> str:
    """Write ``value`` as JSON, which YAML reads too if every character that cannot be printed is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(
        character if character.isprintable() else f"\\U{ord(character):08x}" for character in text
    )
