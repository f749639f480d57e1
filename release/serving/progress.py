"""Progress of a phase on standard error: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS = 12.0  # between two lines


class Progress:
    """The progress of one phase, as a context manager.

    ``total``: the number of ``unit``, None if unknown; bytes have the unit ``B``. Without a terminal the first line
    comes after SECONDS, so a short phase prints nothing; a phase that printed a line also prints its end.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "") -> None:
        self._label, self._total, self._unit = label, total, unit
        self._bar = tqdm(
            desc=label,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            bar_format=None if unit else "{desc} {elapsed}",
            disable=None,
        )
        self._done, self._began = 0, time.monotonic()
        self._printed = self._began
        self._lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> None:
        self._bar.close()
        if self._lines and kind is None:
            self._line("done")

    def update(self, count: int = 1) -> None:
        """Add ``count``."""
        self._done += count
        self._bar.update(count)
        self.tick()

    def tick(self) -> None:
        """Show that it still runs; can be called at any rate."""
        if not self._bar.disable:
            if not self._total:
                self._bar.refresh()
        elif time.monotonic() - self._printed >= SECONDS:
            self._line("" if self._unit else "still going")

    def _line(self, end: str) -> None:
        self._printed = time.monotonic()
        self._lines += 1
        seconds = self._printed - self._began
        parts = [f"{self._label}:"]
        if self._unit:
            done, rate = self._number(self._done), self._done / max(seconds, 1e-9)
            of = f" of {self._number(self._total)}" if self._total else ""
            speed = (
                f"{tqdm.format_sizeof(rate)}B/s"
                if self._unit == "B"
                else f"{rate:.2f} {self._unit}s/s"
            )
            parts.append(
                f"{done}{of} {'' if self._unit == 'B' else f'{self._unit}s'}".rstrip()
                + f", {speed},"
            )
        parts.append(f"{tqdm.format_interval(seconds)}{f', {end}' if end else ''}")
        tqdm.write(" ".join(parts), file=sys.stderr)
        sys.stderr.flush()

    def _number(self, count: int) -> str:
        return f"{tqdm.format_sizeof(count)}B" if self._unit == "B" else str(count)
