"""Sets of character shingles as sorted 64-bit keys, made again from the texts wherever they are needed.

A shingle's characters are digits of one number below 2^63, whose bits are then mixed reversibly: other shingles have
other keys, so that comparing keys is exact. The upper bits of a key say how rare the shingle is, rarest first: shingles
are counted in buckets, and a rarer bucket has a lower number. What is kept is the texts alone: the keys of a million
requests take a gigabyte.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from checks.process import threads

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_U = np.uint64
_BLANK = _U(2**64 - 1)  # no shingle's number
_BELOW = 2**63
_CELLS = 1 << 19  # keys that are made at once: few enough for a processor's cache
_FEWEST, _MOST = 10, 22  # bits of a bucket


class Shingles:
    """The sets of shingles of ``texts``, which are ordered by length.

    A text's shingles are its substrings of ``size`` characters, or the whole text if it is shorter. ``blank`` is the
    key that fills rows of a matrix. Keys from ``repeated`` on may be of several texts; lower ones are of one.
    """

    def __init__(self, texts: Sequence[str], size: int) -> None:
        self._texts, self._size = texts, size
        self._lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        used = np.zeros(0x110000, np.bool_)
        for start in range(0, len(texts), 1 << 14):
            used[_points("".join(texts[start : start + (1 << 14)]))] = True
        letters = np.flatnonzero(used)
        self._alphabet = np.zeros(letters.max(initial=0) + 1, np.uint32)
        self._alphabet[letters] = np.arange(1, len(letters) + 1)  # 0 stands behind the end
        self._levels: list[
            tuple[list[int], int, Keys]
        ] = []  # offsets, base, and the sorted numbers that they give
        length, base = 1, len(letters) + 1
        while True:
            several = next(k for k in range(63, 0, -1) if base**k < _BELOW)
            if several * length >= size:
                break
            offsets = [length * k for k in range(several)]
            hashes = [
                np.unique(_combined(self._numbers(rows), offsets, base)) for rows in self.parts()
            ]
            self._levels.append((offsets, base, np.unique(np.concatenate(hashes))))
            length, base = several * length, len(self._levels[-1][2]) + 1
        self._last = [*range(0, size - length, length), size - length], base
        self._low = _U(64 - min(_MOST, max(_FEWEST, int(self._lengths.sum()).bit_length())))
        self._order_buckets()

    def __len__(self) -> int:
        return len(self._texts)

    def chunk(self, rows: Ints) -> tuple[Ints, Keys, Mask]:
        """One of ``parts``, a matrix with the keys of its rows, each row ascending, and which cells count.

        Cells that do not count repeat a key or are blank.
        """
        keys = self._ranked(self._mixed(rows))
        keys.sort(axis=1)
        counts = keys != self.blank
        counts[:, 1:] &= keys[:, 1:] != keys[:, :-1]
        return rows, keys, counts

    def _order_buckets(self) -> None:
        buckets = 1 << (64 - int(self._low))
        frequency = np.zeros(buckets, np.int64)
        blanks = -int(self._positions(np.arange(len(self))).sum())
        for mixed in threads.mapped(self._mixed, self.parts()):
            blanks += mixed.size
            np.add.at(frequency, (mixed >> self._low).ravel().astype(np.int64), 1)
        blank = _mix(np.array([_BLANK]))[0]
        frequency[blank >> self._low] -= blanks
        order = np.argsort(frequency, kind="stable")
        self._rank = np.empty(buckets, np.uint32)
        self._rank[order] = np.arange(buckets, dtype=np.uint32)
        self.blank = self._ranked(np.array([blank]))[0]
        self.repeated = _U(int(np.searchsorted(frequency[order], 2))) << self._low

    def _positions(self, part: Ints) -> Ints:
        """Shingles of each row, with repetitions."""
        return np.maximum(1, self._lengths[part] - self._size + 1)

    def _mixed(self, part: Ints) -> Keys:
        numbers = _combined(self._numbers(part), *self._last)
        numbers[np.arange(numbers.shape[1]) >= self._positions(part)[:, None]] = _BLANK
        return _mix(numbers)

    def _ranked(self, mixed: Keys) -> Keys:
        keys: Keys = self._rank[mixed >> self._low].astype(np.uint64) << self._low
        return keys | (mixed & ((_U(1) << self._low) - _U(1)))

    def _numbers(self, part: Ints) -> Keys:
        """A number for each character of each row, or for the characters from there on; 0 behind the end."""
        lengths = self._lengths[part]
        numbers = np.zeros((len(part), max(self._size, int(lengths[-1]))), np.uint64)
        texts = "".join([self._texts[row] for row in part.tolist()])
        numbers[np.arange(numbers.shape[1]) < lengths[:, None]] = self._alphabet[_points(texts)]
        for offsets, base, known in self._levels:
            numbers = np.searchsorted(known, _combined(numbers, offsets, base)).astype(
                np.uint64
            ) + _U(1)
        return numbers

    def parts(self, rows: Ints | None = None) -> Iterator[Ints]:
        """``rows`` (ascending; None: all), some at a time."""
        rows = np.arange(len(self._texts)) if rows is None else rows
        start, most = 0, _CELLS // self._size
        while start < len(rows):
            widths = np.maximum(self._size, self._lengths[rows[start : start + most]])
            fit = np.searchsorted(widths * np.arange(1, len(widths) + 1), _CELLS, side="right")
            yield rows[start : start + max(1, int(fit))]
            start += max(1, int(fit))


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _combined(numbers: Keys, offsets: Sequence[int], base: int) -> Keys:
    """Numbers to ``base`` whose digits stand at ``offsets`` from each place."""
    width = numbers.shape[1] - offsets[-1]
    combined = numbers[:, :width].copy()
    for offset in offsets[1:]:
        combined *= _U(base)
        combined += numbers[:, offset : offset + width]
    return combined


def _mix(numbers: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), which is one to one."""
    numbers = numbers ^ (numbers >> _U(30))
    numbers *= _U(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> _U(27)
    numbers *= _U(0x94D049BB133111EB)
    numbers ^= numbers >> _U(31)
    return numbers
