"""Writes a value as YAML on one line."""

from typing import Any

import yaml


def inline(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
