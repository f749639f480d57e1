"""Reads fields of objects of a cluster, which may be missing or of another type. Pure functions."""

from collections.abc import Mapping
from typing import Any


def at(item: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at ``path``; empty if there is none."""
    for key in path:
        value = item.get(key)
        if not isinstance(value, Mapping):
            return {}
        item = value
    return item


def dicts(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The mappings in the list at ``key``; empty if there is none."""
    listed = value.get(key)
    return (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )


def called(item: Mapping[str, Any]) -> str:
    """An object's kind and name."""
    return f"{item.get('kind')} {at(item, 'metadata').get('name')}"
