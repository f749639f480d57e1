"""Which record a person means: the work tree, a commit, branch or tag of git, or a release of the ledger.

Releases are named as the ledger names them: an environment (what it runs now), a version, the digest of an image, or a
tag that a move created (``router@v1.4.0``). Such a tag is on the commit of the move. The record of the model is in the
commit that the pointer names, and that is the one meant here.
"""

import re
from collections.abc import Mapping

from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.process.text import redact
from checks.storage import layout
from release.adapters import commits
from release.ledger import Ledger
from release.ledger.versions import parse
from release.record.records import Named, Records

WORK_TREE = "."
_VERSION = re.compile(r"v\d+\.\d+\.\d+", re.ASCII)
_IMAGE = re.compile(r"(?:\S+@)?(sha256:[0-9a-f]{64})", re.ASCII)
_SHOWN = 6  # releases that a refusal lists


def find(records: Records, name: str) -> Named:
    """The record that ``name`` means.

    Raises EvidenceRefused if neither git nor the ledger knows it, if they know different commits by it, or if its
    commit is not in this clone; RemoteRefused if the ledger is needed and its remote does not answer; ParamsRefused if
    the ledger is needed and params.yaml cannot be read; MachineRefused without git.
    """
    if name == WORK_TREE:
        return Named(name, None)
    root = records.root
    if not commits.has_repository(root):
        raise EvidenceRefused(
            f"{root.resolve()}: is not a git repository, and {_shown(name)} is to be found in one",
            "clone it",
        )
    commit = None if parse(name) else commits.resolve(root, name)
    try:
        is_of_ledger = _is_of_ledger(records, name)
    except ParamsRefused:
        if commit is None:
            raise
        is_of_ledger = False  # git's own names work while params.yaml is being written
    pointers, known = _released(records, name) if is_of_ledger else (None, None)
    if pointers is None:
        if commit is None:
            raise _unknown(name, known)
        return Named(name, commit)
    if commit is not None and commit != pointers.commit:
        raise EvidenceRefused(
            f"{_shown(name)}: git knows commit {commit[:12]} by it, and the ledger a release of {pointers.commit[:12]}",
            f"name the one in full (refs/heads/…, refs/tags/…), or the other by its image: {pointers.digest}",
        )
    if commits.resolve(root, pointers.commit) != pointers.commit:
        raise EvidenceRefused(
            f"{_shown(name)}: commit {pointers.commit[:12]}, whose record made it, is not in this clone",
            "git fetch the branch that it was merged to",
        )
    return Named(name, pointers.commit, pointers)


def _is_of_ledger(records: Records, name: str) -> bool:
    """Whether the ledger is to be asked. It may be in another repository, so it is not where git alone can tell."""
    if parse(name) or _VERSION.fullmatch(name) or _IMAGE.fullmatch(name):
        return True
    if not (records.root / layout.PARAMS).exists():
        return False
    promote = records.work_tree.document.get("promote")
    environments = promote.get("environments") if isinstance(promote, Mapping) else None
    return isinstance(environments, Mapping) and name in environments


def _released(records: Records, name: str) -> tuple[Pointer | None, list[Pointer]]:
    """The release that the ledger knows as ``name``, and all that it knows, the latest first."""
    params = records.work_tree.params
    promote, image = params.promote, _IMAGE.fullmatch(name)
    ledger = Ledger.open(records.root, promote)
    tip = ledger.begun()
    if tip is None:
        return None, []
    if name in promote.environments and (runs := ledger.pointer(tip, name)):
        return runs, []
    model = ledger.model_name(params.serve.name)
    moves = [
        move
        for environment in promote.environments
        for move in ledger.moves(tip, environment)
        if move.ran
    ]
    wanted = image[1] if image else name
    known = dict[str, Pointer]()
    matching = list[Pointer]()
    places = ledger.places(tip)
    for move in sorted(moves, key=lambda move: places[move.landed], reverse=True):
        if pointer := move.after:
            known.setdefault(pointer.digest, pointer)
            version = f"{model}@{pointer.version}"
            assigned = f"{model}#{move.environment}#{move.number}"
            if wanted in (pointer.digest, pointer.version, version, assigned):
                matching.append(pointer)
    if len({pointer.model for pointer in matching}) > 1:
        raise EvidenceRefused(
            f"{_shown(name)}: the ledger knows releases of {len({pointer.model for pointer in matching})} models by it",
            f"name one by its image: {', '.join(dict.fromkeys(pointer.digest for pointer in matching))}",
        )
    return next(iter(matching), None), list(known.values())


def _unknown(name: str, known: list[Pointer] | None) -> EvidenceRefused:
    todo = "name a commit, branch or tag, an environment, or a release of `lockstep history`"
    if known:
        versions = dict.fromkeys(pointer.version for pointer in known[:_SHOWN])
        todo += f", such as {', '.join(versions)}"
    elif known is not None:
        todo = "nothing was promoted yet: name a commit, branch or tag"
    return EvidenceRefused(
        f"{_shown(name)}: neither git nor the ledger knows such a record here", todo
    )


def _shown(name: str) -> str:
    return redact(name, 100)
