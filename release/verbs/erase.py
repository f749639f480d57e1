"""erase: removes a person's captured request, and says which releases learned it. `lockstep harvest ENV --erase`."""

import re
from pathlib import Path

from checks.formats.harvest import ERASED, Erased, request_digest
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import files, layout
from release.adapters import commits
from release.evidence import harvest_reviews
from release.monitoring.store import CaptureStore, is_about
from release.record.records import Records
from release.review import learned_requests

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
    learned = (
        learned_requests.find(Records(root), sources)
        if sources
        else learned_requests.Learned((), ())
    )
    # First what keeps the request out of later sources: if this is killed, the same command ends it.
    files.write_jsonl(root / ERASED, (Erased(request=digest) for digest in sorted({*known, name})))
    for path, (_, left) in queued.items():
        with files.replacing(path) as stream:
            stream.write(left)
    store.replace(erasing)
    return Erasure(
        request=name, lines=lines, sources=tuple(sorted(sources)), versions=learned.versions,
        outputs=learned.outputs, queued=tuple(path.relative_to(root).as_posix() for path in queued),
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
