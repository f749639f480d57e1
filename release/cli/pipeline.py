"""Commands about a model: run, gate, calibrate, sweep, recipe, references, schema, doctor."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import tables, terminal
from release.cli.common import listener, refusing, to_json, verbosely
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
@verbosely
@click.option(
    "--launcher",
    metavar="FILE",
    envvar="LOCKSTEP_LAUNCHER",
    type=click.Path(path_type=Path),
    help="Run it on a cluster: FILE is a task of SkyPilot, such as docs/clusters/launcher.yaml.",
)
@click.option(
    "--hand-over",
    "job",
    metavar="JOB",
    help="In such a task: also put the record on the DVC remote.",
)
@click.pass_obj
@refusing
def run(
    root: Path, targets: tuple[str, ...], force: bool, remote: bool, verbose: bool, launcher: Path | None,
    job: str | None,
) -> None:  # fmt: skip
    """Run the pipeline, or the part up to STAGE.

    Runs only the stages that changed. Refuses first if a local source differs from its pin in params.yaml. When the
    pipeline reaches a verdict, the exit code is that of `lockstep gate`. Prints one line for each stage; what DVC and
    the stages print is in .lockstep/run.log, and -v shows it.

    With --launcher (or LOCKSTEP_LAUNCHER) a cluster of SkyPilot runs the pipeline, and is torn down afterwards. The
    record and the outputs come from the DVC remote.
    """
    from checks.decision.held import refusal as verdict_refusal
    from release.adapters.alone import alone
    from release.record import refusals
    from release.verbs import gate as verb
    from release.verbs import launch
    from release.verbs import run as pipeline

    if force and (launcher or job):
        raise click.UsageError(
            "--force excludes --launcher and --hand-over: a cluster runs what changed"
        )
    if job:
        with alone(root, "lockstep run"):
            launch.hand_over(root, job, targets, listener(root, "run", verbose))
        return
    before = pipeline.evaluated(root)
    with alone(root, "lockstep run"):
        with refusals.recorded(root, "run"):
            if launcher:
                launch.launch(root, launcher, targets, listener(root, "run", verbose))
            else:
                pipeline.run(root, targets, force, remote, listener(root, "run", verbose))
        if targets and "gate" not in targets:
            click.echo("next: ./lockstep run   (the rest, up to the verdict)")
            return
        verdict = verb.gate(root, just_run=True)
    click.echo()
    for what, text in [*tables.figures_of_run(before, pipeline.evaluated(root)), *_places(root)]:
        click.echo(hanging(f"  {what:<13} {text}"))
    click.echo(hanging(f"\n{tables.verdict(verdict, verbose or not is_terminal(sys.stdout))}"))
    following = _next(verdict)
    width = max((len(command) for command, _ in following), default=0) + 2
    for command, why in following:
        click.echo(hanging(f"  {command:<{width}}{why}"))
    if refusal := verdict_refusal(verdict):
        raise refusal


@click.command()
@click.option(
    "--policy-from",
    metavar="REF",
    help="Also judge under the policy of this commit, such as the target branch.",
)
@click.option(
    "--explain",
    metavar="NAME",
    help="Explain one gate: its condition, its finding, what would change it.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="On a terminal too, print why each gate passes in full."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def gate(
    root: Path, policy_from: str | None, explain: str | None, verbose: bool, as_json: bool
) -> None:
    """Print the verdict if it still holds, the gates that fail last, and what to do.

    Exit codes: 0 pass, 10 fail, 11 inconclusive, 8 the verdict does not hold.

    The verdict is about these weights. For the parameters that made them: `lockstep recipe`.

    Hashes everything that was judged again, weights included, looks up the reference models in git again, and
    evaluates every gate again. With --explain the exit code is 0 whatever the gate says.
    """
    if policy_from is not None and explain is not None:
        raise click.UsageError("--policy-from and --explain exclude each other: give one of them")
    if explain is not None:
        _explain(root, explain, as_json)
    elif policy_from is not None:
        _judge_from(root, policy_from, as_json)
    else:
        from checks.decision.held import refusal as verdict_refusal
        from release.verbs import gate as verb

        verdict = verb.gate(root)
        whole = verbose or not is_terminal(sys.stdout)
        click.echo(
            to_json(verdict.model_dump(mode="json"))
            if as_json
            else hanging(tables.verdict(verdict, whole))
        )
        if refusal := verdict_refusal(verdict):
            raise refusal


@click.command()
@verbosely
@click.option("--json", "as_json", is_flag=True, help="Print reports/noise.json.")
@click.pass_obj
@refusing
def calibrate(root: Path, verbose: bool, as_json: bool) -> None:
    """Measure how far evaluations of one unchanged model differ.

    No gate's margin may be below this noise. Evaluates the merged model again in other orders and batch sizes, and
    writes reports/noise.json. What the stage prints is in .lockstep/calibrate.log.
    """
    from checks import layout
    from release.verbs import calibrate as verb

    report = verb.calibrate(root, listener(root, "calibrate", verbose))
    if as_json:
        click.echo(to_json(report.model_dump(mode="json")))
        return
    width = max(len(run.order) for run in report.runs)
    for run in report.runs:
        how = f"{run.order:<{width}}  {run.batch_tokens:>6} tokens a batch, {run.threads} threads"
        click.echo(hanging(f"  {how}: {tables.figures(run.metrics)}, {run.changed} rows changed"))
    floor = tables.figures(report.floor)
    click.echo(
        hanging(
            f"noise on {report.rows} rows ({report.device}): {floor}; a margin below it is refused"
        )
    )
    click.echo(hanging(f"wrote {layout.NOISE}: commit it, and run `lockstep run`"))


@click.command()
@click.argument("specs", nargs=-1, metavar="[PARAMETER=VALUE,VALUE]...")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    help="Train each combination with this seed too; repeat it.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Refuse more trainings.",
)
@verbosely
@click.option("--json", "as_json", is_flag=True, help="Print reports/sweep.json.")
@click.pass_obj
@refusing
def sweep(
    root: Path,
    specs: tuple[str, ...],
    seeds: tuple[int, ...],
    most: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Train with each combination of values, and compare the models on the valid split.

    For example: ./lockstep sweep train.lora.r=8,16 train.learning_rate=0.002,0.004 --seed 17 --seed 18

    Trains one after the other, as experiments of DVC. Prints one line for each stage; what DVC and the stages print is
    in .lockstep/sweep.log. Run the same sweep again to go on after an interruption. Never
    asks the test split, so the gates' figures of the chosen model are honest. Settings are compared by their means over
    seeds. Without a PARAMETER, each seed trains params.yaml as it is. Writes reports/sweep.json, and a table in
    reports/sweep.md.
    """
    from checks import layout
    from release.verbs import sweep as verb

    report = verb.sweep(root, specs, seeds, most, listener(root, "sweep", verbose))
    if as_json:
        click.echo(to_json(report.model_dump(mode="json")))
        return
    click.echo(hanging(terminal.text((root / layout.SWEEP_TABLE).read_text(encoding="utf-8"))))
    if specs:
        click.echo(f"to take the best: write its values into {layout.PARAMS}, then ./lockstep run")


@click.command()
@click.option(
    "--target", metavar="REF", help="The target branch. Default: origin's default branch."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def recipe(root: Path, target: str | None, as_json: bool) -> None:
    """Compare the parameters here with those of the target branch, over several seeds of a sweep.

    A verdict is about these weights: another seed gives another model. Reads reports/sweep.json, which `lockstep sweep
    --seed` writes, and trains nothing. Exits with 8 if that file was changed by hand, or measured with other
    parameters, data or another base than the record here.
    """
    from release.verbs import recipe as verb

    steps = verb.recipe(root, target)
    if as_json:
        spreads = {
            "here": steps.here._asdict(),
            "theirs": steps.theirs._asdict() if steps.theirs else None,
        }
        difference = {
            "difference": steps.difference.model_dump(mode="json") if steps.difference else None
        }
        click.echo(to_json(steps._asdict() | spreads | difference))
        return
    click.echo(
        tables.one_line(f"{steps.scorer} on {steps.rows} rows of the valid split, by parameters:")
    )
    for line in steps.lines:
        click.echo(hanging(f"  {tables.one_line(line)}"))


@click.command()
@click.option(
    "--target", metavar="REF", help="The target branch. Default: origin's default branch."
)
@click.option("--json", "as_json", is_flag=True, help="Print reports/references.json.")
@click.pass_obj
@refusing
def references(root: Path, target: str | None, as_json: bool) -> None:
    """Find the earlier models that this one is compared with, and those that each test split judged.

    Writes reports/references.json and reports/looks.json. `lockstep run` does this first. A verdict no longer holds
    once the reference models in git are others.
    """
    from checks import layout
    from release.record import looks
    from release.record import references as verb
    from release.record.records import Records

    written = verb.write(Records(root), target)
    counted = looks.write(Records(root))
    if as_json:
        click.echo(to_json(written.report.model_dump(mode="json")))
        return
    for name, reference in written.now.found.items():
        click.echo(
            f"{name:<12}model {reference.merged.removeprefix('sha256:')[:12]} of commit {reference.commit[:12]}"
        )
        then = written.report.found.get(name)
        if (then.merged if then else None) != reference.merged:
            what = f"model {then.merged.removeprefix('sha256:')[:12]}" if then else "none"
            click.echo(
                f"{'':<12}which is this record's own model; it was compared with the one before it: {what}"
            )
    for name, why in written.now.absent.items():
        click.echo(hanging(f"{name:<12}none: {why}"))
    files = f"{tables.recorded(layout.REFERENCES, written.changed)}; {tables.recorded(layout.LOOKS, counted)}"
    click.echo(hanging(f"target branch {written.target}; {files}"))


@click.command()
@click.option("--write", is_flag=True, help="Write docs/params.schema.json instead of printing.")
@click.pass_obj
@refusing
def schema(root: Path, write: bool) -> None:
    """Print the JSON Schema of params.yaml, for editors."""
    from checks import files, layout
    from checks.config import params_file

    if write:
        files.write_json(root / layout.PARAMS_SCHEMA, params_file.schema())
        click.echo(str(layout.PARAMS_SCHEMA))
    else:
        click.echo(to_json(params_file.schema()))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--registry", metavar="HOST", help="Also check the login to this container registry.")
@click.option(
    "--github",
    is_flag=True,
    help="Check the settings of the repository on GitHub instead of this machine.",
)
@click.pass_obj
@refusing
def doctor(root: Path, as_json: bool, registry: str | None, github: bool) -> None:
    """Check what this machine lacks, and print the fixes.

    Checks what each stage and command needs. Exits with 9 if the pipeline cannot run here. What only some commands
    need is listed, but is no error. With --github it checks the repository settings that the workflows need, with
    GITHUB_TOKEN or the login of gh. Settings that the token may not read are listed as unknown: no error, but not
    ready either.
    """
    from checks.errors import MachineRefused
    from release import doctor as verb

    if github and registry is not None:
        raise click.UsageError("--registry and --github exclude each other: give one of them")
    checks = verb.on_github(root) if github else verb.doctor(root, registry)
    missing, unknown = (
        [check.name for check in checks if check.status == status]
        for status in ("missing", "unknown")
    )
    if as_json:
        click.echo(to_json([check._asdict() for check in checks]))
    else:
        width = max(16, *(len(check.name) + 2 for check in checks))
        for check in checks:
            status = click.style(f"{check.status:<9}", fg=tables.COLOURS[check.status])
            click.echo(
                hanging(
                    f"{status}{check.name:<{width}}{check.found}  [{', '.join(check.needed_by)}]"
                )
            )
            if check.fix:
                click.echo(hanging(f"{'':<{9 + width}}→ {check.fix}"))
        if unknown:
            click.echo(
                f"not known to be ready: {len(unknown)} of {len(checks)} settings could not be read"
            )
        elif github and not missing:
            click.echo("ready for a pull request")
    if missing:
        problem = (
            "the workflows cannot run, or are not safe"
            if github
            else "the pipeline cannot run here"
        )
        raise MachineRefused(f"{problem}: {', '.join(missing)}", "run the commands named above")


def _explain(root: Path, name: str, as_json: bool) -> None:
    from release.verbs import explain as verb

    lines = verb.explain(root, name)._asdict()
    if as_json:
        click.echo(to_json(lines))
        return
    for what, line in lines.items():
        click.echo(hanging(f"{click.style(f'{what:<9}', bold=True)}{line}"))


def _judge_from(root: Path, ref: str, as_json: bool) -> None:
    from checks.decision import policy_judgement
    from release.verbs import gate as verb

    judgement = verb.judge_from(root, ref)
    click.echo(
        to_json(judgement.model_dump(mode="json")) if as_json else hanging(tables.policy(judgement))
    )
    if refusal := policy_judgement.refusal(judgement):
        raise refusal


def _next(verdict: "Verdict") -> list[tuple[str, str]]:
    """Return what to do after a run: pairs of a command and its purpose."""
    commit = ("git add code.lock dvc.lock reports params.yaml", "and commit")
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
    from checks import layout
    from checks.config import params_file

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
