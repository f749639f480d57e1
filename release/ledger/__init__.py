"""The ledger: reads and changes what environments run. Git is the only database.

The environments are below release/environments on one branch, of this repository or another (params.yaml, promote).

    ledger = Ledger.open(root, params.promote)
    tip = ledger.tip()                                  # fetches from the remote; a commit hash
    ledger.pointer(tip, "production")                   # Pointer, or None if it runs nothing
    ledger.quarantine(tip).entries                      # checks.formats.quarantine.Entries, by the history of the file
    ledger.moves(tip, "production")                     # (Move, …), newest first
    ledger.since(tip, "staging")                        # datetime, conservative, or None
    ledger.read(tip, path), ledger.files(tip, folder)   # from the commit, never the work tree

    moves = [move for name in environments for move in ledger.moves(tip, name)]
    version = next_version(name, ledger.tags(), moves, model, image_digest)
    number = len(ledger.moves(tip, "production")) + 1
    change = Change(
        {folder / "pointer.yaml": pointer.write(after), …},
        compose("production", number, "promote", before, after, why),
        tags_for(name, ledger.tags(), moves, "production", after),
    )
    made = ledger.commit(tip, change)                   # moves the branch and creates its tags, or refuses

    ledger.propose(tip, change, branch)                 # the commit alone, on a new branch, for a pull request

``commit`` is a compare-and-swap from ``tip``: everything is read at ``tip``, so a move is decided on the state that it
replaces. If somebody else moved the branch first, it raises Outrun, which names them. When a verb is run again after it
succeeded, ``ledger.pointer(tip, environment)`` already equals the requested pointer (then ``ledger.settle(tip)``).

``disagreements`` says where the tags differ from the moves, and ``Change({}, "", missing(…))`` creates missing tags.

Refusals: RemoteRefused (the remote does not answer, refuses, gives wrong answers, or its history was rewritten),
Outrun, EvidenceRefused (what was read is invalid), PromotionRefused (the change cannot be written), ParamsRefused,
MachineRefused.
"""

from release.ledger.message import compose, compose_release
from release.ledger.quarantine import Counts, Held, Release
from release.ledger.repository import DEADLINE, Ledger
from release.ledger.types import Change, Kind, Move, Tag, TagRef, Tags
from release.ledger.versions import disagreements, missing, next_version, tags_for, untagged

__all__ = [
    "DEADLINE",
    "Change",
    "Counts",
    "Held",
    "Kind",
    "Ledger",
    "Move",
    "Release",
    "Tag",
    "TagRef",
    "Tags",
    "compose",
    "compose_release",
    "disagreements",
    "missing",
    "next_version",
    "tags_for",
    "untagged",
]
