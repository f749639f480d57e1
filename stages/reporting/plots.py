"""Plots of an evaluation as PNG and SVG: scores with intervals, slices, confusion. Without a display.

In:  an EvaluationReport, the candidate's predictions, pairs of reference and prediction. Out: files in a directory.
The same input gives the same bytes with the same Matplotlib: no dates, no random ids.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checks.formats.evaluation_reports import EvaluationReport, Interval
from checks.formats.verdict import Finding, Verdict
from checks.records.rows import Prediction
from checks.stats import intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by form, and by colours that the colour-blind tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/).
_STYLES = {"pass": ("#0072b2", "o"), "fail": ("#d55e00", "X"), "inconclusive": ("#737373", "D")}
_ZERO = "#9aa4b0"


def draw_differences(folder: Path, verdict: Verdict) -> None:
    """Write the picture below ``folder``; without a paired finding it says that there is none."""
    # Of scores alone: a loss in bits per byte has another scale, and less of it is better.
    paired = [
        f
        for f in verdict.findings
        if f.against is not None and f.value is not None and f.gained is not None
    ]
    with style():
        save(_differences(paired) if paired else _nothing(), folder / "differences")


def _differences(findings: Sequence[Finding]) -> "Figure":
    figure, axes = canvas(7.5, 1.5 + 0.55 * len(findings))
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
    axes.set_yticks(range(len(findings)), [_name_of_finding(finding) for finding in findings])
    axes.set_ylim(len(findings) - 0.4, -0.6)
    axes.set_xlabel(
        "candidate minus reference, one-sided bounds; dashed: the margin\nright: rows better and worse"
    )
    axes.set_title("paired differences on the same test rows", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _nothing() -> "Figure":
    figure, axes = canvas(7.5, 1.2)
    axes.set_axis_off()
    figure.text(
        0.02,
        0.5,
        "no gate of this verdict compared the candidate with a reference",
        va="center",
        color=_INK,
    )
    return figure


def _name_of_finding(finding: Finding) -> str:
    part = f", slice {finding.slice}" if finding.slice else ""
    return f"{short(finding.gate)}\n{finding.metric}{part} vs {finding.against}"


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER = "(other)"

# The colours are light, because an interval must be seen on its bar.
_CANDIDATE = "#7fb2e5"
_REST = "#d3dae2"
_INK = "#333333"
_MAX_SLICES = 40
_FEW = 20  # rows of a slice below which its interval says next to nothing: such slices are one bar
_LONGEST_NAME = 28


def draw(
    folder: Path,
    report: EvaluationReport,
    candidate: Sequence[Prediction],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Write the plots of ``report`` below ``folder``.

    ``pairs``: reference and prediction of the candidate, predictions outside the labels as OTHER; empty for free
    text, which has no confusion matrix.
    """
    scorer = next(iter(report.models["candidate"].metrics))
    with style():
        save(_scores(report, scorer), folder / "scores")
        save(_slices(report, candidate, scorer), folder / "slices")
        if pairs:
            save(_confusion(pairs), folder / "confusion")


def _scores(report: EvaluationReport, scorer: str) -> "Figure":
    rows = [(name, model.metrics[scorer]) for name, model in report.models.items()]
    return _bars(
        rows,
        f"{scorer} on {report.rows} test rows, {report.confidence:.0%} intervals",
        [_CANDIDATE if name == "candidate" else _REST for name, _ in rows],
    )


def _slices(report: EvaluationReport, candidate: Sequence[Prediction], scorer: str) -> "Figure":
    by_name = {name: metrics[scorer] for name, metrics in report.models["candidate"].slices.items()}
    few = {name for name, interval in by_name.items() if interval.n < _FEW}
    few = few if len(few) > 1 else set()
    ranked = sorted(by_name.keys() - few, key=lambda name: (-by_name[name].n, name))
    shown = [(f"{short(name)} ({by_name[name].n})", by_name[name]) for name in ranked[:_MAX_SLICES]]
    if pooled := [prediction for prediction in candidate if prediction.slice in few]:
        scores = [prediction.scores[scorer] for prediction in pooled]
        groups = [prediction.group for prediction in pooled]
        mean = intervals.mean_interval(scores, groups, report.confidence)
        shown.append((f"{len(few)} smaller ones ({len(pooled)})", mean))
    more = f", the {_MAX_SLICES} largest of {len(ranked)}" if len(ranked) > _MAX_SLICES else ""
    return _bars(shown, f"candidate: {scorer} by slice (rows){more}", [_CANDIDATE] * len(shown))


def _bars(rows: Sequence[tuple[str, Interval]], title: str, colours: Sequence[str]) -> "Figure":
    figure, axes = canvas(7.5, 1.1 + 0.36 * len(rows))
    values = [interval.value for _, interval in rows]
    below = [interval.value - interval.low for _, interval in rows]
    above = [interval.high - interval.value for _, interval in rows]
    places = range(len(rows))
    axes.barh(
        places, values, xerr=[below, above], color=colours, ecolor=_INK, height=0.62, capsize=3
    )
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for place, (_, interval) in enumerate(rows):
        axes.text(
            min(interval.high, 1.0) + 0.015, place, f"{interval.value:.3f}", va="center", color=_INK
        )
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion(pairs: Sequence[tuple[str, str]]) -> "Figure":
    counts = Counter(pairs)
    names = sorted(
        {reference for reference, _ in pairs} | {answer for _, answer in pairs if answer != OTHER}
    )
    columns = [*names, *([OTHER] if any(answer == OTHER for _, answer in pairs) else [])]
    size = 2.6 + 0.34 * len(columns)
    figure, axes = canvas(size, size)
    # Shares of a row: a common label does not outshine a rare one. The numbers are counts.
    totals = Counter(reference for reference, _ in pairs)
    shares = [[counts[row, column] / max(totals[row], 1) for column in columns] for row in names]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    small = max(5.0, 9 - 0.1 * len(columns))
    for y, row in enumerate(names):
        for x, column in enumerate(columns):
            if count := counts[row, column]:
                axes.text(
                    x,
                    y,
                    str(count),
                    ha="center",
                    va="center",
                    color="white" if shares[y][x] > 0.6 else _INK,
                    fontsize=small,
                )
    axes.set_xticks(range(len(columns)), [short(name) for name in columns], rotation=90)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    axes.set_title(f"candidate: {len(pairs)} test rows", loc="left")
    return figure


def short(name: str) -> str:
    """Return a label on one printable line, shortened if long."""
    one_line = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "(empty)"
    return one_line if len(one_line) <= _LONGEST_NAME else f"{one_line[: _LONGEST_NAME - 1]}…"


def canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return an empty picture of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@contextmanager
def style() -> Iterator[None]:
    """Set the style of all pictures."""
    import matplotlib as mpl

    settings: Any = {
        "font.size": 9,
        "axes.titlesize": 10,
        "text.parse_math": False,  # a dollar in a label is a dollar
        "svg.hashsalt": "lockstep",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def save(figure: "Figure", path: Path) -> None:
    """Write ``figure`` as PNG and SVG; ``path`` has no suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
