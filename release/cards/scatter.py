"""Where the points of ``trade`` lie in a picture: places in hundredths of its width and height."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from release.cards.trade import Far, Point, Trade

_LEFT, _RIGHT, _TOP, _BOTTOM = 14.0, 96.0, 4.0, 86.0  # of the frame; around it are the numbers
_ROOM = 0.08  # of the frame, left free at each end
_LETTER, _LINE = 2.2, 5.5  # a letter's width and a name's height on a phone, with what is around it


class Tick(NamedTuple):
    """A number beside the frame."""

    at: float
    said: str


class Mark(NamedTuple):
    """A release. ``wide`` and ``tall``: the ends of its intervals; None: there is none.

    ``named``: on which side of the point its name begins or ends; None: there is no room for it.
    """

    point: Point
    x: float
    y: float
    wide: tuple[float, float] | None
    tall: tuple[float, float] | None
    named: Literal["start", "end"] | None


class Picture(NamedTuple):
    """All that is drawn. ``zero``: where no change and no gain are, if they are in the frame.

    ``joins``: lines from release to release, as x, y, x, y. ``said``: the same in words.
    """

    frame: tuple[float, float, float, float]
    zero: tuple[float | None, float | None]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    joins: tuple[tuple[float, float, float, float], ...]
    said: str


def of(trade: Trade) -> Picture:
    """The picture of a suite with at least one point."""
    across, up = _Axis([point.change for point in trade.points]), _Axis([point.gain for point in trade.points])

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * across.share(value)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * up.share(value)

    taken, marks = list[tuple[float, float, float]](), list[Mark]()
    for point in trade.points:
        place = x(point.change.value), y(point.gain.value)
        named = _side(point.version, *place, taken)
        marks.append(Mark(point, *place, _ends(point.change, x), _ends(point.gain, y), named))
    joins = tuple((a.x, a.y, b.x, b.y) for a, b in pairwise(mark for mark in marks if not mark.point.why))
    comparable = sum(not point.why for point in trade.points)
    words = (
        f"{len(trade.points)} releases, {comparable} of them comparable; change in {trade.task} on the test rows, "
        f"and change in {trade.metric} of {trade.suite}. The table below has the figures."
    )
    zero = x(0.0) if across.has(0.0) else None, y(0.0) if up.has(0.0) else None
    return Picture(
        (_LEFT, _TOP, _RIGHT - _LEFT, _BOTTOM - _TOP), zero,
        tuple(Tick(x(value), label) for value, label in across.ticks()),
        tuple(Tick(y(value), label) for value, label in up.ticks()), tuple(marks), joins, words,
    )  # fmt: skip


def _ends(far: Far, place: Callable[[float], float]) -> tuple[float, float] | None:
    return None if far.low is None or far.high is None else (place(far.low), place(far.high))


def _side(name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> Literal["start", "end"] | None:
    """Where a name fits beside those that are ``taken``, which it joins: left and right end, and height."""
    wide = _LETTER * len(name) + 3
    sides: tuple[tuple[Literal["start", "end"], float], ...] = ("start", x), ("end", x - wide)
    for side, left in sides if x < (_LEFT + _RIGHT) / 2 else sides[::-1]:
        box = left, left + wide, y
        if (
            left >= 0
            and box[1] <= 100
            and not any(box[0] < b and a < box[1] and abs(y - other) < _LINE for a, b, other in taken)
        ):
            taken.append(box)
            return side
    return None


class _Axis:
    """From the least to the greatest of the figures and their intervals; to zero, if that is near."""

    def __init__(self, figures: Sequence[Far]) -> None:
        ends = [end for far in figures for end in (far.value, far.low, far.high) if end is not None]
        low, high = min(ends), max(ends)
        if min(abs(low), abs(high)) <= high - low or low == high:
            low, high = min(0.0, low), max(0.0, high)
        room = (high - low or 1.0) * _ROOM
        self._low, self._high = low - room, high + room

    def has(self, value: float) -> bool:
        """Whether it is on the axis."""
        return self._low <= value <= self._high

    def share(self, value: float) -> float:
        """Where on the axis, from 0 to 1."""
        return (value - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers on the axis, some four."""
        rough = (self._high - self._low) / 4
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [
            (step * at, f"{step * at:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if at else "0")
            for at in range(first, last + 1)
        ]
