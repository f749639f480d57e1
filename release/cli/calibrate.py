"""The command calibrate."""

from pathlib import Path

import click

from release.cli import tables
from release.cli.common import VERBOSE, listener, refusing, show


@click.command()
@VERBOSE
@click.option("--json", "as_json", is_flag=True, help="Print reports/noise.json.")
@click.pass_obj
@refusing
def calibrate(root: Path, verbose: bool, as_json: bool) -> None:
    """Measure how far evaluations of one unchanged model differ.

    No gate's margin may be below this noise. Evaluates the merged model again in other orders and batch sizes, and
    writes reports/noise.json. What the stage prints is in .lockstep/calibrate.log.
    """
    from checks.storage import layout
    from release.verbs import calibrate as verb

    report = verb.calibrate(root, listener(root, "calibrate", verbose))
    width = max(len(run.order) for run in report.runs)
    floor = tables.figures(report.floor)
    lines = [
        *(
            f"  {run.order:<{width}}  {run.batch_tokens:>6} tokens a batch, {run.threads} threads: "
            f"{tables.figures(run.metrics)}, {run.changed} rows changed"
            for run in report.runs
        ),
        f"noise on {report.rows} rows ({report.device}): {floor}; a margin below it is refused",
        f"wrote {layout.NOISE}: commit it, and run `lockstep run`",
    ]
    show(report, as_json, "\n".join(lines))
