"""erase: removes a person's captured request, and says which releases learned it. `lockstep harvest ENV --erase`."""

from pathlib import Path

from checks.formats.harvest import ERASED, Erased, request_digest
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import files, layout
from release.adapters import commits
from release.evidence import harvest_reviews
from release.monitoring.store import CaptureStore
from release.record.records import Records
from release.review import learned_requests
from release.review.learned_requests import Learned


class Erasure(Record):
    """What was erased. ``lines``: of captures, labels and sources. ``versions``: releases whose training data had it.

    ``outputs``: names of DVC's objects of these releases with the rows, which caches and remotes may still have.
    """

    request: str
    lines: int
    sources: tuple[str, ...]
    versions: tuple[str, ...]
    outputs: tuple[str, ...]


def erase(root: Path, request: str, captures: str | None = None) -> Erasure:
    """Erase a request, by its id or by ``sha256:`` and the digest of it, and say which releases learned it.

    Raises EvidenceRefused if it is nowhere, or if a gateway still writes a file that has it.
    """
    name = request if request.startswith("sha256:") else request_digest(request)
    lines = CaptureStore(captures or str(root / layout.CAPTURES)).erase(name)
    sources = harvest_reviews.sources_with(root, name) if commits.has_repository(root) else set()
    known = harvest_reviews.erased(harvest_reviews.in_work_tree(root)(ERASED))
    if not lines and not sources and name not in known:
        raise EvidenceRefused(
            f"{request[:80]}: no capture, label or source has this request",
            "give the answer's X-Request-Id",
        )
    erased = sorted({*known, name})
    files.write_jsonl(root / ERASED, (Erased(request=one) for one in erased))
    learned = learned_requests.find(Records(root), sources) if sources else Learned((), ())
    return Erasure(
        request=name, lines=lines, sources=tuple(sorted(sources)), versions=learned.versions, outputs=learned.outputs
    )  # fmt: skip
