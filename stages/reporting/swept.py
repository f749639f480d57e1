"""What people see of a sweep: a table, the differences over seeds, and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from checks import layout
from checks.config.sweeps import Range, Sweep, SweptRun, Tried
from checks.stats import over_seeds
from stages.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = "#1f5fa8"


def named(values: Mapping[str, JsonValue]) -> str:
    """The values on one line."""
    return ", ".join(f"{path}={value}" for path, value in values.items()) or f"{layout.PARAMS} as it is"


def table(report: Sweep) -> str:
    """The report as Markdown, the best first."""
    ranked = report.by_values()
    head = ["values", "trained, M", f"{report.scorer} on valid", "seeds", "spread", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for values, runs in ranked:
        first, spread, refused = runs[0], report.spread(runs), report.refused(values)
        shown = f"{report.mean(runs):.3f}"
        if len(runs) == 1:
            interval = first.scores[report.scorer]
            shown += f" [{interval.low:.3f}, {interval.high:.3f}]"
        seconds = sum(run.seconds or 0 for run in runs) / len(runs)
        cells = [
            named(values), f"{(first.trainable_parameters or 0) / 1e6:.2f}", shown,
            f"{len(runs)} of {len(runs) + refused}" if refused else str(len(runs)),
            "" if spread is None else f"{spread:.3f}", f"{seconds:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    refusals = [f"* {named(run.values)}, seed {run.seed}: refused: {run.refused}" for run in report.runs if run.refused]
    note = (
        f"{len(report.runs)} trainings, compared on {report.rows} rows of the valid split. The best of several looks "
        "better than it is; the test split was not asked, so the gates' figures of the chosen one are honest."
    )
    seeds = ["", *_over_seeds(report)]
    return "\n".join(["# Sweep", "", note, "", *lines, *([""] if refusals else []), *refusals, *seeds, ""])


def _over_seeds(report: Sweep) -> list[str]:
    """What the table says of parameters: each against the best, with the interval over seeds and rows."""
    (best, of_best), *others = report.by_values()
    spread = report.spread(of_best)
    if report.search:
        chosen = f"Values by {report.search}: each was chosen by the scores before"
        return [f"{chosen}. So no interval between two of them would hold. Sweep the best as lists, with other seeds."]
    if spread is None:
        return ["One seed: a difference may be the seed's. Repeat `--seed` to compare parameters."]
    if not others:
        return [f"{over_seeds.said_of_one(report.mean(of_best), spread, len(of_best), report.confidence)}."]
    told = []
    for values, runs in others:
        one, two = runs[0].recipe, of_best[0].recipe
        difference = report.difference(one.parameters, two.parameters) if one and two else None
        said = difference.said() if difference else "cannot be told, as a seed was refused, or no score differs"
        told.append(f"* {named(values)} against {named(best)}: {said}")
    together = f"The intervals of every two settings together hold with {report.confidence:.0%} confidence."
    return ["## Over seeds", "", f"{over_seeds.ABOUT} {together}", "", *told]


def draw(folder: Path, report: Sweep, tried: Tried) -> None:
    """Write the plots: scores.svg if values were tried, and seconds.svg."""
    from matplotlib.figure import Figure

    runs = [run for run in report.runs if run.refused is None]
    with plots.style():
        if tried:
            figure = Figure(figsize=(7.5, 3.0 * len(tried)), layout="constrained")
            for axes, (path, values) in zip(
                figure.subplots(len(tried), squeeze=False)[:, 0], tried.items(), strict=True
            ):
                if isinstance(values, Range):
                    _along(axes, report, runs, path, values)
                else:
                    _against(axes, report, runs, path, values)
                axes.set_title(
                    f"{report.scorer} on {report.rows} valid rows, by {path}: a point a training", loc="left"
                )
                axes.spines[["top", "right"]].set_visible(False)
            plots.save(figure, folder / "scores")
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        _pareto(figure.subplots(), report, runs)
        plots.save(figure, folder / "seconds")


def _against(axes: "Axes", report: Sweep, runs: Sequence[SweptRun], path: str, values: Sequence[JsonValue]) -> None:
    """The score against one parameter: a point a training, a line through the means."""
    points = [
        (place, run.scores[report.scorer].value)
        for place, value in enumerate(values)
        for run in runs
        if run.values[path] == value
    ]
    axes.plot([x for x, _ in points], [y for _, y in points], "o", color=_POINTS, alpha=0.7)
    means = [(x, [y for at, y in points if at == x]) for x in range(len(values))]
    axes.plot([x for x, ys in means if ys], [sum(ys) / len(ys) for _, ys in means if ys], color=_POINTS)
    axes.set_xticks(range(len(values)), [plots.short(str(value)) for value in values])


def _along(axes: "Axes", report: Sweep, runs: Sequence[SweptRun], path: str, values: Range) -> None:
    """The score along a range that was searched: a point a training."""
    chosen = [cast(float, run.values[path]) for run in runs]  # a range has numbers alone
    axes.plot(chosen, [run.scores[report.scorer].value for run in runs], "o", color=_POINTS, alpha=0.7)
    if values.log:
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if values.high < 1000 * values.low else (1.0,)))
        axes.xaxis.set_major_formatter("{x:g}")  # not by powers of ten: the style sets no mathematics
        axes.xaxis.set_minor_locator(NullLocator())


def _pareto(axes: "Axes", report: Sweep, runs: Sequence[SweptRun]) -> None:
    """The score against the seconds of training: a point a training.

    A line joins and names those settings that trained with every seed and whose means no other beats in both.
    """
    points = [(run.seconds, run.scores[report.scorer].value) for run in runs if run.seconds is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], "o", color=_POINTS, alpha=0.7)
    means = sorted(
        (
            (fmean(seconds), report.mean(each), values)
            for values, each in report.by_values()
            if (seconds := [run.seconds for run in each if run.seconds is not None]) and not report.refused(values)
        ),
        key=lambda mean: (mean[0], -mean[1]),
    )
    front = [mean for at, mean in enumerate(means) if all(other[1] < mean[1] for other in means[:at])]
    axes.step([x for x, _, _ in front], [y for _, y, _ in front], where="post", color=_POINTS)
    for x, y, values in front:
        name = plots.short(named({path.rpartition(".")[2]: value for path, value in values.items()}))
        axes.annotate(name, (x, y), xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=8)
    left, right = axes.get_xlim()
    axes.set_xlim(left - 0.4 * (right - left), right)  # room for the name of the leftmost
    axes.set_xlabel("seconds of training")
    axes.set_title(f"{report.scorer} on {report.rows} valid rows against time", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
