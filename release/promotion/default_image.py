"""Chooses the image to promote or approve when none is named."""

from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.storage import files, layout
from release.adapters import commits
from release.adapters.registry import reference
from release.promotion.checklist import PromotionContext


def find(context: PromotionContext, environment: str, named: str | None) -> reference.Reference:
    """The image, by digest and without a tag: ``named``, else what the previous environment runs, else what was built.

    Raises PromotionRefused or EvidenceRefused if there is none, PromotionRefused if what was built is older than what
    the environment runs, BuildRefused if ``named`` is not a valid reference.
    """
    rule = context.rule(environment)
    if named is None and rule.after is not None:
        named = context.must_run(rule.after).image
    elif named is None:
        try:
            report = files.read_json(context.root / layout.IMAGE_REPORT, ImageReport)
        except EvidenceRefused as refused:
            raise EvidenceRefused(
                refused.what, "run `lockstep build`, or name an image by --image"
            ) from refused
        named = f"{report.place}@{report.image}"
        _check_order(context, environment, named)
    image = reference.parse(named)
    if image.digest is None:
        raise PromotionRefused(
            f"{named}: names no digest, and a tag can be moved", "write it as HOST/NAME@sha256:…"
        )
    return image._replace(tag=None)


def _check_order(context: PromotionContext, environment: str, built: str) -> None:
    """Raise PromotionRefused if the environment runs a release whose record came to the target branch after HEAD.

    A job that is run again has the commit that it had at first: it would put an older model in the place of a newer.
    """
    runs = context.runs(environment)
    head = context.records.head
    if runs is None or head in (None, context.trunk) or runs.image == built:
        return
    if commits.is_ancestor(context.root, runs.commit, context.trunk) and not commits.is_ancestor(
        context.root, runs.commit, head
    ):
        raise PromotionRefused(
            f"{environment} runs {runs.version}, whose record came to {context.target} after what was built here",
            f"git pull, and build that; to move it to the older one: --image {built}",
        )
