"""Makes the repository of a team as a version of Lockstep leaves it, which later versions must still read.

Run once for each released version, at its tag: ``python -m tests.released_repository`` writes
``tests/released/VERSION.bundle``, a bundle of git with the branch main and the tags of two releases. Both were promoted,
and the second one was rolled back: it is in quarantine.
"""

import tempfile
from pathlib import Path

import pytest

from checks.process import distribution
from release.adapters import pin, thin_files
from release.adapters.pin import Pin
from release.verbs.rollback import rollback
from tests import promotion_tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import git, keep

HOME = REPOSITORY / "tests" / "released"
WORKFLOWS = f"acme/lockstep@{'a' * 40}"


def make(root: Path) -> None:
    """Lay out the repository at ``root``. The pin is last: what is not installed from its wheel promotes nothing."""
    promotion_tree.make(root)
    for environment in ("staging", "production"):
        promotion_tree.move(root, environment)
    promotion_tree.next_model(root, 11)
    for environment in ("staging", "production"):
        promotion_tree.move(root, environment)
    for environment in ("staging", "production"):
        rollback(root, environment, why="answers in French")
    texts = thin_files.generated(WORKFLOWS)
    texts |= {name: data for name, data in thin_files.templates().items() if name in thin_files.MERGED}
    texts[pin.PATH.as_posix()] = pin.written(Pin(pin.EXTRAS, distribution.version(), ("c" * 64,))).encode()
    for name, data in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    keep(root, f"Lockstep {distribution.version()}")


def main() -> None:
    """Write the bundle of this version."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        promotion_tree.leave_alone(patch)
        root = Path(name).resolve() / "work"
        make(root)
        HOME.mkdir(exist_ok=True)
        bundle = HOME / f"{distribution.version()}.bundle"
        git(root, "bundle", "create", str(bundle), "main", "--tags")


if __name__ == "__main__":
    main()
