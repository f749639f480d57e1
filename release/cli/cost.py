"""The command estimate: predicts what a training will cost."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from release.cost.estimate import BudgetBound, Estimate, Range
    from release.cost.memory_ahead import MemoryAhead

_COLOURS = {"within": "green", "may exceed": "yellow", "likely exceeds": "yellow", "exceeds": "red"}
_COLOURS |= {"fits": "green", "not known": "yellow", "may not fit": "yellow", "does not fit": "red"}
_NAMES = {"train_minutes": "minutes of training", "gpu_hours": "GPU hours", "cost": "cost"}


@click.command()
@click.option("--target", metavar="REF", help="The target branch. Default: origin's default branch.")
@click.option(
    "--device", metavar="NAME", help="Part of the training GPU's name. Default: the device of the last record."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def estimate(root: Path, target: str | None, device: str | None, as_json: bool) -> None:
    """Estimate the time, cost and memory of the next training.

    The estimate is a range, scaled from the last training recorded in git. Run `lockstep run validate` first. Exits
    with 10 if even the low end of the range is above a bound of train_budget, in the work tree or on the target
    branch. Exits with 5 if the training needs more memory than train.max_memory_gb, and with 9 if it needs more than
    the device of the record has. Exits with 0 if there is no record to scale from.
    """
    from release.cost import estimate as verb
    from release.record import refusals

    with refusals.recorded(root, "estimate"):
        estimated = verb.estimate(root, target, device)
        click.echo(to_json(estimated.model_dump(mode="json")) if as_json else hanging(_shown(estimated)))
        if refusal := verb.refusal(estimated):
            raise refusal


def _shown(found: "Estimate") -> str:
    """A table of the estimates and their bounds, then the record and factors that they were scaled from."""
    from checks.training.cost import shown

    lines = [click.style(found.headline, bold=True)]
    rows = [_bounded(bound) for bound in found.bounds]
    with_bound = {bound.metric for bound in found.bounds}
    figures = {"train_minutes": found.minutes, "gpu_hours": found.gpu_hours, "cost": found.cost}
    rows += [
        (_NAMES[name], _range(figure), "no bound", "")
        for name, figure in figures.items()
        if figure is not None and name not in with_bound
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for what, figure, bound, status in rows:
        line = f"  {what:<{widths[0]}}  {figure:<{widths[1]}}  {bound:<{widths[2]}}"
        lines.append(f"{line}  {click.style(status, fg=_COLOURS.get(status))}".rstrip() if status else line.rstrip())
    if found.memory:
        lines.append(_memory(found.memory))
    if basis := found.basis:
        tokens = "" if basis.tokens is None else f", {basis.tokens:,} tokens"
        lines.append(
            f"scaled from commit {basis.commit[:12]} ({basis.ref}): {basis.seconds:,.4g} s for {basis.rows:,} rows x "
            f"{basis.epochs:,.4g} epochs{tokens} on {one_line(basis.device)}"
        )
        for factor in basis.factors:
            lines.append(f"  x {shown(factor.times):<8}{_off(factor.below, factor.above):<15}{one_line(factor.why)}")
    return "\n".join([*lines, *(f"note: {one_line(note)}" for note in found.notes)])


def _memory(needs: "MemoryAhead") -> str:
    from checks.training.memory import gigabytes

    least = gigabytes(needs.low)
    span = f"at least {least}" if needs.high is None else f"{least} to {gigabytes(needs.high)}"
    limit = f", of at most {one_line(needs.limited_by)}" if needs.limited_by else ""
    status = click.style(needs.status, fg=_COLOURS.get(needs.status))
    first = " before its first step" if needs.status == "not known" else ""
    return f"memory: {span}{limit}: {status}{first}"


def _bounded(bound: "BudgetBound") -> tuple[str, str, str, str]:
    figure = _range(bound.estimate) if bound.estimate else "no estimate"
    return _NAMES[bound.metric], figure, f"at most {bound.at_most:,.6g} ({bound.policy})", bound.status


def _range(figure: "Range") -> str:
    from checks.training.cost import shown

    return f"{shown(figure.middle)} ({shown(figure.low)} to {shown(figure.high)})"


def _off(below: float, above: float) -> str:
    """The uncertainty of a factor."""
    if below == above:
        return "" if below == 1 else f"x/÷ {below:.3g}"
    return f"÷ {below:.3g}, x {above:.3g}"
