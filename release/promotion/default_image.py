"""Chooses the image to promote or approve when none is named."""

from checks.config.release_params import Environment
from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused, PromotionRefused
from checks.storage import files, layout
from release.adapters.registry import reference
from release.promotion.checklist import PromotionContext


def find(context: PromotionContext, rule: Environment, named: str | None) -> reference.Reference:
    """The image, by digest and without a tag: ``named``, else what the previous environment runs, else what was built.

    Raises PromotionRefused or EvidenceRefused if there is none, BuildRefused if ``named`` is not a valid reference.
    """
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
    image = reference.parse(named)
    if image.digest is None:
        raise PromotionRefused(
            f"{named}: names no digest, and a tag can be moved", "write it as HOST/NAME@sha256:…"
        )
    return image._replace(tag=None)
