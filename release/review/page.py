"""A comparison as one page of HTML: see ``release.pages.html``."""

from release.pages import html
from release.review import comparison
from release.review.comparison import Comparison


def render(found: Comparison) -> str:
    """The page."""
    return html.render(
        "release.review", "comparison.html.jinja", found=found, answers=found.answers[: html.ANSWERS],
        verdict=comparison.verdict,
    )  # fmt: skip
