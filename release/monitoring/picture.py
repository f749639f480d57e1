"""The picture of a window: a line for each finding, with its value, its bounds and what it is held to. SVG."""

from collections.abc import Iterator
from typing import Any

from checks.formats.watch_report import WatchFinding, WatchReport
from checks.text import escape

_COLOURS = {"pass": "#1a7f37", "fail": "#cf222e", "inconclusive": "#9a6700"}
_WIDTH, _LEFT, _RIGHT, _TOP, _LINE = 860, 250, 560, 82, 34
_LONGEST = 80


def draw(report: WatchReport) -> str:
    """The picture as text. The same report gives the same bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("release.monitoring", "."), autoescape=True, undefined=StrictUndefined
    )
    when = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    return environment.get_template("picture.svg.jinja").render(
        title=f"{report.environment} {report.version}: {report.status}",
        subtitle=f"{when}, {report.requests:,} requests, {report.prompts:,} different prompts",
        width=_WIDTH, height=_TOP + _LINE * len(report.findings) + 24, left=_LEFT, right=_RIGHT,
        rows=list(_rows(report.findings)), confidence=f"{report.confidence:.0%}",
    )  # fmt: skip


def _rows(findings: tuple[WatchFinding, ...]) -> Iterator[dict[str, Any]]:
    for number, each in enumerate(findings):
        reason = escape(each.reason)
        row = {
            "y": _TOP + _LINE * number, "name": each.name, "status": each.status, "colour": _COLOURS[each.status],
            "reason": reason, "short": reason[:_LONGEST], "value": None,
        }  # fmt: skip
        if each.value is not None and each.low is not None and each.high is not None:
            row |= _placed(each, each.value, each.low, each.high)
        yield row


def _placed(each: WatchFinding, value: float, low: float, high: float) -> dict[str, Any]:
    """Where the figures lie on the line. Of a difference, its value is drawn."""
    compared = each.kind in ("proxy", "quality") and each.unit == "share"
    at = value - each.reference if compared and each.reference is not None else value
    marks = [at, low, high, *([each.bound] if each.bound is not None else [])]
    least, most = min(marks), max(marks)
    room = (most - least) * 0.1 or 0.01

    def place(figure: float) -> float:
        return round(_LEFT + (figure - least + room) / (most - least + 2 * room) * (_RIGHT - _LEFT), 1)

    sign = "+" if compared else ""
    return {
        "value": place(at), "low": place(low), "high": place(high),
        "bound": None if each.bound is None else place(each.bound),
        "figures": f"{each.unit} {at:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]",
    }  # fmt: skip
