"""Shows how many test rows a margin needs, before `init` asks for the margin."""

import math

from checks.config import starting

_MARGINS = (0.02, 0.05, 0.1, 0.15)
_LOOKS = (1, 5, 20)
_HEAD = (
    "A new model passes if the test rows show that it loses less than the margin.",
    "Test rows for that, by how many models one test split may judge (--looks):",
)


def table(rows: int, looks: int) -> str:
    """Return the needed test rows by margin and number of models, and the margins that a file of ``rows`` rows gives.

    ``looks``: how many models one test split may judge. Each needs more rows, because it gets that part of the error.
    The rows are those of ``starting.rows_needed``.
    """
    judged = sorted({*_LOOKS, looks})
    test = math.floor(rows * starting.MOST_TEST)
    lines = [_line("margin", [f"{number} model{'s' * (number != 1)}" for number in judged])]
    for margin in _MARGINS:
        needed = [f"{starting.rows_needed(margin, number):,}" for number in judged]
        lines.append(_line(_points(margin), needed))
    smallest = [starting.margin_of(test, number) for number in judged]
    lines.append(_line(f"your {test:,} rows", [_points(margin) for margin in smallest]))
    return "\n".join((*_HEAD, *lines))


def _line(name: str, cells: list[str]) -> str:
    return f"  {name:<16}" + "".join(f"{cell:>11}" for cell in cells)


def _points(margin: float | None) -> str:
    return "none" if margin is None else f"{100 * margin:.0f} points"
