"""audit: what an auditor asks of a release, as one archive that a stranger verifies offline without Lockstep."""

from pathlib import Path

from checks.formats.pointer import Version
from checks.formats.report import Count
from checks.process.errors import MachineRefused
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, files
from release.cards import audit_pack
from release.cards.audit_index import LeftOut
from release.image import tar


class Audited(Record):
    """The archive ``file``. ``unanswered``: of the questions ``asked``, those that no file of the pack answers."""

    file: str
    sha256: Digest
    size: Count
    version: Version
    image: str
    files: Count
    statements: Count
    asked: Count
    unanswered: Count
    left_out: tuple[LeftOut, ...]


def audit(root: Path, name: str, out: Path) -> Audited:
    """Write the audit pack of the release that ``name`` means into the new file ``out``, a tar archive.

    The same release and the same commit of the ledger give the same bytes. Raises MachineRefused if ``out`` exists, and
    as ``audit_pack.collect``.
    """
    if out.exists() or out.is_symlink():
        raise MachineRefused(f"{out}: exists", "name a new file, or take that one away")
    index, packed = audit_pack.collect(root, name)
    folder = f"audit-{index.version}"
    data = tar.archive({f"{folder}/{path}": content for path, content in packed.items()})
    with files.replacing(out) as stream:
        stream.write(data)
    return Audited(
        file=str(out), sha256=digest.of_bytes(data), size=len(data), version=index.version, image=index.image,
        files=len(packed), statements=len(index.statements), asked=len(index.answers),
        unanswered=sum(not answer.files for answer in index.answers), left_out=index.left_out,
    )  # fmt: skip
