"""Which releases learned a request: those whose record was made from a source with a row of it.

The reviews in git say which sources had the row. The dvc.lock of each release, and of the models from which its
training went on, says which sources it was made from.
"""

from collections.abc import Collection
from typing import NamedTuple

from checks.storage import layout
from release.adapters import commits
from release.ledger import Ledger
from release.record import start_model
from release.record.pipeline_lock import Stages
from release.record.records import Records

_STAGES = ("fetch", "prepare", "train")  # Their outputs have the rows as texts.


class Learned(NamedTuple):
    """``versions``: of releases, and HEAD for the record here. ``outputs``: DVC's names of files with their rows."""

    versions: tuple[str, ...]
    outputs: tuple[str, ...]


def find(records: Records, sources: Collection[str]) -> Learned:
    """Return what was made from one of ``sources``, by SHA-256. Raises as ``Ledger.moves``."""
    promote = records.work_tree.params.promote
    ledger = Ledger.open(records.root, promote)
    tip = ledger.begun()
    moves = [move for name in promote.ordered for move in ledger.moves(tip, name)] if tip else []
    recorded = {move.after.version: move.after.commit for move in reversed(moves) if move.after}
    if records.head:
        recorded["HEAD"] = records.head
    versions, outputs = list[str](), set[str]()
    for version, commit in recorded.items():
        locks = [
            (made, commits.read(records.root, made, layout.LOCK) or b"")
            for made in (commit, *start_model.earlier(records, commit))
        ]
        learned = [
            made for made, lock in locks if any(source.encode() in lock for source in sources)
        ]
        if learned:
            versions.append(version)
        # A model that went on from another keeps the rows of that one, too.
        for made in dict.fromkeys((commit, *learned) if learned else ()):
            outputs.update(_outputs(records.at(made).lock(f"{layout.LOCK} at {made[:12]}")))
    return Learned(tuple(versions), tuple(sorted(outputs)))


def _outputs(stages: Stages) -> list[str]:
    """Return the names of the outputs with texts of rows, such as ``data/raw 3f….dir``."""
    return [
        f"{output['path']} {output['md5']}"
        for name in _STAGES
        for output in stages.get(name, {}).get("outs", ())
        if output["path"].startswith("data/")
    ]
