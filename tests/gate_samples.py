"""Samples of the kinds of gates. Each kind has one file of them, tests/checks/gates/KIND.yaml."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "checks" / "gates"


@dataclass(frozen=True)
class GateSample:
    """A gate as params.yaml has it, and what it must be told apart from.

    ``suite``: the suite that it names. ``weaker``, ``stronger`` and ``changed``: other values of its fields, which ask
    for less, for more, or for something else. ``says``: what its explanation names.
    """

    gate: dict[str, Any]
    says: list[str]
    suite: dict[str, Any] | None = None
    weaker: dict[str, Any] = field(default_factory=dict)
    stronger: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)


@functools.cache
def samples() -> dict[str, GateSample]:
    """Return all samples by the name of the gate."""
    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))]
    return {name: GateSample(**values) for document in documents for name, values in document.items()}


def gates() -> dict[str, dict[str, Any]]:
    """Return the section ``gates`` with every sample."""
    return {name: dict(sample.gate) for name, sample in samples().items()}


def suites() -> dict[str, dict[str, Any]]:
    """Return the suites that the gates name."""
    return {sample.gate["suite"]: sample.suite for sample in samples().values() if sample.suite}
