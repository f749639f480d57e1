"""Sections of parameters: the pinned files among their values, and the contradictions that refuse them."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from checks.records.record import Consistent, problems
from checks.records.sections import Log, Section, sources_in


class Inner(Section):
    model: Log
    words: int = 1


class Outer(Section):
    file: Log
    log: Log | None = None
    logs: dict[str, Log]
    inner: Inner


def _log(name: str) -> Log:
    return Log(uri=name, sha256=None, license=None)


def test_the_pinned_files_of_a_section_are_named_by_the_paths_of_their_parameters_in_order() -> None:
    outer = Outer(file=_log("a"), logs={"main": _log("b"), "base": _log("c")}, inner=Inner(model=_log("d")))
    addresses = {path: source.uri for path, source in sources_in(outer).items()}
    assert list(addresses.items()) == [("file", "a"), ("logs.main", "b"), ("logs.base", "c"), ("inner.model", "d")]


class Shares(Consistent):
    one: float
    two: float

    def contradictions(self) -> Iterator[str]:
        return problems(
            (self.one + self.two > 1, f"they add up to {self.one + self.two:g}"), (self.one < 0, "one is below 0")
        )


def test_the_first_contradiction_refuses_a_value() -> None:
    assert Shares(one=0.5, two=0.5).one == 0.5
    with pytest.raises(ValidationError, match=r"Value error, they add up to 1\.5 "):
        Shares(one=0.75, two=0.75)
    with pytest.raises(ValidationError, match="Value error, one is below 0 "):
        Shares(one=-1, two=0)
