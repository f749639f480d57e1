"""Renders a comparison of two records: as Markdown for a terminal, and as one page of HTML."""

from release.pages import html, templates
from release.review import comparison

SECTIONS = ("metrics", "slices", "parameters", "data", "cost")
_FIRST_ANSWERS = 5


def sections(compared: comparison.Comparison, a: str = "A", b: str = "B") -> dict[str, str]:
    """Return the Markdown of each section of a page, by name. ``a`` and ``b``: what the two sides are called."""
    return _markdown(compared, SECTIONS, {"a": a, "b": b, "whole": True})


def text_sections(compared: comparison.Comparison, all_answers: bool) -> dict[str, str]:
    """Return the Markdown of each section for a terminal, which shows the largest slices and the first answers."""
    answers = compared.answers if all_answers else compared.answers[:_FIRST_ANSWERS]
    names = ("sides", *SECTIONS, "answers")
    return _markdown(compared, names, {"a": "A", "b": "B", "whole": False, "answers": answers})


def render(compared: comparison.Comparison) -> str:
    """Return the page."""
    (sides,) = _markdown(compared, ("sides",), {"a": "A", "b": "B"}).values()
    return html.render(
        "release.review", "comparison.html.jinja", found=compared, sides=sides, sections=sections(compared),
        answers=compared.answers[: html.ANSWERS], who=comparison.who,
    )  # fmt: skip


def _markdown(
    compared: comparison.Comparison, names: tuple[str, ...], values: dict[str, object]
) -> dict[str, str]:
    values = {"found": compared, "verdict": comparison.verdict, "who": comparison.who} | values
    return templates.sections("release.review", "comparison.md.jinja", names, values)
