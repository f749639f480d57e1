"""Places figures on a line: the one renderer of the pictures of scores on pages. parts.html.jinja draws a bar."""

from collections.abc import Sequence
from typing import NamedTuple

from release.pages.figures import signed

_ROOM = 0.06  # This share of the line stays free at both ends.
Figure = tuple[float, float, float]  # A value, and the low and the high end of its interval.


class Bar(NamedTuple):
    """Places from 0 to 100. ``low`` and ``high``: the ends of what is drawn to the left and right of ``value``.

    ``passes``: from where to where a value passes; None where that is not known. ``words``: the same in words.
    ``before``: the place of the earlier model's score. ``ends``: the figures at both ends of the line, as text.
    """

    value: float
    low: float
    high: float
    bound: float
    passes: tuple[float, float] | None
    words: str
    before: float | None = None
    ends: tuple[str, ...] = ()


class Line(NamedTuple):
    """A line from the figure ``left`` to the figure ``right``, on which bars lie."""

    left: float
    right: float

    @classmethod
    def over(cls, figures: Sequence[float]) -> "Line":
        """Return a line on which all figures have a place, with some room at both ends."""
        left, right = min(figures), max(figures)
        room = (right - left or abs(right) or 1.0) * _ROOM / (1 - 2 * _ROOM)
        return cls(left - room, right + room)

    def place(self, figure: float) -> float:
        """Return where a figure lies, from 0 to 100."""
        return 100 * (figure - self.left) / (self.right - self.left)

    def bar(
        self, figure: Figure, bound: float, words: str, passed: bool = False, before: float | None = None,
        how: str = "",
    ) -> Bar:  # fmt: skip
        """Return the bar of a figure beside ``bound``; ``how`` is the format of the figures at the line's ends."""
        value, low, high = map(self.place, figure)
        at, earlier = self.place(bound), None if before is None else self.place(before)
        passes = None
        if passed and figure[0] != bound:
            passes = (at, 100.0) if figure[0] > bound else (0.0, at)
        ends = (signed(self.left, how), signed(self.right, how)) if how else ()
        return Bar(value, low, high, at, passes, words, earlier, ends)
