"""How what was verified differs from what will serve, and who verified it.

What serves is the image itself where it has a server in it; where it holds weights alone it is the server that the
environment names. A verification in anything else (another runtime, a process, a URL, another server) says less about
what will serve.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused
from checks.pointer import Served
from checks.serving import ImageReport, ServingReport
from checks.signers import Signers
from checks.statement import Release
from release.evidence import verification
from release.overlay import named_server

AGAIN = "run `lockstep verify`, then `lockstep sign`"


def how(release: Release, environment: str, files: Mapping[Path, bytes]) -> Served:
    """What a pointer says: ``as-served``, or in what it was verified otherwise."""
    return release.serving.how if now(release, environment, files) else "as-served"


def otherwise(image: ImageReport, serving: ServingReport, named: str | None) -> list[str]:
    """How what was verified differs from what will serve; nothing where it does not.

    ``named``: the server that the environment names for weights which come alone, NAME@sha256:….
    """
    found = []
    if serving.how != "container":
        found.append(f"it ran as a {serving.how}, not in a container")
    if serving.runtime != image.runtime:
        found.append(f"{serving.runtime} served it, the image is for {image.runtime}")
    if image.base is None and named is None:
        found.append("the environment names no server for weights alone (`images:` of its kustomization.yaml)")
    elif image.base is None and serving.how == "container" and _digest(serving.server) != _digest(named):
        found.append(f"the server was {serving.server or 'not recorded'}, the environment names {named}")
    return found


def now(release: Release, environment: str, files: Mapping[Path, bytes]) -> list[str]:
    """``otherwise``, of what the environment names as its ``files`` are."""
    return otherwise(release.image, release.serving, named_server.named(environment, files))


def verifier(release: Release, known: Signers, *, offline: bool = False) -> str:
    """Who verified. Raises EvidenceRefused when nobody who may signed that, MachineRefused as ``trust.verify``."""
    if release.verification is None:
        raise EvidenceRefused("the serving report is not signed by whoever verified", AGAIN)
    where = "the signed verification"
    return verification.check(release.verification.encode(), release.serving, known, where, offline=offline)


def _digest(name: str | None) -> str:
    return (name or "").rpartition("@")[2]
