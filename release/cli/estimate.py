"""The command estimate: predicts what a training will cost."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import JSON, TARGET_BRANCH, refuse, refusing, show
from release.cli.tables import one_line

if TYPE_CHECKING:
    from release.cost.estimate import Estimate

_COLOURS = {"within": "green", "may exceed": "yellow", "likely exceeds": "yellow", "exceeds": "red"}
_NAMES = {"train_minutes": "minutes of training", "gpu_hours": "GPU hours", "cost": "cost"}


@click.command()
@TARGET_BRANCH
@click.option(
    "--device",
    metavar="NAME",
    help="Part of the training GPU's name. Default: the device of the last record.",
)
@JSON
@click.pass_obj
@refusing
def estimate(root: Path, target: str | None, device: str | None, as_json: bool) -> None:
    """Estimate the time and cost of the next training.

    The estimate is a range, scaled from the last training recorded in git. Run `lockstep run validate` first. Exits
    with 10 if even the low end of the range is above a bound of train_budget, in the work tree or on the target
    branch. Exits with 0 if there is no record to scale from.
    """
    from release.cost import estimate as verb
    from release.record import refusals

    with refusals.recorded(root, "estimate"):
        result = verb.estimate(root, target, device)
        show(result, as_json, _table)
        refuse(verb.refusal(result))


def _table(result: "Estimate") -> str:
    """Write a table of the estimates and their bounds, then the record and factors that they were scaled from."""
    from release.cost.forecast import shown

    lines = [click.style(result.headline, bold=True)]
    rows: list[tuple[str, str, str, str]] = [
        (
            _NAMES[bound.metric],
            bound.estimate.text if bound.estimate else "no estimate",
            f"at most {bound.at_most:,.6g} ({bound.policy})",
            bound.status,
        )
        for bound in result.bounds
    ]
    with_bound = {bound.metric for bound in result.bounds}
    figures = {"train_minutes": result.minutes, "gpu_hours": result.gpu_hours, "cost": result.cost}
    rows += [
        (_NAMES[name], figure.text, "no bound", "")
        for name, figure in figures.items()
        if figure is not None and name not in with_bound
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for what, figure, bound, status in rows:
        line = f"  {what:<{widths[0]}}  {figure:<{widths[1]}}  {bound:<{widths[2]}}"
        lines.append(
            f"{line}  {click.style(status, fg=_COLOURS.get(status))}".rstrip()
            if status
            else line.rstrip()
        )
    if (answering := result.answering) and (answering.draws > 1 or answering.thought_tokens):
        thoughts = answering.thought_tokens
        after = f", each after {shown(thoughts)} tokens of thought" if thoughts else ""
        lines.append(
            f"answers: {answering.minutes.text} min for {answering.rows:,} rows x {answering.draws} draws{after}"
        )
    if basis := result.basis:
        tokens = "" if basis.tokens is None else f", {basis.tokens:,} tokens"
        lines.append(
            f"scaled from commit {basis.commit[:12]} ({basis.ref}): {basis.seconds:,.4g} s for {basis.rows:,} rows x "
            f"{basis.epochs:,.4g} epochs{tokens} on {one_line(basis.device)}"
        )
        errors = (f"x/÷ {factor.above:.3g}" if factor.above > 1 else "" for factor in basis.factors)
        lines += [
            f"  x {shown(factor.times):<8}{error:<10}{one_line(factor.why)}"
            for factor, error in zip(basis.factors, errors, strict=True)
        ]
    return "\n".join([*lines, *(f"note: {one_line(note)}" for note in result.notes)])
