"""Refusals: every one has a code of its own, and the documentation lists it."""

import re

from checks.process import errors
from checks.process.errors import Refusal
from tests.conftest import REPOSITORY


def _refusals() -> list[type[Refusal]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Refusal) and c is not Refusal]


def test_exit_codes_are_unique_and_leave_bugs_and_signals_alone() -> None:
    codes = [refusal.exit_code for refusal in _refusals()]
    assert len(set(codes)) == len(codes)
    assert all(2 <= code < 64 for code in codes)


def test_the_documentation_lists_exactly_these_codes() -> None:
    text = (REPOSITORY / "docs/reference/exit-codes.md").read_text()
    listed = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)}
    assert listed == {refusal.__name__: refusal.exit_code for refusal in _refusals()}


def test_a_refusal_reads_as_one_line_with_problem_and_remedy() -> None:
    assert str(errors.DataRefused("test.jsonl:3: no reference", "add one")) == "test.jsonl:3: no reference; add one"
