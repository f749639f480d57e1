"""The command feedback."""

from pathlib import Path

import click

from release.cli.common import CAPTURES, FILE, refusing
from release.cli.tables import one_line


@click.command()
@click.argument("file", metavar="[FILE]", required=False, type=FILE)
@click.option(
    "--mlflow",
    "experiment",
    metavar="EXPERIMENT",
    help="Read the assessments of this experiment's traces instead of FILE.",
)
@click.option(
    "--assessment", metavar="NAME", default="expected_response", show_default=True,
    help="With --mlflow: name of the assessments whose text is the correct answer.",
)  # fmt: skip
@CAPTURES
@click.pass_obj
@refusing
def feedback(
    root: Path, file: Path | None, experiment: str | None, assessment: str, captures: str | None
) -> None:
    """Store what the answers to captured requests should have been, for `lockstep watch`.

    FILE has a JSON object a line: {"request_id": "…", "label": "…"}. The id is the gateway's, from the header
    X-Request-Id of the answer.

    With --mlflow, the labels are expectations, and feedback from people, for traces of the MLflow server that
    MLFLOW_TRACKING_URI names. The id is the client_request_id of the trace or else the trace's own, as in `lockstep
    capture`. Assessments of judges, and those that only say right or wrong, are left out.
    """
    from release.verbs import feedback as verb

    if (file is None) == (experiment is None):
        raise click.UsageError("Give either FILE or --mlflow EXPERIMENT.")
    if file is not None:
        result = verb.feedback(root, file, captures)
    else:
        result = verb.feedback_from_mlflow(root, str(experiment), assessment, captures)
    for reason, count in result.left_out:
        click.echo(f"left out: {count:,} assessments: {one_line(reason)}", err=True)
    click.echo(
        f"stored {result.labels:,} labels of {result.requests:,} requests: {one_line(result.name)}"
    )
