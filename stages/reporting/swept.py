"""Writes a sweep as Markdown: a table of its settings, and their differences over seeds."""

from checks.config.sweeps import Sweep, Values
from checks.stats import over_seeds
from checks.storage import layout


def named(values: Values) -> str:
    """The values on one line."""
    return (
        ", ".join(f"{path}={value}" for path, value in values.items())
        or f"{layout.PARAMS} as it is"
    )


def table(report: Sweep) -> str:
    """The report as Markdown, the best first."""
    ranked = report.by_values()
    head = ["values", f"{report.scorer} on valid", "seeds", "spread"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for values, runs in ranked:
        spread, refused = report.spread(runs), report.refused(values)
        shown = f"{report.mean(runs):.3f}"
        if spread is None:
            interval = runs[0].scores[report.scorer]
            shown += f" [{interval.low:.3f}, {interval.high:.3f}]"
        seeds = f"{len(runs)} of {len(runs) + refused}" if refused else str(len(runs))
        lines.append(
            "| "
            + " | ".join([named(values), shown, seeds, "" if spread is None else f"{spread:.3f}"])
            + " |"
        )
    refusals = [
        f"* {named(run.values)}, seed {run.seed}: refused: {run.refused}"
        for run in report.runs
        if run.refused
    ]
    note = (
        f"{len(report.runs)} trainings, compared on {report.rows} rows of the valid split. The best of several looks "
        "better than it is; the test split was not asked, so the gates' figures of the chosen one are honest."
    )
    if refusals:
        refusals.insert(0, "")
    return "\n".join(["# Sweep", "", note, "", *lines, *refusals, "", *_over_seeds(report), ""])


def _over_seeds(report: Sweep) -> list[str]:
    """Compare each setting with the best: lines with the interval over seeds and rows."""
    (best, of_best), *others = report.by_values()
    spread = report.spread(of_best)
    if spread is None:
        return ["One seed: a difference may be the seed's. Repeat `--seed` to compare parameters."]
    if not others:
        return [
            f"{over_seeds.said_of_one(report.mean(of_best), spread, len(of_best), report.confidence)}."
        ]
    lines = []
    for values, runs in others:
        one, two = runs[0].recipe, of_best[0].recipe
        difference = report.difference(one.parameters, two.parameters) if one and two else None
        text = (
            difference.said()
            if difference
            else "cannot be told, as a seed was refused, or no score differs"
        )
        lines.append(f"* {named(values)} against {named(best)}: {text}")
    together = f"The intervals of every two settings together hold with {report.confidence:.0%} confidence."
    return ["## Over seeds", "", f"{over_seeds.ABOUT} {together}", "", *lines]
