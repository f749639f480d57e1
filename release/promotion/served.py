"""Checks how a release was verified, and by whom.

The server of an image is the image itself if it contains one. For an image with weights alone it is the server image
that the environment names. A verification in anything else (another runtime, a process, a URL, another server) proves
less. An environment refuses it unless its policy accepts it; then the pointer, `lockstep status` and the pull request's
comment say so.
"""

from checks.formats.serving import ImageReport
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused
from release.evidence import served as served_as
from release.evidence.served import AGAIN
from release.promotion import serving_budget
from release.promotion.case import Promotion
from release.promotion.checklist import CheckResult


def served(promotion: Promotion, release: Release, result: CheckResult) -> None:
    """Check the verification in ``release``: it is of this image, signed by a verifier, passed, and accepted here.

    The form of the statement ensures that it is about the image's model and verdict. The image must be stored where it
    was verified: others may change or delete a copy elsewhere.
    """
    rule = promotion.rule
    environment = promotion.environment
    image, serving = release.image, release.serving
    # A running server does not report its image; an environment that accepts "url" accepts this.
    if serving.image is None and serving.how != "url":
        result.fail("the serving report is of a folder of weights, not of an image", AGAIN)
    elif serving.image not in (None, image.image):
        result.fail(f"the serving report is of the image {serving.image}, not {image.image}", AGAIN)
    if serving.model != image.model or serving.verdict != image.verdict:
        result.fail("the serving report is about another model or verdict", AGAIN)
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        result.fail(
            f"the serving report did not pass ({failed or 'an essential check is missing'})", AGAIN
        )
    by = ""
    try:
        by = f", verified by {served_as.verifier(release, promotion.context.signers)}"
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
    if rule.budget is not None:
        over = list(serving_budget.failures(rule.budget, serving.throughput, environment))
        for what, todo in over:
            result.fail(what, todo)
        if not over and serving.throughput is not None:
            result.note += f"; {serving_budget.said(rule.budget, serving.throughput)}"
    if differences := served_as.now(release, environment, promotion.present.files):
        result.note += f"; not verified the way it will be served: {'; '.join(differences)}"
        for difference in differences if rule.served_as_verified else ():
            result.fail(
                f"it was not verified the way it will be served: {difference}",
                _as_it_serves(image, environment),
            )
    place = str(promotion.reference._replace(digest=None))
    if place != image.place:
        result.fail(
            f"it is promoted from {place}, and was built and verified in {image.place}",
            "promote it from there",
        )


def _as_it_serves(image: ImageReport, environment: str) -> str:
    where = "in Docker" if image.base else "in Docker, in the server that the environment names"
    return (
        f"run `lockstep verify` {where}, then `lockstep sign`; or let the owners set "
        f"promote.environments.{environment}.served_as_verified: false on the target branch"
    )
