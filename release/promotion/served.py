"""Whether a release was verified as it will serve, and by whom.

What serves is the image itself where it has a server in it; where it holds weights alone it is the server that the
environment names. A verification in anything else (another runtime, a process, a URL, another server) says less about
what will serve. An environment refuses it unless its policy takes it; its pointer, `lockstep status` and the pull
request's comment name it.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused
from checks.params import Environment
from checks.pointer import Served
from checks.serving import ImageReport, ServingReport
from checks.signers import Signers
from checks.statement import Release
from release.edits import named_server
from release.promotion.asked import Answer
from release.signing import verification

_AGAIN = "run `lockstep verify`, then `lockstep sign`"


def served(
    release: Release, known: Signers, rule: Environment, environment: str, files: Mapping[Path, bytes], answer: Answer
) -> None:
    """The report must be of this image, signed by who verified, passed, and had in a way that this environment accepts.

    That it is about the image's model and verdict is held by the statement's own form. ``files``: of the environments.
    """
    image, serving = release.image, release.serving
    # A server that ran already does not say its image: environments that take "url" take that.
    if serving.image is None and serving.how != "url":
        answer.lacks("the serving report is of a folder of weights, not of an image", _AGAIN)
    elif serving.image not in (None, image.image):
        answer.lacks(f"the serving report is of the image {serving.image}, not {image.image}", _AGAIN)
    if serving.model != image.model or serving.verdict != image.verdict:
        answer.lacks("the serving report is about another model or verdict", _AGAIN)
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        answer.lacks(f"the serving report did not pass ({failed or 'an essential check is missing'})", _AGAIN)
    by = ""
    try:
        by = f", verified by {verifier(release, known)}"
    except EvidenceRefused as refused:
        answer.lacks(refused.what, _AGAIN)
    for what, found, accepted in (
        ("served by", serving.runtime, rule.runtimes),
        ("verified as a", serving.how, rule.verified),
    ):
        if found not in accepted:
            answer.lacks(f"it was {what} {found}; {environment} takes {', '.join(accepted)}", _AGAIN)
    if image.runtime not in rule.runtimes:
        answer.lacks(
            f"the image is of the runtime {image.runtime}; {environment} takes {', '.join(rule.runtimes)}",
            "build it with one of these: serve.runtime",
        )
    answer.note = f"{serving.status} by {serving.runtime} as a {serving.how}{by}"
    if differences := now(release, environment, files):
        answer.note += f"; not verified as it will serve: {'; '.join(differences)}"
        for difference in differences if rule.served_as_verified else ():
            answer.lacks(f"it was not verified as it will serve: {difference}", _as_it_serves(image, environment))


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
        raise EvidenceRefused("the serving report is not signed by whoever verified", _AGAIN)
    where = "the signed verification"
    return verification.check(release.verification.encode(), release.serving, known, where, offline=offline)


def _as_it_serves(image: ImageReport, environment: str) -> str:
    where = "in Docker" if image.base else "in Docker, in the server that the environment names"
    return (
        f"run `lockstep verify` {where}, then `lockstep sign`; or let the owners set "
        f"promote.environments.{environment}.served_as_verified: false on the target branch"
    )


def _digest(name: str | None) -> str:
    return (name or "").rpartition("@")[2]
