"""How thorough the tests of kills and races are: a sample in CI, everything when LOCKSTEP_EXHAUSTIVE is 1."""

import os

EXHAUSTIVE = os.environ.get("LOCKSTEP_EXHAUSTIVE") == "1"
LEFT_OUT = "exhaustive: LOCKSTEP_EXHAUSTIVE=1 ./lockstep test runs it"


def moments(point: int) -> tuple[str, ...]:
    """When to kill around call ``point`` of git: at every call once, by turns before and after it; or both."""
    if EXHAUSTIVE:
        return ("before", "after")
    return ("before",) if point % 2 else ("after",)
