"""recipe: compares the parameters here with those of the target branch, over several seeds."""

from pathlib import Path

from release.record import recipes
from release.record.recipes import Claim
from release.record.records import Records


def recipe(root: Path, target: str | None = None) -> Claim:
    """Read what the last sweep measured, if it is about this record. Raises as ``release.record.recipes.claim``."""
    return recipes.claim(Records(root), target)
