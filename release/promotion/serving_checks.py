"""Checks how a release was verified, and by whom.

The server of an image is the image itself if it contains one. For an image with weights alone it is the server image
that the release names, else the environment. A verification in anything else (another runtime, a process, a URL,
another server) proves less. An environment refuses it unless its policy accepts it; then the pointer, `lockstep status`
and the pull request's comment say so.

A budget for 1,000 requests is compared with what the verifier measured and signed. Only figures of the class of machine
that the policy names count, because times and energy of another machine say nothing about this one. A figure that has a
bound and was not measured is a failure.
"""

from collections.abc import Iterator

from checks.config.release_params import ServingBudget
from checks.formats.serving import LONG_ENOUGH, ImageReport, Throughput
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused
from release.evidence import verification
from release.evidence.verification import AGAIN
from release.overlay import named_server
from release.promotion.checklist import CheckResult
from release.promotion.environment import Promotion

RENT = "run `lockstep verify` on such a machine, then `lockstep sign`"


def served(promotion: Promotion, release: Release, result: CheckResult) -> None:
    """Check the verification in ``release``: it is of this image, signed by a verifier, passed, and accepted here.

    The form of the statement ensures that it is about the image's model and verdict. The image must be stored where it
    was verified: others may change or delete a copy elsewhere.
    """
    rule = promotion.rule
    environment = promotion.environment
    image, serving = release.image, release.serving
    by = unverified = ""
    try:
        by = f", verified by {verification.check_verifier(release, promotion.context.signers)}"
    except EvidenceRefused as refused:
        unverified = refused.what
    failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
    runtimes, ways = ", ".join(rule.runtimes), ", ".join(rule.verified)
    for is_wrong, what in (
        # A running server does not report its image; an environment that accepts "url" accepts this.
        (
            serving.image is None and serving.how != "url",
            "the serving report is of a folder of weights, not of an image",
        ),
        (
            serving.image not in (None, image.image),
            f"the serving report is of the image {serving.image}, not {image.image}",
        ),
        (
            serving.model != image.model or serving.verdict != image.verdict,
            "the serving report is about another model or verdict",
        ),
        (
            serving.status != "pass",
            f"the serving report did not pass ({failed or 'an essential check is missing'})",
        ),
        (unverified, unverified),
        (
            serving.runtime not in rule.runtimes,
            f"it was served by {serving.runtime}; {environment} takes {runtimes}",
        ),
        (
            serving.how not in rule.verified,
            f"it was verified as a {serving.how}; {environment} takes {ways}",
        ),
    ):
        if is_wrong:
            result.fail(what, AGAIN)
    if image.runtime not in rule.runtimes:
        result.fail(
            f"the image is of the runtime {image.runtime}; {environment} takes {runtimes}",
            "build it with one of these: serve.runtime",
        )
    result.note = f"{serving.status} by {serving.runtime} as a {serving.how}{by}"
    if rule.budget is not None:
        over = list(over_budget(rule.budget, serving.throughput, environment))
        for what, todo in over:
            result.fail(what, todo)
        if not over and serving.throughput is not None:
            result.note += f"; {within_budget(rule.budget, serving.throughput)}"
    if differences := verification.unlike_serving(release, environment, promotion.present.files):
        result.note += f"; not verified the way it will be served: {'; '.join(differences)}"
        result.fail_each(
            (
                f"it was not verified the way it will be served: {difference}"
                for difference in differences
                if rule.served_as_verified
            ),
            _as_it_serves(image, environment),
        )
    named = named_server.named(environment, promotion.present.files)
    if image.server and named not in (None, image.server):
        result.note += f"; {environment}'s environment.yaml names {named}, which counts without serve.server only"
    place = str(promotion.reference._replace(digest=None))
    if place != image.place:
        result.fail(
            f"it is promoted from {place}, and was built and verified in {image.place}",
            "promote it from there",
        )


def _as_it_serves(image: ImageReport, environment: str) -> str:
    server = image.server or "the server that the environment names"
    how = "in Docker" if image.base else f"in Docker, in {server}"
    return (
        f"run `lockstep verify` {how}, then `lockstep sign`; or let the owners set "
        f"promote.environments.{environment}.served_as_verified: false on the target branch"
    )


def over_budget(
    budget: ServingBudget, found: Throughput | None, environment: str
) -> Iterator[tuple[str, str]]:
    """Yield each failure with what to do."""
    if found is None:
        yield f"the serving report has no throughput, which the budget of {environment} needs", RENT
        return
    machine = found.machine or "a machine that is not known"
    for is_other, what in (
        (
            found.machine != budget.machine,
            f"throughput was measured on {machine}, but the budget of {environment} is for {budget.machine}",
        ),
        (
            found.seconds < LONG_ENOUGH,
            f"its throughput was measured for {found.seconds:g} s, which is less than {LONG_ENOUGH:g} s",
        ),
    ):
        if is_other:
            yield what, RENT
            return
    less = f"make the model or its runtime faster, or have code owners raise promote.environments.{environment}.budget"
    if budget.watt_hours is not None:
        if (hours := found.watt_hours) is None:
            yield f"its energy was not measured: {'; '.join(found.energy.missing)}", RENT
        elif hours > budget.watt_hours:
            yield f"1,000 requests take {hours:.4g} Wh, above {budget.watt_hours:g}", less
    if budget.price is not None and budget.hourly_price is not None:
        price = found.price(budget.hourly_price)
        if price > budget.price:
            yield f"1,000 requests cost {price:.4g}, above {budget.price:g}", less


def within_budget(budget: ServingBudget, found: Throughput) -> str:
    """The figures that have a bound, on one line."""
    parts = []
    if budget.watt_hours is not None and found.watt_hours is not None:
        parts.append(f"{found.watt_hours:.4g} Wh, at most {budget.watt_hours:g}")
    if budget.price is not None and budget.hourly_price is not None:
        parts.append(f"price {found.price(budget.hourly_price):.4g}, at most {budget.price:g}")
    return f"1,000 requests on {found.machine}: {'; '.join(parts)}"
