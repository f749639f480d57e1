"""How the releases in the environments were verified, and whether a current signer signed for it.

Reads git alone, for `lockstep status`.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from checks.config.release_params import Promote
from checks.formats.signers import Signers
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import layout
from release.evidence import served, trust
from release.ledger import Ledger
from release.mirrors import desired
from release.mirrors.desired import Desired
from release.mirrors.types import Finding


class Verified(NamedTuple):
    """``otherwise``: how the verification differs from how it is served. ``findings``: what the policy forbids."""

    otherwise: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def look(
    root: Path, ledger: Ledger, tip: str, promote: Promote, found: Mapping[str, Desired]
) -> dict[str, Verified]:
    """Return the verification of each environment at ``tip``; empty if it runs nothing or cannot be read."""
    try:
        files = ledger.files(tip, layout.ENVIRONMENTS)
        known = trust.known(root)
    except EvidenceRefused:  # a finding of another check
        return dict.fromkeys(found, Verified())
    verified = {}
    for name, each in found.items():
        release = each.envelope.statement.predicate if each.envelope else None
        lines = served.now(release, name, files) if release else []
        strict = promote.environments[name].served_as_verified
        findings = [
            desired.drift(name, "verification", "of what serves", line) for line in lines if strict
        ]
        if release and each.pointer:
            findings += _signed(name, release, known, ledger.recorded(tip, name, each.pointer))
        verified[name] = Verified(tuple(lines), tuple(findings))
    return verified


def _signed(
    name: str, release: Release, known: Signers, recorded: datetime | None
) -> Iterator[Finding]:
    if release.verification is None:  # moved by a version that did not sign them
        return
    try:
        served.verifier(release, known, offline=True, at=recorded)
    except (EvidenceRefused, MachineRefused) as refused:
        yield desired.drift(name, "verification", "signed by one who may", refused.what)
