"""The command run, and what it shows afterwards."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import tables
from release.cli.common import ARTIFACT, FILE, VERBOSE, listener, refuse, refusing
from release.cli.wrapping import hanging, is_terminal

if TYPE_CHECKING:
    from checks.formats.verdict import Verdict


@click.command()
@click.argument("targets", nargs=-1, metavar="[STAGE]...")
@click.option("--force", is_flag=True, help="Run the stages even if nothing changed.")
@click.option(
    "--remote",
    is_flag=True,
    help="Fetch existing outputs from the DVC remote, and push new ones to it.",
)
@click.option(
    "--calibrate",
    "calibrates",
    is_flag=True,
    help="If the noise of evaluations is not known yet, measure it as `lockstep calibrate` does, and judge again.",
)
@VERBOSE
@click.option(
    "--launcher",
    metavar="FILE",
    envvar="LOCKSTEP_LAUNCHER",
    type=FILE,
    help="Run it on a cluster: FILE is a task of SkyPilot.",
)
@click.option(
    "--hand-over",
    "job",
    metavar="JOB",
    help="In such a task: also put the record on the DVC remote.",
)
@ARTIFACT
@click.pass_obj
@refusing
def run(
    root: Path, targets: tuple[str, ...], force: bool, remote: bool, calibrates: bool, verbose: bool,
    launcher: Path | None, job: str | None, artifact: Path | None,
) -> None:  # fmt: skip
    """Run the pipeline, or the part up to STAGE.

    Runs only the stages that changed. Refuses first if a local source differs from its pin in params.yaml. When the
    pipeline reaches a verdict, the exit code is that of `lockstep gate`. Prints one line for each stage; what DVC and
    the stages print is in .lockstep/run.log, and -v shows it.

    With --launcher (or LOCKSTEP_LAUNCHER) a cluster of SkyPilot runs the pipeline, and is torn down afterwards. The
    record and the outputs come from the DVC remote. An example of such a task:

    docs/clusters/launcher.yaml
    """
    from checks.decision.held import refusal as verdict_refusal
    from checks.formats.verdict import Verdict
    from checks.storage import files, layout
    from release.adapters.folder_lock import alone
    from release.record import hand_over, refusals
    from release.verbs import calibrate
    from release.verbs import run as pipeline

    if (force or calibrates) and (launcher or job):
        raise click.UsageError(
            "--force and --calibrate exclude --launcher and --hand-over: a cluster runs what changed"
        )
    with alone(root, "lockstep run"):
        if job:
            pipeline.hand_over(root, job, targets, listener(root, "run", verbose))
            return
        if artifact:
            hand_over.take(root, artifact)
        before = pipeline.evaluated(root)
        with refusals.recorded(root, "run"):
            if launcher:
                pipeline.launch(root, launcher, targets, listener(root, "run", verbose))
            else:
                pipeline.run(root, targets, force, remote, listener(root, "run", verbose))
                judges = not targets or "gate" in targets
                if calibrates and judges and pipeline.is_noise_unknown(root):
                    calibrate.calibrate(root, listener(root, "calibrate", verbose))
                    pipeline.run(root, targets, False, remote, listener(root, "run", verbose))
        if targets and "gate" not in targets:
            click.echo("next: ./lockstep run   (the rest, up to the verdict)")
            return
        # DVC has just made it, or compared with dvc.lock all that the stage gate read and wrote.
        verdict = files.read_json(root / layout.VERDICT, Verdict)
    click.echo()
    for what, text in [*tables.figures_of_run(before, pipeline.evaluated(root)), *_places(root)]:
        click.echo(hanging(f"  {what:<13} {text}"))
    click.echo(hanging(f"\n{tables.verdict(verdict, verbose or not is_terminal(sys.stdout))}"))
    following = _next(verdict)
    width = max((len(command) for command, _ in following), default=0) + 2
    for command, why in following:
        click.echo(hanging(f"  {command:<{width}}{why}"))
    refuse(verdict_refusal(verdict))


def _next(verdict: "Verdict") -> list[tuple[str, str]]:
    """Return what to do after a run: pairs of a command and its purpose."""
    commit = ("git add -A && git commit", "with the record: code.lock, dvc.lock and reports/")
    if verdict.status == "pass":
        return [
            commit,
            ("./lockstep build", "packs the model; what follows: docs/tutorial/first-release.md"),
        ]
    undone = [finding.gate for finding in verdict.findings if finding.status == verdict.status]
    return [
        (f"./lockstep gate --explain {gate}", "what it asks, and what would change it")
        for gate in undone[:3]
    ]


def _places(root: Path) -> list[tuple[str, str]]:
    """Where to find the results of a run: pairs of a label and a place."""
    from checks.config import params_file
    from checks.storage import layout

    mlflow = Path(os.path.relpath(Path(sys.executable).parent / "mlflow"))
    store = f"--backend-store-uri {params_file.load(root / layout.PARAMS).tracking.uri}"
    place = (
        "at MLFLOW_TRACKING_URI"
        if os.environ.get("MLFLOW_TRACKING_URI")
        else f"{mlflow} ui {store}"
    )
    view = "(choose Model training there)"  # MLflow opens every browser that is new to it in its view of traces
    return [
        ("verdict", f"{root / layout.VERDICT}   (again: ./lockstep gate)"),
        ("evaluation", str(root / layout.SUMMARY)),
        ("plots", f"{root / layout.PLOTS}, {root / layout.COMPARISON}"),
        ("data", "./lockstep data --html data.html"),
        ("MLflow", f"{place}   {view}"),
        ("model", str(root / layout.MERGED)),
    ]
