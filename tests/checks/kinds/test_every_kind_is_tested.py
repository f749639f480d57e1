"""A kind without a test of its own fails: it has a sample beside the tests of its package, or a test that names it."""

import functools
import importlib
import pkgutil
import re

import pytest

from checks import kinds
from checks.kinds.registry import Registry
from tests.conftest import REPOSITORY

TESTS = REPOSITORY / "tests"
# Folders with one sample of each kind, and a test that goes through all of them.
SAMPLES = {"lockstep.gates": "checks/gates", "lockstep.rules": "checks/rules", "lockstep.scorers": "checks/scorers"}


def registries() -> list[Registry]:
    """Return the registries of the interfaces in checks/kinds."""
    modules = [
        importlib.import_module(f"checks.kinds.{module.name}") for module in pkgutil.iter_modules(kinds.__path__)
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Registry)]


@functools.cache
def texts() -> str:
    """Return the text of all tests of checks and stages."""
    paths = (path for layer in ("checks", "stages") for path in (TESTS / layer).rglob("test_*.py"))
    return "\n".join(path.read_text() for path in paths)


@pytest.mark.parametrize("registry", registries(), ids=lambda registry: registry.group)
def test_every_kind_has_a_sample_or_a_test_that_names_it(registry: Registry) -> None:
    names = registry.kinds.keys() - registry.outside.keys()
    if folder := SAMPLES.get(registry.group):
        assert {path.stem.replace("_", "-") for path in (TESTS / folder).glob("*.yaml")} == {
            name.replace("_", "-") for name in names
        }
    else:
        assert {name for name in names if not re.search(rf"""["']{name}["']""", texts())} == set()


def test_every_scheme_of_a_source_is_named_by_a_test() -> None:
    schemes = {path.stem for path in (REPOSITORY / "stages/sources/schemes").glob("[a-z]*.py")}
    assert len(schemes) > 5
    assert {name for name in schemes - {"url"} if not re.search(rf"""["'](file/)?{name}(://|["'])""", texts())} == set()
