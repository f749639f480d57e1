"""The command ``lockstep``: parses, calls one function, echoes one result. Nothing else prints or exits.

Heavy imports live in the commands, so that ``lockstep --help`` is instant.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

if TYPE_CHECKING:
    from checks.verdict import Verdict

P = ParamSpec("P")

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
COLOURS = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "ok": "green",
    "missing": "red",
    "optional": "yellow",
}


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
    click.echo(f"\n{_table(verdict)}\n")
    for what, where in _places(root):
        click.echo(f"  {what:<14}{where}")
    click.echo("\nThe record of this run is dvc.lock and reports/: commit them with the change that made them.")
    if refusal := verb.refusal(verdict):
        raise refusal


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_obj
@refusing
def gate(root: Path, as_json: bool) -> None:
    """Print the verdict if it still holds, and exit by it: 0 pass, 10 fail, 11 inconclusive, 8 void.

    Hashes again everything that was judged, weights included, and asks every gate again.
    """
    from release import gate as verb

    verdict = verb.gate(root)
    click.echo(
        json.dumps(verdict.model_dump(mode="json"), indent=2, ensure_ascii=False) if as_json else _table(verdict)
    )
    if refusal := verb.refusal(verdict):
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
        click.echo(json.dumps([check._asdict() for check in found], indent=2, ensure_ascii=False))
    else:
        for check in found:
            click.secho(f"{check.status:<9}", fg=COLOURS[check.status], nl=False)
            click.echo(f"{check.name:<16}{check.found}  [{', '.join(check.needed_by)}]")
            if check.mend:
                click.echo(f"{'':<25}→ {check.mend}")
    if missing := [check.name for check in found if check.status == "missing"]:
        raise MachineRefused(f"the pipeline cannot run here: {', '.join(missing)}", "run the commands named above")


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
        click.echo(json.dumps(params_file.schema(), indent=2, ensure_ascii=False))


def _table(verdict: "Verdict") -> str:
    """The findings, a line each, under the verdict."""
    head = f"verdict: {verdict.status}"
    if verdict.model:
        head += f"   model {verdict.model.removeprefix('sha256:')[:12]}"
    lines = [click.style(head, fg=COLOURS[verdict.status], bold=True)]
    width = max((len(f.gate) for f in verdict.findings), default=0)
    for finding in verdict.findings:
        mark = click.style(MARKS[finding.status], fg=COLOURS[finding.status])
        lines.append(f"  {mark} {finding.gate:<{width}}  {finding.kind:<10} {finding.reason}")
    return "\n".join(lines)


def _places(root: Path) -> list[tuple[str, str]]:
    """Where a person looks after a run."""
    from checks import layout, params_file

    mlflow = Path(os.path.relpath(Path(sys.executable).parent / "mlflow"))
    store = f"--backend-store-uri {params_file.load(root / layout.PARAMS).tracking.uri}"
    where = "at MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else f"{mlflow} ui {store}"
    return [
        ("verdict", f"{root / layout.VERDICT}   (again: lockstep gate)"),
        ("evaluation", str(root / layout.SUMMARY)),
        ("plots", str(root / layout.PLOTS)),
        ("Data Docs", str(root / layout.DATA_DOCS / "index.html")),
        ("MLflow", where),
        ("model", str(root / layout.MERGED)),
    ]


if __name__ == "__main__":
    main()
