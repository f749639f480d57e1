"""The picture of a window: for each finding its value, its bounds and what it is held to. SVG, also for a phone.

Texts are wrapped by their number of characters, because nothing here knows the width of a font.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from checks.formats.watch_report import WatchFinding, WatchReport
from checks.process.text import escape
from release.pages.bars import Line

_WIDTH, _MARGIN, _LEFT, _RIGHT = 440, 16, 36, 424
_TOP, _ROW, _LEGEND = 100, 68, 56
_LONGEST = 54  # characters of a line


def draw(report: WatchReport) -> str:
    """The picture as text. The same report gives the same bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("release.monitoring", "."), autoescape=True, undefined=StrictUndefined
    )
    legend = (
        f"Circle: the value in this window. Bar: its one-sided bounds at {report.confidence:.0%}. "
        "Dashed: the bound that it is compared with. Each row has its own scale."
    )
    return environment.get_template("picture.svg.jinja").render(
        title=f"{report.environment} {report.version}", status=report.status,
        subtitle=[
            f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC",
            f"{report.requests:,} requests, {report.prompts:,} different prompts",
        ],
        width=_WIDTH, height=_TOP + _ROW * len(report.findings) + _LEGEND, margin=_MARGIN, left=_LEFT, right=_RIGHT,
        rows=list(_rows(report.findings)), legend=_wrapped(legend, 3),
    )  # fmt: skip


def _wrapped(text: str, lines: int) -> list[str]:
    return textwrap.wrap(text, _LONGEST, max_lines=lines, placeholder="…")


def _rows(findings: tuple[WatchFinding, ...]) -> Iterator[dict[str, Any]]:
    for number, finding in enumerate(findings):
        reason = escape(finding.reason)
        row = {
            "y": _TOP + _ROW * number, "name": finding.name, "status": finding.status, "reason": reason,
            "lines": _wrapped(reason, 2), "value": None,
        }  # fmt: skip
        if finding.value is not None and finding.low is not None and finding.high is not None:
            row |= _placed(finding, finding.value, finding.low, finding.high)
        yield row


def _placed(each: WatchFinding, value: float, low: float, high: float) -> dict[str, Any]:
    """Where the figures lie on the line. Of a difference, its value is drawn."""
    compared = each.kind in ("proxy", "quality") and each.unit == "share"
    at = value - each.reference if compared and each.reference is not None else value
    marks = [at, low, high, *([each.bound] if each.bound is not None else [])]
    line = Line.over(marks)

    def place(figure: float) -> float:
        return round(_LEFT + line.place(figure) / 100 * (_RIGHT - _LEFT), 1)

    sign = "+" if compared else ""
    return {
        "value": place(at), "low": place(low), "high": place(high),
        "bound": None if each.bound is None else place(each.bound),
        "lines": [f"{each.unit} {at:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"],
    }  # fmt: skip
