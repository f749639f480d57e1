"""How the verification of a release differs from the way it will be served, and who verified it.

The server is the image itself if it contains one; for weights alone it is the server image that the environment names.
A verification in anything else (another runtime, a process, a URL, another server) proves less.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from checks.formats.pointer import Served
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.signers import Signers
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused
from release.evidence import verification
from release.overlay import named_server

AGAIN = "run `lockstep verify`, then `lockstep sign`"


def how(release: Release, environment: str, files: Mapping[Path, bytes]) -> Served:
    """Return what the pointer records: ``as-served``, or how the verification differed."""
    return release.serving.how if now(release, environment, files) else "as-served"


def otherwise(image: ImageReport, serving: ServingReport, named: str | None) -> list[str]:
    """Return how the verification differs from the way it will be served; empty if it does not.

    ``named``: the server image that the environment names for weights alone, NAME@sha256:….
    """
    differences = []
    if serving.how != "container":
        differences.append(f"it ran as a {serving.how}, not in a container")
    if serving.runtime != image.runtime:
        differences.append(f"{serving.runtime} served it, the image is for {image.runtime}")
    if image.base is None and named is None:
        differences.append(
            "the environment names no server for weights alone (`server` of its environment.yaml)"
        )
    elif (
        image.base is None
        and serving.how == "container"
        and _digest(serving.server) != _digest(named)
    ):
        differences.append(
            f"the server was {serving.server or 'not recorded'}, the environment names {named}"
        )
    return differences


def now(release: Release, environment: str, files: Mapping[Path, bytes]) -> list[str]:
    """``otherwise``, for the server that the environment's ``files`` name."""
    return otherwise(release.image, release.serving, named_server.named(environment, files))


def verifier(
    release: Release, known: Signers, *, offline: bool = False, at: datetime | None = None
) -> str:
    """Return who verified. ``at`` is as in ``trust.verify``.

    Raises EvidenceRefused if no verifier signed the report, MachineRefused as ``trust.verify``.
    """
    if release.verification is None:
        raise EvidenceRefused("the serving report is not signed by a verifier", AGAIN)
    source = "the signed verification"
    return verification.check(
        release.verification.encode(), release.serving, known, source, offline=offline, at=at
    )


def _digest(name: str | None) -> str:
    return (name or "").rpartition("@")[2]
