"""The paired differences of a verdict as a picture, PNG and SVG: each with its bounds, zero, and the margin.

In:  a Verdict. Out: ``differences.png`` and ``differences.svg`` in a directory; the same verdict gives the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from checks.formats.verdict import Finding, Verdict
from stages.reporting import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by form, and by colours that the colour-blind tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/).
_STYLES = {"pass": ("#0072b2", "o"), "fail": ("#d55e00", "X"), "inconclusive": ("#737373", "D")}
_INK, _ZERO = "#333333", "#9aa4b0"


def draw(folder: Path, verdict: Verdict) -> None:
    """Write the picture below ``folder``; without a paired finding it says that there is none."""
    # Of scores alone: a loss in bits per byte has another scale, and less of it is better.
    paired = [
        f
        for f in verdict.findings
        if f.against is not None and f.value is not None and f.gained is not None
    ]
    with plots.style():
        plots.save(_figure(paired) if paired else _nothing(), folder / "differences")


def _figure(findings: Sequence[Finding]) -> "Figure":
    figure, axes = plots.canvas(7.5, 1.5 + 0.55 * len(findings))
    axes.axvline(0, color=_ZERO, linewidth=1, zorder=1)
    for place, finding in enumerate(findings):
        assert finding.value is not None
        assert finding.low is not None
        assert finding.high is not None
        assert finding.bound is not None
        colour, marker = _STYLES[finding.status]
        axes.plot(
            [finding.low, finding.high],
            [place, place],
            color=colour,
            linewidth=3,
            solid_capstyle="butt",
            zorder=2,
        )
        axes.plot([finding.value], [place], marker=marker, markersize=8, color=colour, zorder=3)
        # The margin is the gate's own, so its line is no longer than the gate's row.
        axes.plot(
            [finding.bound] * 2,
            [place - 0.38, place + 0.38],
            color=_INK,
            linestyle=(0, (3, 2)),
            zorder=2,
        )
        flips = f"+{finding.gained} −{finding.lost} of {finding.n}"
        axes.text(
            1.01,
            place,
            f"{finding.status}\n{flips}",
            transform=axes.get_yaxis_transform(),
            va="center",
            color=_INK,
        )
    axes.set_yticks(range(len(findings)), [_name(finding) for finding in findings])
    axes.set_ylim(len(findings) - 0.4, -0.6)
    axes.set_xlabel(
        "candidate minus reference, one-sided bounds; dashed: the margin\nright: rows better and worse"
    )
    axes.set_title("paired differences on the same test rows", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _nothing() -> "Figure":
    figure, axes = plots.canvas(7.5, 1.2)
    axes.set_axis_off()
    figure.text(
        0.02,
        0.5,
        "no gate of this verdict compared the candidate with a reference",
        va="center",
        color=_INK,
    )
    return figure


def _name(finding: Finding) -> str:
    part = f", slice {finding.slice}" if finding.slice else ""
    return f"{plots.short(finding.gate)}\n{finding.metric}{part} vs {finding.against}"
