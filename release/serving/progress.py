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
        parts = ["{desc}: {elapsed}"]
        if self._unit:
            total = " of {total_fmt}" if self._total else ""
            parts = [f"{{desc}}: {{n_fmt}}{total}{{unit}}", "{rate_fmt}", "{elapsed}"]
        line = tqdm.format_meter(
            self._done,
            self._total or 0,
            self._printed - self._began,
            prefix=self._label,
            unit="B" if self._unit == "B" else f" {self._unit}s",
            unit_scale=self._unit == "B",
            bar_format=", ".join([*parts, end] if end else parts),
        )
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
