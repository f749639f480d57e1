"""Progress of a phase on standard error: a bar on a terminal, a line every few seconds in a log."""

import sys
from typing import Never

from tqdm import tqdm

SECONDS = 12.0  # between two lines


def progress(label: str, total: int | None = None, unit: str = "") -> "tqdm[Never]":
    """Return the bar of one phase, as a context manager; ``update(0)`` shows that it still runs.

    ``total``: the number of ``unit``, None if unknown; bytes have the unit ``B``. Without a terminal the first line
    comes after SECONDS, so a short phase prints nothing.
    """
    pause = 0.1 if sys.stderr.isatty() else SECONDS
    return tqdm(
        desc=label,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        bar_format=None if unit else "{desc} {elapsed}",
        mininterval=pause,
        maxinterval=pause,
        miniters=0,
        delay=0 if sys.stderr.isatty() else SECONDS,
        file=sys.stderr,
    )
