"""The command ``lockstep``: parses, calls one function, echoes one result. Nothing else prints or exits.

Heavy imports live in the commands, so that ``lockstep --help`` is instant.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import click

from release import tables

P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a Refusal into its lines on standard error and its exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from checks.errors import Refusal

        try:
            command(*args, **kwargs)
        except Refusal as refusal:
            for line in (str(refusal), *refusal.others):
                click.secho(f"lockstep: {line}", err=True, fg="red")
            sys.exit(refusal.exit_code)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lockstep")
@click.option(
    "-C",
    "root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The repository, when it is not the current directory.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """Releases of fine-tuned language models: promoted when every gate passes, or not at all.

    Exit codes are listed in docs/exit-codes.md.
    """
    context.obj = root


@main.command()
@click.argument("targets", nargs=-1, metavar="[STAGE]...")
@click.option("--force", is_flag=True, help="Run the stages even when nothing changed.")
@click.pass_obj
@refusing
def run(root: Path, targets: tuple[str, ...], force: bool) -> None:
    """Run the pipeline (all of it, or up to STAGE) and say where to look.

    Only what changed is run. Exits as `lockstep gate` does when the pipeline reaches its verdict.
    """
    from release import gate as verb
    from release import run as pipeline

    pipeline.run(root, targets, force)
    if targets and "gate" not in targets:
        return
    verdict = verb.gate(root)
    click.echo(f"\n{tables.verdict(verdict)}\n")
    for what, where in _places(root):
        click.echo(f"  {what:<14}{where}")
    click.echo("\nThe record of this run is dvc.lock and reports/: commit them with the change that made them.")
    if refusal := verb.refusal(verdict):
        raise refusal


@main.command()
@click.option("--policy-from", metavar="REF", help="Judge under the policy of this commit too: the target branch's.")
@click.option("--explain", metavar="NAME", help="Say what this gate asks, what was found and what would change it.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.pass_obj
@refusing
def gate(root: Path, policy_from: str | None, explain: str | None, as_json: bool) -> None:
    """Print the verdict if it still holds, and exit by it: 0 pass, 10 fail, 11 inconclusive, 8 void.

    Hashes again everything that was judged, weights included, looks up earlier models in git again, and asks every
    gate again. With --explain it exits with 0 whatever the gate says.
    """
    if policy_from is not None and explain is not None:
        raise click.UsageError("--policy-from and --explain are two questions: ask one at a time")
    if explain is not None:
        _explain(root, explain, as_json)
    elif policy_from is not None:
        _judge_from(root, policy_from, as_json)
    else:
        from release import gate as verb

        verdict = verb.gate(root)
        click.echo(_json(verdict.model_dump(mode="json")) if as_json else tables.verdict(verdict))
        if refusal := verb.refusal(verdict):
            raise refusal


@main.command()
@click.option("--push", metavar="IMAGE", help="Send it to a registry, as HOST/NAME[:TAG], instead of a folder.")
@click.option(
    "--output", metavar="FOLDER", type=click.Path(path_type=Path), help="The OCI layout to write; else .lockstep/image."
)
@click.option("--runtime", metavar="NAME", help="Another runtime than serve.runtime.")
@click.option(
    "--base", metavar="IMAGE", help="Another base than serve.base: HOST/NAME[:TAG]@sha256:… or oci:FOLDER@sha256:…"
)
@click.option("--dry-run", is_flag=True, help="Print the plan, with sizes, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/image.json, or the plan, as JSON.")
@click.pass_obj
@refusing
def build(
    root: Path,
    push: str | None,
    output: Path | None,
    runtime: str | None,
    base: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add the merged weights to a serving image, if the verdict is `pass` and is about these weights.

    Needs no Docker. Prints the image's digest and nothing else; what it is made of is in reports/image.json. The same
    record gives the same digest on every machine.
    """
    from release import build as verb

    if push is not None and output is not None:
        raise click.UsageError("--push and --output are two places: name one")
    options = verb.Options(push=push, output=output, runtime=runtime, base=base)
    if dry_run:
        plan = verb.plan(root, options)
        click.echo(_json(plan.model_dump(mode="json")) if as_json else tables.plan(plan))
        return
    report = verb.build(root, options)
    click.echo(_json(report.model_dump(mode="json")) if as_json else report.image)


@main.command()
@click.option(
    "--image", metavar="IMAGE", help="The built image in a registry: HOST/NAME@sha256:…; else .lockstep/image."
)
@click.option("--url", metavar="URL", help="Ask a server that runs already.")
@click.option(
    "--runtime",
    metavar="NAME",
    help="Serve the image's weights with this runtime in a process, without Docker; with --url, which server that is.",
)
@click.option("--gpus", metavar="WHICH", help="GPUs for the container: all, or their numbers with commas.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/serving.json.")
@click.pass_obj
@refusing
def verify(
    root: Path, image: str | None, url: str | None, runtime: str | None, gpus: str | None, as_json: bool
) -> None:
    """Start the image, ask it, and hold it to the offline model; exits with 14 when it is another or fails.

    Writes reports/serving.json, whatever is found. Everything that was started is ended and removed.
    """
    from release import verify as verb

    report = verb.verify(root, verb.Options(image=image, url=url, runtime=runtime, gpus=gpus))
    click.echo(_json(report.model_dump(mode="json")) if as_json else tables.serving(report))
    if refusal := verb.refusal(report):
        raise refusal


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--registry", metavar="HOST", help="Also ask this container registry.")
@click.pass_obj
@refusing
def doctor(root: Path, as_json: bool, registry: str | None) -> None:
    """Say what this machine has and lacks for each stage and verb, and the command that mends it.

    Exits with 9 when the pipeline cannot run here; what only some verbs need is listed, and no error.
    """
    from checks.errors import MachineRefused
    from release import doctor as verb

    found = verb.doctor(root, registry)
    if as_json:
        click.echo(_json([check._asdict() for check in found]))
    else:
        for check in found:
            click.secho(f"{check.status:<9}", fg=tables.COLOURS[check.status], nl=False)
            click.echo(f"{check.name:<16}{check.found}  [{', '.join(check.needed_by)}]")
            if check.mend:
                click.echo(f"{'':<25}→ {check.mend}")
    if missing := [check.name for check in found if check.status == "missing"]:
        raise MachineRefused(f"the pipeline cannot run here: {', '.join(missing)}", "run the commands named above")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print reports/noise.json.")
@click.pass_obj
@refusing
def calibrate(root: Path, as_json: bool) -> None:
    """Measure how far evaluations of the unchanged model differ: no gate's margin may be below that noise.

    Evaluates the merged model again in other orders and batches, and writes reports/noise.json.
    """
    from checks import layout
    from release import calibrate as verb

    report = verb.calibrate(root)
    if as_json:
        click.echo(_json(report.model_dump(mode="json")))
        return
    width = max(len(run.order) for run in report.runs)
    for run in report.runs:
        how = f"{run.order:<{width}}  {run.batch_tokens:>6} tokens a batch, {run.threads} threads"
        click.echo(f"  {how}: {tables.figures(run.metrics)}, {run.changed} rows changed")
    floor = tables.figures(report.floor)
    click.echo(f"noise on {report.rows} rows ({report.device}): {floor}; a margin below it is refused")
    click.echo(f"{layout.NOISE} is written: commit it, and run `lockstep run`")


@main.command()
@click.option("--target", metavar="REF", help="The branch that this one is held against; else origin's default.")
@click.option("--json", "as_json", is_flag=True, help="Print reports/references.json.")
@click.pass_obj
@refusing
def references(root: Path, target: str | None, as_json: bool) -> None:
    """Say which earlier models the gates compare with, as git names them, and record it in reports/references.json.

    `lockstep run` does this first. A record that git no longer bears out makes the verdict void.
    """
    from release import references as verb

    written = verb.write(root, target)
    if as_json:
        click.echo(_json(written.report.model_dump(mode="json")))
        return
    for name, reference in written.report.found.items():
        click.echo(f"{name:<10}model {reference.merged.removeprefix('sha256:')[:12]} of commit {reference.commit[:12]}")
    for name, why in written.report.absent.items():
        click.echo(f"{name:<10}none: {why}")
    click.echo(f"held against {written.target}; {tables.recorded(written.changed)}")


@main.command()
@click.option("--write", is_flag=True, help="Write docs/params.schema.json instead of printing.")
@click.pass_obj
@refusing
def schema(root: Path, write: bool) -> None:
    """Print the JSON Schema of params.yaml, for editors."""
    from checks import files, layout, params_file

    if write:
        files.write_json(root / layout.PARAMS_SCHEMA, params_file.schema())
        click.echo(str(layout.PARAMS_SCHEMA))
    else:
        click.echo(_json(params_file.schema()))


def _explain(root: Path, name: str, as_json: bool) -> None:
    from release import explain as verb

    lines = verb.explain(root, name)._asdict()
    if as_json:
        click.echo(_json(lines))
        return
    for what, line in lines.items():
        click.echo(f"{click.style(f'{what:<9}', bold=True)}{line}")


def _judge_from(root: Path, ref: str, as_json: bool) -> None:
    from release import target_policy as verb

    judgement = verb.judge_from(root, ref)
    click.echo(_json(judgement.model_dump(mode="json")) if as_json else tables.policy(judgement))
    if refusal := verb.refusal(judgement):
        raise refusal


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _places(root: Path) -> list[tuple[str, str]]:
    """Where a person looks after a run."""
    from checks import layout, params_file

    mlflow = Path(os.path.relpath(Path(sys.executable).parent / "mlflow"))
    store = f"--backend-store-uri {params_file.load(root / layout.PARAMS).tracking.uri}"
    where = "at MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else f"{mlflow} ui {store}"
    return [
        ("verdict", f"{root / layout.VERDICT}   (again: lockstep gate)"),
        ("evaluation", str(root / layout.SUMMARY)),
        ("plots", f"{root / layout.PLOTS}, {root / layout.COMPARISON}"),
        ("Data Docs", str(root / layout.DATA_DOCS / "index.html")),
        ("MLflow", where),
        ("model", str(root / layout.MERGED)),
    ]


if __name__ == "__main__":
    main()
