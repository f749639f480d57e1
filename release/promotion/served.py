"""Whether a release was verified as it will serve, and by whom.

What serves is the image itself where it has a server in it; where it holds weights alone it is the server that the
environment names. A verification in anything else (another runtime, a process, a URL, another server) says less about
what will serve. An environment refuses it unless its policy takes it; its pointer, `lockstep status` and the pull
request's comment name it.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.errors import EvidenceRefused
from checks.release_params import Environment
from checks.serving import ImageReport
from checks.signers import Signers
from checks.statement import Release
from release.evidence import served as served_as
from release.evidence.served import AGAIN
from release.promotion.checklist import CheckResult


def served(
    release: Release,
    known: Signers,
    rule: Environment,
    environment: str,
    files: Mapping[Path, bytes],
    result: CheckResult,
) -> None:
    """The report must be of this image, signed by who verified, passed, and had in a way that this environment accepts.

    That it is about the image's model and verdict is held by the statement's own form. ``files``: of the environments.
    """
    image, serving = release.image, release.serving
    # A server that ran already does not say its image: environments that take "url" take that.
    if serving.image is None and serving.how != "url":
        result.fail("the serving report is of a folder of weights, not of an image", AGAIN)
    elif serving.image not in (None, image.image):
        result.fail(f"the serving report is of the image {serving.image}, not {image.image}", AGAIN)
    if serving.model != image.model or serving.verdict != image.verdict:
        result.fail("the serving report is about another model or verdict", AGAIN)
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        result.fail(f"the serving report did not pass ({failed or 'an essential check is missing'})", AGAIN)
    by = ""
    try:
        by = f", verified by {served_as.verifier(release, known)}"
    except EvidenceRefused as refused:
        result.fail(refused.what, AGAIN)
    for what, found, accepted in (
        ("served by", serving.runtime, rule.runtimes),
        ("verified as a", serving.how, rule.verified),
    ):
        if found not in accepted:
            result.fail(f"it was {what} {found}; {environment} takes {', '.join(accepted)}", AGAIN)
    if image.runtime not in rule.runtimes:
        result.fail(
            f"the image is of the runtime {image.runtime}; {environment} takes {', '.join(rule.runtimes)}",
            "build it with one of these: serve.runtime",
        )
    result.note = f"{serving.status} by {serving.runtime} as a {serving.how}{by}"
    if differences := served_as.now(release, environment, files):
        result.note += f"; not verified as it will serve: {'; '.join(differences)}"
        for difference in differences if rule.served_as_verified else ():
            result.fail(f"it was not verified as it will serve: {difference}", _as_it_serves(image, environment))


def _as_it_serves(image: ImageReport, environment: str) -> str:
    where = "in Docker" if image.base else "in Docker, in the server that the environment names"
    return (
        f"run `lockstep verify` {where}, then `lockstep sign`; or let the owners set "
        f"promote.environments.{environment}.served_as_verified: false on the target branch"
    )
