"""sweep: trains with each combination of given values, and compares the models on the valid split.

In:  arguments such as ``train.lora.r=8,16`` and ``--seed 17``; params.yaml, and the splits that passed validate.
     Without values, params.yaml as it is, with several seeds.
Out: reports/sweep.json (``checks.config.sweeps.SweepReport``) and reports/sweep.md (its table).
Run: python -m stages.sweep, or `lockstep sweep`, which does so. It is not a stage of dvc.yaml.

Each training is an experiment of DVC in a copy of the repository, one after the other, up to the stage merge; the test
split is not asked. MLflow's runs, checkpoints and answers are kept in this repository. A sweep that was interrupted
goes on with the next training: one that ended before has its experiment. Values are chosen on the valid split because
the gates' statistics hold only if nobody chose by the test split.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from pydantic import JsonValue

from checks.config import params_file, sweeps
from checks.config.params import Params
from checks.config.sweeps import Compared, Recipe, Sweep, SweepReport, SweptRun, Values
from checks.evaluation import scoring
from checks.formats import refused
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainReport
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    MergeRefused,
    ParamsRefused,
    TrainingRefused,
)
from checks.records.rows import Row
from checks.stats import intervals, over_seeds
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry, tracking
from stages.inference import answers
from stages.reporting import swept
from stages.score import VALID, scored
from stages.tools import guarded_dvc

if TYPE_CHECKING:
    from git import Repo

# Other refusals would meet any values.
_OF_VALUES = (TrainingRefused.exit_code, MergeRefused.exit_code)


class Setup(NamedTuple):
    """The inputs that all trainings of a sweep share. ``valid``: the rows of the valid split."""

    root: Path
    repository: "Repo"
    params: Params
    parsed: params_file.Parsed
    seal: Seal
    valid: list[Row]


def sweep(params: Params, root: Path, specs: Sequence[str], seeds: Sequence[int], most: int) -> str:
    """Train each combination with each seed, score it on valid, write the report.

    A training that is refused, such as one whose loss is not finite, is reported and does not end the sweep. Raises
    ParamsRefused, before anything is trained, if a combination is impossible or there are more than ``most`` trainings;
    EvidenceRefused if validate has not passed; TrainingRefused if every training is refused; MachineRefused without git
    or DVC.
    """
    settings = sweeps.combinations(_lists(params, root, specs, seeds))
    parsed = params_file.read(root / layout.PARAMS)
    for values in settings:
        sweeps.changed(parsed, values)
    trainings = [(values, seed) for values in settings for seed in seeds or [params.train.seed]]
    if (number := len(trainings)) > most:
        raise ParamsRefused(
            f"{number} trainings, and at most {most} are allowed",
            f"try fewer values, or allow them: --most {number}",
        )
    seal, valid = _passed(root)
    address = tracking.public(tracking.address(params.tracking, root))
    click.echo(f"sweep: {number} trainings, one after the other; runs at {address}", err=True)
    runs: list[SweptRun] = []
    scores: dict[
        str, list[list[float]]
    ] = {}  # The scores of each seed's rows, by the digest of the parameters.
    import git

    with git.Repo(root) as repository:
        setup = Setup(root, repository, params, parsed, seal, valid)
        for values, seed in trainings:
            click.echo(
                f"sweep: {len(runs) + 1} of {number}: {swept.named(values)}, seed {seed}", err=True
            )
            parameters = sweeps.parameters_of(sweeps.changed(parsed, values))
            run, rows = _train(setup, values, seed, parameters)
            runs.append(run)
            shown = ", ".join(
                f"{kind} {interval.value:.3f}" for kind, interval in run.scores.items()
            )
            click.echo(
                f"sweep: {len(runs)} of {number}: {shown or f'refused: {run.refused}'}", err=True
            )
            scores.setdefault(parameters, []).append(rows)
            report = _report(setup, runs, scores, len(settings))
            files.write_json(root / layout.SWEEP_REPORT, report)
    ranked = report.by_values()
    if not ranked:
        raise TrainingRefused(
            f"all {len(runs)} trainings were refused: {runs[-1].refused}", "try other values"
        )
    files.write_text(root / layout.SWEEP_TABLE, swept.table(report))
    best_values, best_runs = ranked[0]
    score = report.mean(best_runs)
    return f"the best of {len(ranked)} on {len(valid)} valid rows: {swept.named(best_values)}, {score:.3f}"


def _lists(
    params: Params, root: Path, specs: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[JsonValue]]:
    """Return the values to try of each parameter. Raises ParamsRefused or MachineRefused if no sweep is possible."""
    if not str(root.resolve()).isascii():  # DVC writes the configuration of a copy in ASCII.
        raise MachineRefused(
            f"{root.resolve()}: DVC runs no experiment below such a name",
            "clone to a path in ASCII",
        )
    if isinstance(params.training, steps.Steps):
        raise ParamsRefused(
            f"{layout.PARAMS}: train.steps: a sweep trains with one method",
            "sweep the step that you ask about as the whole of the section train, without steps",
        )
    lists = sweeps.value_lists(specs)
    if len(set(seeds)) < len(seeds) or (not lists and len(seeds) < 2):
        raise ParamsRefused(
            (
                "a seed is named twice"
                if lists or len(seeds) > 1
                else "no value to try, and not several seeds"
            ),
            "write values as train.lora.r=8,16, and each seed once: --seed 17 --seed 18",
        )
    return lists


def _passed(root: Path) -> tuple[Seal, list[Row]]:
    """Return the seal and the rows of the valid split. Raises EvidenceRefused if validate passed other rows."""
    seal, valid = files.read_json(root / layout.SEAL, Seal), files.read_jsonl(root / VALID, Row)
    if digest.of_file(root / VALID).sha256 != seal.splits.get("valid") or not valid:
        raise EvidenceRefused(
            f"{VALID}: is not the split that passed", "run `./lockstep run validate`"
        )
    return seal, valid


def _report(
    setup: Setup,
    runs: Sequence[SweptRun],
    scores: Mapping[str, Sequence[Sequence[float]]],
    settings: int,
) -> SweepReport:
    """Return the report of the trainings so far, of a sweep of ``settings`` recipes."""
    evaluate = setup.params.evaluate
    groups = [row.group for row in setup.valid]
    sweep = Sweep(
        valid=setup.seal.splits["valid"],
        rows=len(setup.valid),
        scorer=evaluate.scorers[0].kind,
        confidence=evaluate.confidence,
        runs=tuple(runs),
        differences=_differences(scores, groups, evaluate.confidence, settings),
    )
    return SweepReport.seal(sweep)


def _train(
    setup: Setup, values: Values, seed: int, parameters: str
) -> tuple[SweptRun, list[float]]:
    """Train unless this experiment ended before. Return the run, and the first scorer's scores of the valid rows.

    ``parameters``: the digest of the parameters with ``values`` in them.
    """
    evaluate = setup.params.evaluate
    name = _experiment_name(setup, values, seed)
    commit = _commit(setup.repository, name)
    if commit is None:
        reason = _refused_reason(setup, values, seed, name)
        if reason is not None:
            return SweptRun(values=values, seed=seed, experiment=name, refused=reason), []
        commit = _commit(setup.repository, name)
        if commit is None:
            raise MachineRefused(f"dvc kept no experiment {name}", "run the same sweep again")
    else:
        click.echo(f"sweep: trained before, as experiment {name}", err=True)
    blob = setup.repository.commit(commit).tree / layout.TRAIN_REPORT.as_posix()
    report = TrainReport.model_validate_json(blob.data_stream.read())
    if report.splits != setup.seal.splits:
        raise EvidenceRefused(
            f"experiment {name}: was trained on other splits", "run `./lockstep run validate`"
        )
    click.echo(f"sweep: score {len(setup.valid):,} rows of the valid split", err=True)
    merged, prompt_format, rows = _scored(setup, commit)
    groups = [row.group for row in setup.valid]
    scores = {
        kind: intervals.mean_interval(kind_scores, groups, evaluate.confidence)
        for kind, kind_scores in rows.items()
    }
    metrics = {f"valid.{kind}": interval.value for kind, interval in scores.items()}
    try:
        tracking.annotate(setup.params, setup.root, report.adapter, metrics, {})
    except MachineRefused as refusal:
        click.echo(f"sweep: not in MLflow: {refusal}", err=True)
    recipe = Recipe(
        parameters=parameters,
        base=report.base,
        train=report.splits["train"],
        valid=report.splits["valid"],
        scorers=scoring.digest_of(evaluate.scorers),
        prompt_format=prompt_format,
    )
    run = SweptRun(
        values=values, seed=seed, recipe=recipe, merged=merged, scores=scores, experiment=name
    )
    return run, next(iter(rows.values()))


def _experiment_name(setup: Setup, values: Values, seed: int) -> str:
    """Return a name that depends on all that decides the training, so that the same sweep finds it again."""
    commit = tracking.revision(setup.root)[0]
    about = {"values": values, "seed": seed, "params": setup.parsed.value, "commit": commit}
    return f"sweep-{digest.of_json(about).removeprefix('sha256:')[:12]}"


def _refused_reason(setup: Setup, values: Values, seed: int, name: str) -> str | None:
    """Run the experiment. Return why its values were refused; None: it ended well. Raises MachineRefused otherwise."""
    refused.forget(setup.root)
    # Hydra's grammar: ``++`` sets a parameter that params.yaml does not write, too.
    overrides = [
        part
        for path, value in {**values, "train.seed": seed}.items()
        for part in ("-S", f"++{path}={json.dumps(value)}")
    ]
    code = _dvc(
        setup.params, setup.root, "exp", "run", "--temp", "--name", name, *overrides, "merge"
    )
    if code == 0:
        return None
    refusal = refused.read(setup.root)
    if refusal and refusal.exit_code in _OF_VALUES:
        return refusal.what
    raise MachineRefused(
        (
            f"stage {refusal.stage} refused: {refusal.what}"
            if refusal
            else f"dvc exp run ended with {code}"
        ),
        "fix what it says, and run the same sweep again to go on",
    )


def _scored(setup: Setup, commit: str) -> tuple[str, str, dict[str, list[float]]]:
    """Return digests of the experiment's merged model and of how it was asked, and each scorer's scores on valid."""
    from dvc.api import DVCFileSystem

    with tempfile.TemporaryDirectory(prefix="lockstep-sweep-") as scratch:
        folder = Path(scratch) / "merged"
        DVCFileSystem(str(setup.root), rev=commit).get(
            layout.MERGED.as_posix(), str(folder), recursive=True
        )
        merged = digest.of_tree(folder).digest
        prompt_format = answers.prompt_format(folder, setup.params.evaluate)
        rows = scored(setup.params, setup.root, folder, merged, setup.valid)
        return merged, prompt_format, rows


def _differences(
    scores: Mapping[str, Sequence[Sequence[float]]],
    groups: Sequence[str],
    confidence: float,
    settings: int,
) -> tuple[Compared, ...]:
    """Compare every two recipes with several seeds. All intervals hold together (Bonferroni), whichever one picks.

    ``settings``: how many recipes the sweep trains. So a sweep that is ended early does not claim more.
    A recipe that was refused with some seed (it has no scores) is none: the other seeds are the lucky ones.
    """
    import numpy as np

    several = {
        parameters: np.asarray(seeds)
        for parameters, seeds in scores.items()
        if len(seeds) > 1 and all(seeds)
    }
    pairs = math.comb(settings, 2)
    differences = []
    for one, two in itertools.combinations(several, 2):
        difference = over_seeds.difference(
            several[one], several[two], groups, 1 - (1 - confidence) / pairs
        )
        if difference is not None:
            differences.append(Compared(**dict(difference), one=one, two=two))
    return tuple(differences)


def _dvc(params: Params, root: Path, *arguments: str) -> int:
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking.address(params.tracking, root),
        "LOCKSTEP_STATE": str((root / layout.STATE).resolve()),
    }
    return subprocess.run(
        [sys.executable, "-m", guarded_dvc.__name__, *arguments],
        cwd=root,
        env=environment,
        check=False,
    ).returncode


def _commit(repository: "Repo", name: str) -> str | None:
    """Return the commit of the experiment called ``name``; None: there is none."""
    refs: str = repository.git.for_each_ref("refs/exps", format="%(objectname) %(refname)")
    return next((ref.split()[0] for ref in refs.splitlines() if ref.endswith(f"/{name}")), None)


@click.command()
@click.argument("specs", nargs=-1)
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True)
@click.option("--most", type=int, default=20)
def main(specs: tuple[str, ...], seeds: tuple[int, ...], most: int) -> None:
    """Train each combination of the values of SPECS with each seed."""
    entry.run("sweep", lambda params, root: sweep(params, root, specs, seeds, most))


if __name__ == "__main__":
    main()
