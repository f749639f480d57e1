"""The state that environments should have, from the commit that holds them, and contradictions within that commit.

Only git is read: `status` reports the contradictions, and mirrors are compared with the state.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.errors import EvidenceRefused, MachineRefused, Refusal
from checks.formats import pointer
from checks.formats.pointer import Pointer
from release import runtimes
from release.evidence import freshness
from release.ledger import Ledger, past
from release.ledger.past import Envelope
from release.mirrors.types import Finding
from release.overlay import edits, overlays
from release.record.records import Records

_AGAIN = "restore it from git's history, or promote again"
_NAMESPACE = re.compile(
    rb"^namespace:[ \t]+[\"']?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)[\"']?[ \t]*(#.*)?$", re.MULTILINE
)


class Desired(NamedTuple):
    """``files``: those that a promotion writes for a cluster; None if they cannot be computed."""

    environment: str
    pointer: Pointer | None
    envelope: Envelope | None
    files: Mapping[Path, bytes] | None
    namespace: str | None  # of the cluster, as its kustomization.yaml has it
    findings: tuple[Finding, ...]


def read(root: Path) -> tuple[Records, Ledger, str, dict[str, Desired]]:
    """Return the records of the clone, its ledger, the tip of that, and the environments at the tip.

    Raises RemoteRefused when the remote does not answer or a checkpoint contradicts it, EvidenceRefused when the
    history cannot be believed.
    """
    records = Records(root)
    promote = records.work_tree.params.promote
    ledger = Ledger.open(root, promote)
    tip, names = freshness.tip(root, ledger, promote), promote.ordered
    try:
        files = ledger.files(tip, layout.ENVIRONMENTS)
    except EvidenceRefused as refused:
        return records, ledger, tip, {name: _unreadable(name, "files", refused) for name in names}
    return records, ledger, tip, {name: _environment(name, files, records, names) for name in names}


def drift(environment: str, what: str, git: str, mirror: str) -> Finding:
    """Return a finding about files in git that only a promotion may write."""
    return Finding(
        where="environments", what=f"{environment}: {what}", git=git, mirror=mirror, severity="drift", todo=_AGAIN
    )


def _environment(name: str, found: Mapping[Path, bytes], records: Records, names: tuple[str, ...]) -> Desired:
    home = layout.ENVIRONMENTS / name
    namespace = _NAMESPACE.search(found.get(home / "kustomization.yaml", b""))
    spaced = namespace[1].decode() if namespace else None
    text = found.get(home / layout.POINTER)
    if text is None:
        wanted = overlays.nothing(name)
        there = any(home / overlays.FOLDER in path.parents for path in found)
        failures = [
            drift(name, "release", "nothing runs", failure) for failure in overlays.check(name, found, wanted) if there
        ]
        return Desired(name, None, None, wanted, spaced, tuple(failures))
    try:
        its = pointer.parse(text, str(home / layout.POINTER))
    except EvidenceRefused as refused:
        return _unreadable(name, "pointer", refused)
    evidence_path = past.path(name)
    try:
        envelope = past.envelope(found.get(evidence_path), its, str(evidence_path))
    except EvidenceRefused as refused:
        return Desired(name, its, None, None, spaced, (drift(name, "evidence", its.evidence, refused.what),))
    built = envelope.statement.predicate.image
    try:
        made_of = (name, its, built, runtimes.load(built.runtime), records.at(its.commit).serve)
        wanted = overlays.render(*made_of)
    except Refusal as refused:
        return Desired(name, its, envelope, None, spaced, (drift(name, "release", "is a release", refused.what),))
    failures = [
        drift(name, "release", "as a promotion writes it", failure) for failure in overlays.check(name, found, wanted)
    ]
    failures += _overlay(name, found, overlays.checked(*made_of), names, pulled=overlays.unreachable(its) is None)
    return Desired(name, its, envelope, wanted, spaced, tuple(failures))


def _overlay(
    name: str, found: Mapping[Path, bytes], wanted: Mapping[Path, bytes], names: tuple[str, ...], *, pulled: bool
) -> list[Finding]:
    """Return where files written by people change the release; this may be unknown without kustomize."""
    said = "leaves the release as it is"
    try:
        return [
            drift(name, "overlay", said, failure)
            for failure in edits.failures(name, found, wanted, names, pulled=pulled)
        ]
    except MachineRefused as refused:
        return [Finding(
            where="environments", what=f"{name}: overlay", git=said, mirror=refused.what, severity="unreachable",
            todo=refused.todo,
        )]  # fmt: skip


def _unreadable(name: str, what: str, refused: EvidenceRefused) -> Desired:
    return Desired(name, None, None, None, None, (drift(name, what, "cannot be read", refused.what),))
