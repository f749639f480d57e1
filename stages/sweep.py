"""sweep: trains with each combination of given values, and compares the models on the valid split.

In:  arguments such as ``train.lora.r=8,16`` and ``--seed 17``; params.yaml, and the splits that passed validate.
Out: reports/sweep.json (``checks.sweeps.SweepReport``), reports/sweep.md (its table), reports/sweep/*.svg and *.png.
Run: python -m stages.sweep, or `lockstep sweep`, which does so. It is not a stage of dvc.yaml.

Each training is an experiment of DVC in a copy of the repository, one after the other, up to the stage merge; the test
split is not asked. MLflow's runs, checkpoints and answers are kept in this repository. A sweep that was interrupted
goes on with the next training: one that ended before has its experiment. Values are chosen on the valid split because
the gates' statistics hold only if nobody chose by the test split.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue

from checks import digest, files, layout, params_file, refused, scoring, stats, steps, sweeps
from checks.errors import EvidenceRefused, MachineRefused, MergeRefused, ParamsRefused, TrainingRefused
from checks.evidence import Interval, Seal, TrainMeasured, TrainReport
from checks.params import Params
from checks.rows import Row
from checks.sweeps import SweepReport, SweptRun
from stages import entry, tracking
from stages.inference import answers
from stages.reporting import plots

if TYPE_CHECKING:
    from git import Repo
    from matplotlib.axes import Axes

VALID = layout.SPLITS / "valid.jsonl"
_POINTS = "#1f5fa8"
_OF_VALUES = (TrainingRefused.exit_code, MergeRefused.exit_code)  # other refusals would meet any values: the sweep ends


def sweep(params: Params, root: Path, specs: Sequence[str], seeds: Sequence[int], most: int) -> str:
    """Train each combination with each seed, score it on valid, write the report.

    A training that is refused, such as one whose loss is not finite, is reported and does not end the sweep. Raises
    ParamsRefused, before anything is trained, if a combination is impossible or there are more than ``most`` trainings;
    EvidenceRefused if validate has not passed; TrainingRefused if every training is refused; MachineRefused without git
    or DVC.
    """
    if not str(root.resolve()).isascii():  # its configuration of a copy is written in ASCII
        raise MachineRefused(f"{root.resolve()}: DVC runs no experiment below such a name", "clone to a path in ASCII")
    if isinstance(params.training, steps.Steps):
        raise ParamsRefused(
            f"{layout.PARAMS}: train.steps: a sweep trains with one method",
            "sweep the step that you ask about as the whole of the section train, without steps",
        )
    tried = sweeps.asked(specs)
    parsed = params_file.read(root / layout.PARAMS)
    combinations = sweeps.combinations(tried)
    for values in combinations:
        sweeps.hold(parsed, values)
    every = [(values, seed) for values in combinations for seed in seeds or [params.train.seed]]
    if len(every) > most:
        raise ParamsRefused(
            f"{len(every)} trainings, and at most {most} are allowed",
            f"try fewer values, or allow them: --most {len(every)}",
        )
    seal = files.read_json(root / layout.SEAL, Seal)
    valid = files.read_jsonl(root / VALID, Row)
    if digest.of_file(root / VALID).sha256 != seal.splits.get("valid") or not valid:
        raise EvidenceRefused(f"{VALID}: is not the split that passed", "run `./lockstep run validate`")
    where = tracking.public(tracking.address(params, root))
    click.echo(f"sweep: {len(every)} trainings, one after the other; runs at {where}", err=True)
    runs: list[SweptRun] = []
    import git

    with git.Repo(root) as repository:
        for number, (values, seed) in enumerate(every, 1):
            said = ", ".join(f"{path.removeprefix('train.')} {value}" for path, value in values.items())
            click.echo(f"sweep: {number} of {len(every)}: {said}, seed {seed}", err=True)
            runs.append(_run(params, root, repository, parsed, values, seed, seal, valid))
            report = SweepReport(
                valid=seal.splits["valid"],
                rows=len(valid),
                scorer=params.evaluate.scorers[0].kind,
                confidence=params.evaluate.confidence,
                runs=tuple(runs),
            )
            files.write_json(root / layout.SWEEP_REPORT, report)
    ranked = report.by_values()
    if not ranked:
        raise TrainingRefused(f"all {len(runs)} trainings were refused: {runs[-1].refused}", "try other values")
    with files.replacing_folder(root / layout.SWEEP_PLOTS) as folder:
        _draw(folder, report, tried)
    files.write_text(root / layout.SWEEP_TABLE, table(report))
    best = ranked[0]
    return f"the best of {len(ranked)} on {len(valid)} valid rows: {_named(best[0])}, {report.mean(best[1]):.3f}"


def _run(
    params: Params, root: Path, repository: "Repo", parsed: params_file.Parsed, values: Mapping[str, JsonValue],
    seed: int, seal: Seal, valid: Sequence[Row],
) -> SweptRun:  # fmt: skip
    about = {"values": dict(values), "seed": seed, "params": parsed.value, "commit": tracking.revision(root)[0]}
    name = f"sweep-{digest.of_json(about).removeprefix('sha256:')[:12]}"
    changes = {**values, "train.seed": seed}
    if (commit := _commit(repository, name)) is None:
        refused.forget(root)
        code = _dvc(params, root, "exp", "run", "--temp", "--name", name, *_overrides(changes), "merge")
        if code:
            word = refused.read(root)
            if word and word.exit_code in _OF_VALUES:
                return SweptRun(values=dict(values), seed=seed, experiment=name, refused=word.what)
            why = f"stage {word.stage} refused: {word.what}" if word else f"dvc exp run ended with {code}"
            raise MachineRefused(why, "fix what it says, and run the same sweep again to go on")
        if (commit := _commit(repository, name)) is None:
            raise MachineRefused(f"dvc kept no experiment {name}", "run the same sweep again")
    else:
        click.echo(f"sweep: trained before, as experiment {name}", err=True)
    report = TrainReport.model_validate_json(_shown(repository, commit, layout.TRAIN_REPORT) or "")
    # Not in the experiment before the first record of a training is in git.
    noted = _shown(repository, commit, layout.TRAIN_MEASURED)
    measured = TrainMeasured.model_validate_json(noted) if noted else None
    if measured and measured.adapter != report.adapter:
        measured = None
    if report.splits != seal.splits:
        raise EvidenceRefused(f"experiment {name}: was trained on other splits", "run `./lockstep run validate`")
    merged, scores = _scored(params, root, commit, valid)
    try:
        tracking.annotate(
            params, root, report.adapter, {f"valid.{kind}": found.value for kind, found in scores.items()}, {}
        )
    except MachineRefused as refusal:
        click.echo(f"sweep: not in MLflow: {refusal}", err=True)
    return SweptRun(
        values=dict(values),
        seed=seed,
        adapter=report.adapter,
        merged=merged,
        trainable_parameters=report.trainable_parameters,
        scores=scores,
        seconds=measured.seconds if measured else None,
        device=measured.device if measured else None,
        experiment=name,
        mlflow_run=measured.mlflow_run if measured else None,
    )


def _scored(params: Params, root: Path, commit: str, valid: Sequence[Row]) -> tuple[str, dict[str, Interval]]:
    """The digest of the experiment's merged model, and its scores on the valid split."""
    from dvc.api import DVCFileSystem

    with tempfile.TemporaryDirectory(prefix="lockstep-sweep-") as scratch:
        folder = Path(scratch) / "merged"
        DVCFileSystem(str(root), rev=commit).get(layout.MERGED.as_posix(), str(folder), recursive=True)
        merged = digest.of_tree(folder).digest
        found = answers.ask(root, params.evaluate, folder, merged, valid, [row.messages for row in valid], "valid")
    groups = [row.group for row in valid]
    return merged, {
        scorer.kind: stats.mean_interval(
            [scoring.score(scorer, text, row.reference) for text, row in zip(found.texts, valid, strict=True)],
            groups,
            params.evaluate.confidence,
        )
        for scorer in params.evaluate.scorers
    }


def _overrides(values: Mapping[str, JsonValue]) -> list[str]:
    """Hydra's grammar: ``++`` sets a parameter that params.yaml does not write, too."""
    return [part for path, value in values.items() for part in ("-S", f"++{path}={json.dumps(value)}")]


def _dvc(params: Params, root: Path, *arguments: str) -> int:
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking.address(params, root),
        "LOCKSTEP_STATE": str((root / layout.STATE).resolve()),
    }
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment, check=False).returncode


def _commit(repository: "Repo", name: str) -> str | None:
    """The commit of the experiment called ``name``; None: there is none."""
    refs: str = repository.git.for_each_ref("refs/exps", format="%(objectname) %(refname)")
    return next((ref.split()[0] for ref in refs.splitlines() if ref.endswith(f"/{name}")), None)


def _shown(repository: "Repo", commit: str, path: Path) -> str | None:
    """The text of ``path`` in ``commit``; None: it is not there."""
    try:
        blob = repository.commit(commit).tree / path.as_posix()
    except KeyError:
        return None
    return str(blob.data_stream.read(), "utf-8")


def _named(values: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{path}={value}" for path, value in values.items())


def table(report: SweepReport) -> str:
    """The report as Markdown, the best first."""
    ranked = report.by_values()
    head = ["values", "trained, M", f"{report.scorer} on valid", "seeds", "spread", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for values, runs in ranked:
        first, spread = runs[0], report.spread(runs)
        shown = f"{report.mean(runs):.3f}"
        if len(runs) == 1:
            interval = first.scores[report.scorer]
            shown += f" [{interval.low:.3f}, {interval.high:.3f}]"
        seconds = sum(run.seconds or 0 for run in runs) / len(runs)
        cells = [
            _named(values), f"{(first.trainable_parameters or 0) / 1e6:.2f}", shown, str(len(runs)),
            "" if spread is None else f"{spread:.3f}", f"{seconds:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    refusals = [
        f"* {_named(run.values)}, seed {run.seed}: refused: {run.refused}" for run in report.runs if run.refused
    ]
    note = (
        f"{len(report.runs)} trainings, compared on {report.rows} rows of the valid split. The best of several looks "
        "better than it is; the test split was not asked, so the gates' figures of the chosen one are honest."
    )
    return "\n".join(["# Sweep", "", note, "", *lines, *([""] if refusals else []), *refusals, ""])


def _draw(folder: Path, report: SweepReport, tried: Mapping[str, Sequence[JsonValue]]) -> None:
    from matplotlib.figure import Figure

    runs = [run for run in report.runs if run.refused is None]
    with plots.style():
        figure = Figure(figsize=(7.5, 3.0 * max(1, len(tried))), layout="constrained")
        for axes, (path, values) in zip(
            figure.subplots(max(1, len(tried)), squeeze=False)[:, 0], tried.items(), strict=False
        ):
            _against(axes, report, runs, path, values)
        plots.save(figure, folder / "scores")
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        _pareto(figure.subplots(), report, runs)
        plots.save(figure, folder / "seconds")


def _against(
    axes: "Axes", report: SweepReport, runs: Sequence[SweptRun], path: str, values: Sequence[JsonValue]
) -> None:
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
    axes.set_title(f"{report.scorer} on {report.rows} valid rows, by {path}: a point a training", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _pareto(axes: "Axes", report: SweepReport, runs: Sequence[SweptRun]) -> None:
    """The score against the seconds of training; a line joins and names those that no other beats in both."""
    points = sorted(
        ((run.seconds, run.scores[report.scorer].value, run.values) for run in runs if run.seconds is not None),
        key=lambda point: (point[0], -point[1]),
    )
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=_POINTS, alpha=0.7)
    front = [point for at, point in enumerate(points) if all(other[1] < point[1] for other in points[:at])]
    axes.step([x for x, _, _ in front], [y for _, y, _ in front], where="post", color=_POINTS)
    for x, y, values in front:
        name = plots.short(_named({path.rpartition(".")[2]: value for path, value in values.items()}))
        axes.annotate(name, (x, y), xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=8)
    axes.margins(x=0.25)  # room for the name of the leftmost
    axes.set_xlabel("seconds of training")
    axes.set_title(f"{report.scorer} on {report.rows} valid rows against time", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


@click.command()
@click.argument("specs", nargs=-1, required=True)
@click.option("--seed", "seeds", type=int, multiple=True)
@click.option("--most", type=int, default=20)
def main(specs: tuple[str, ...], seeds: tuple[int, ...], most: int) -> None:
    """Train each combination of the values of SPECS with each seed."""
    entry.run("sweep", lambda params, root: sweep(params, root, specs, seeds, most))


if __name__ == "__main__":
    main()
