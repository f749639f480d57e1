"""erase: removes a person's captured request, and says which releases learned it. `lockstep harvest ENV --erase`."""

import re
from collections.abc import Collection
from pathlib import Path

from checks.formats.harvest import ERASED, Erased, request_digest
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import files, layout
from release.adapters import commits
from release.evidence import harvest_reviews
from release.ledger import Ledger
from release.monitoring.store import CaptureStore, is_about
from release.record import pipeline_lock, start_model
from release.record.records import Records

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STAGES = ("fetch", "prepare", "train")  # Their outputs have the rows as texts.


class Erasure(Record):
    """The result of an erasure. ``lines``: of captures, labels and sources that are gone.

    ``versions``: releases whose training data had the request, and those whose training went on from them.
    ``outputs``: names of DVC's objects of these releases with the rows, which caches and remotes may still have.
    ``queued``: files in git that `lockstep watch --pr` queued, whose earlier versions still have its text.
    """

    request: str
    lines: int
    sources: tuple[str, ...]
    versions: tuple[str, ...]
    outputs: tuple[str, ...]
    queued: tuple[str, ...]


def erase(root: Path, request: str, captures: str | None = None) -> Erasure:
    """Erase a request, by its id or by ``sha256:`` and the digest of it, and say which releases learned it.

    Raises EvidenceRefused if it is nowhere, or if a gateway still writes a file that has it.
    """
    name = request if _DIGEST.fullmatch(request) else request_digest(request)
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    erasing, queued = store.without(name), _queued(root, name)
    lines = erasing.lines + sum(removed for removed, _ in queued.values())
    sources = harvest_reviews.sources_with(root, {name}) if commits.has_repository(root) else set()
    known = harvest_reviews.erased(harvest_reviews.in_work_tree(root)(ERASED))
    if not lines and not sources and name not in known:
        raise EvidenceRefused(
            f"{request[:80]}: no capture, label or source has this request",
            "give the answer's X-Request-Id",
        )
    versions, outputs = _learned(Records(root), sources) if sources else ([], [])
    # First what keeps the request out of later sources: if this is killed, the same command ends it.
    files.write_jsonl(root / ERASED, (Erased(request=digest) for digest in sorted({*known, name})))
    for path, (_, left) in queued.items():
        with files.replacing(path) as stream:
            stream.write(left)
    store.replace(erasing)
    return Erasure(
        request=name, lines=lines, sources=tuple(sorted(sources)), versions=tuple(versions),
        outputs=tuple(outputs), queued=tuple(path.relative_to(root).as_posix() for path in queued),
    )  # fmt: skip


def _queued(root: Path, request: str) -> dict[Path, tuple[int, bytes]]:
    """Return the files of `lockstep watch --pr` with lines of the request: how many, and what else they have."""
    queued = dict[Path, tuple[int, bytes]]()
    for path in sorted((root / layout.QUEUED).glob("*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        left = [line for line in lines if not is_about(line, request)]
        if len(left) < len(lines):
            queued[path] = (len(lines) - len(left), b"".join(left))
    return queued


def _learned(records: Records, sources: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the releases whose record was made from one of ``sources``, and DVC's names of files with their rows.

    ``sources``: by SHA-256. The record here is called HEAD. The dvc.lock of each release, and of the models from which
    its training went on, says which sources it was made from. Raises as ``Ledger.moves``.
    """
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
    return versions, sorted(outputs)


def _outputs(stages: pipeline_lock.Stages) -> list[str]:
    """Return the names of the outputs with texts of rows, such as ``data/raw 3f….dir``."""
    return [
        f"{output['path']} {output['md5']}"
        for name in _STAGES
        for output in stages.get(name, {}).get("outs", ())
        if output["path"].startswith("data/")
    ]
