"""The ledger: what environments run, read from git and moved in git. Git is the only database.

The environments lie below release/environments on one branch, of this repository or of another (params.yaml, promote).

    ledger = Ledger.open(root, params.promote)
    tip = ledger.tip()                                  # asks the remote; a commit hash
    ledger.pointer(tip, "production")                   # Pointer, or None when it runs nothing
    ledger.quarantine(tip).entries                      # checks.quarantine.Entries, by the history of the file
    ledger.moves(tip, "production")                     # (Move, …), newest first
    ledger.since(tip, "staging")                        # datetime, conservative, or None
    ledger.read(tip, path), ledger.files(tip, folder)   # out of the commit, never the work tree

    moves = naming(move for name in environments for move in ledger.moves(tip, name))
    version = next_version(name, ledger.tags(), moves, model, image_digest)
    number = len(ledger.moves(tip, "production")) + 1
    change = Change(
        {folder / "pointer.yaml": pointer.write(after), …},
        compose("production", number, "promote", before, after, why),
        tags_for(name, ledger.tags(), moves, "production", after),
    )
    made = ledger.commit(tip, change)                   # the branch and its tags, or a refusal and nothing

    ledger.propose(tip, change, branch)                 # the commit alone, on a new branch, for a pull request

``commit`` is a compare-and-swap from ``tip``: everything that was read is read of ``tip``, so that a move is decided on
what it replaces. Whoever comes second is told who was first (Outrun). To run a verb again after it succeeded, compare
``ledger.pointer(tip, environment)`` with what is wanted: equal means it is so already (then ``ledger.settle(tip)``).

``disagreements`` says where the tags differ from the moves, and ``Change({}, "", missing(…))`` makes those that lack.

Refusals: RemoteRefused (the remote does not answer, refuses, lies, or its history was rewritten), Outrun,
EvidenceRefused (what is read cannot be believed), PromotionRefused (what is asked for cannot be written),
ParamsRefused, MachineRefused.
"""

from release.ledger.held import Counts, Held, Release
from release.ledger.message import compose, compose_release
from release.ledger.moves import naming
from release.ledger.repository import DEADLINE, Ledger
from release.ledger.types import Change, Kind, Move, Person, Tag, TagRef, Tags
from release.ledger.versions import disagreements, missing, next_version, tags_for, untagged

__all__ = [
    "DEADLINE",
    "Change",
    "Counts",
    "Held",
    "Kind",
    "Ledger",
    "Move",
    "Person",
    "Release",
    "Tag",
    "TagRef",
    "Tags",
    "compose",
    "compose_release",
    "disagreements",
    "missing",
    "naming",
    "next_version",
    "tags_for",
    "untagged",
]
