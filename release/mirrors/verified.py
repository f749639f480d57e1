"""Whether signers who may signed for the releases in the environments, and how the releases were verified.

Reads git alone, for `lockstep status`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from checks.config.release_params import Promote
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.storage import layout
from release.evidence import serving_differences, trust
from release.ledger import Ledger, released_pointers
from release.mirrors import desired
from release.mirrors.desired import Desired
from release.mirrors.types import MirrorFinding


class Verified(NamedTuple):
    """``otherwise``: how the verification differs from how it is served. ``findings``: what the policy forbids.

    ``unfit``: why the policy forbids the release that the environment before runs, as it was verified.
    """

    otherwise: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    findings: tuple[MirrorFinding, ...] = ()


def look(
    root: Path, ledger: Ledger, tip: str, promote: Promote, environments: Mapping[str, Desired]
) -> dict[str, Verified]:
    """Return the verification of each environment at ``tip``; empty if it runs nothing or cannot be read.

    Signers are those of the target branch as this clone has it, now or when the release moved. No network is used.
    """
    verified = dict.fromkeys(environments, Verified())
    released = {
        name: (environment.pointer, environment.envelope)
        for name, environment in environments.items()
        if environment.pointer and environment.envelope
    }
    if not released:
        return verified
    try:
        known = trust.known(root)
    except EvidenceRefused as refused:
        unsigned = {
            name: Verified(findings=(_unsigned(name, "evidence", refused),)) for name in released
        }
        return verified | unsigned
    files = ledger.files(tip, layout.ENVIRONMENTS)
    for name, (pointer, envelope) in released.items():
        release = envelope.statement.predicate
        path = str(released_pointers.path(name))
        at = ledger.recorded(tip, name, pointer)
        lines = serving_differences.now(release, name, files)
        signed = partial(trust.verify, envelope.data, known, "release", path, offline=True, at=at)
        findings = _refused(name, "evidence", signed)
        if release.image.image != pointer.digest:
            about, actual = f"about {pointer.digest}", f"is about {release.image.image}"
            findings.append(desired.drift(name, "evidence", about, actual))
        if promote.environments[name].served_as_verified:
            findings += [
                desired.drift(name, "verification", "of what serves", line) for line in lines
            ]
        if release.verification is not None:  # Versions that did not sign it moved others.
            findings += _refused(
                name,
                "verification",
                partial(serving_differences.verifier, release, known, offline=True, at=at),
            )
        verified[name] = Verified(tuple(lines), (), tuple(findings))
    for name, rule in promote.environments.items():
        if rule.served_as_verified and rule.after in released:
            release = released[rule.after][1].statement.predicate
            unfit = serving_differences.now(release, name, files)
            verified[name] = verified[name]._replace(unfit=tuple(unfit))
    return verified


def _refused(name: str, what: str, verify: Callable[[], object]) -> list[MirrorFinding]:
    """Return a finding if ``verify`` refuses."""
    try:
        verify()
    except (EvidenceRefused, MachineRefused) as refused:
        return [_unsigned(name, what, refused)]
    return []


def _unsigned(name: str, what: str, refused: Refusal) -> MirrorFinding:
    return desired.drift(name, what, "signed by one who may", refused.what)
