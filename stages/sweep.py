"""sweep: trains with each combination of given values, and compares the models on the valid split.

In:  arguments such as ``train.lora.r=8,16`` and ``--seed 17``; params.yaml, and the splits that passed validate.
     Without values, params.yaml as it is, with several seeds. With ``--trials 12``, ranges such as
     ``train.learning_rate=1e-4..3e-3:log``, whose values a search chooses (``stages.searching``).
Out: reports/sweep.json (``checks.config.sweeps.SweepReport``), reports/sweep.md (its table), reports/sweep/*.svg and
*.png. Run: python -m stages.sweep, or `lockstep sweep`, which does so. It is not a stage of dvc.yaml.

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue

from checks import digest, files, layout
from checks.config import params_file, sweeps
from checks.config.params import Params
from checks.config.sweeps import Compared, Range, Recipe, Sweep, SweepReport, SweptRun, Tried, Values
from checks.errors import EvidenceRefused, MachineRefused, MergeRefused, ParamsRefused, TrainingRefused
from checks.evaluation import scoring
from checks.formats import refused
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.rows import Row
from checks.stats import intervals, over_seeds
from checks.training import steps
from stages import entry, tracking
from stages.inference import answers
from stages.reporting import swept
from stages.score import VALID, scored
from stages.searching import Search
from stages.tools import guarded_dvc

if TYPE_CHECKING:
    from git import Repo

_OF_VALUES = (TrainingRefused.exit_code, MergeRefused.exit_code)  # other refusals would meet any values: the sweep ends


def sweep(
    params: Params, root: Path, specs: Sequence[str], seeds: Sequence[int], most: int, trials: int | None = None
) -> str:
    """Train each combination with each seed, score it on valid, write the report.

    With ``trials`` at most so many settings are trained, which a search chooses by the scores of those before. A
    training that is refused, such as one whose loss is not finite, is reported and does not end the sweep. Raises
    ParamsRefused, before anything is trained, if a combination is impossible (of a range: one of its ends) or there are
    more than ``most`` trainings; EvidenceRefused if validate has not passed; TrainingRefused if every training is
    refused; MachineRefused without git or DVC, or for a search without Optuna.
    """
    tried = _tried(params, root, specs, seeds)
    parsed = params_file.read(root / layout.PARAMS)
    proposals, settings, search = _proposals(params, parsed, tried, trials)
    seeds = seeds or [params.train.seed]
    if (number := settings * len(seeds)) > most:
        raise ParamsRefused(
            f"{number} trainings, and at most {most} are allowed",
            f"try fewer values, or allow them: --most {number}",
        )
    seal, valid = _passed(root)
    where = tracking.public(tracking.address(params, root))
    click.echo(f"sweep: {number} trainings, one after the other; runs at {where}", err=True)
    runs: list[SweptRun] = []
    scores: dict[str, list[list[float]]] = {}  # by the digest of parameters: each seed's, of every row
    import git

    with git.Repo(root) as repository:
        for values, seed in ((values, seed) for values in proposals for seed in seeds):
            click.echo(f"sweep: {len(runs) + 1} of {number}: {swept.named(values)}, seed {seed}", err=True)
            parameters = sweeps.parameters_of(sweeps.hold(parsed, values))
            run, rows = _run(params, root, repository, parsed, values, seed, seal, valid, parameters)
            runs.append(run)
            shown = ", ".join(f"{kind} {found.value:.3f}" for kind, found in run.scores.items())
            click.echo(f"sweep: {len(runs)} of {number}: {shown or f'refused: {run.refused}'}", err=True)
            scores.setdefault(parameters, []).append(rows)
            if search:
                every = scores[parameters]
                search.tell(values, fmean(map(fmean, every)) if all(every) else None)
            report = _report(params, seal, valid, runs, scores, settings, search)
            files.write_json(root / layout.SWEEP_REPORT, report)
    ranked = report.by_values()
    if not ranked:
        raise TrainingRefused(f"all {len(runs)} trainings were refused: {runs[-1].refused}", "try other values")
    with files.replacing_folder(root / layout.SWEEP_PLOTS) as folder:
        swept.draw(folder, report, tried)
    files.write_text(root / layout.SWEEP_TABLE, swept.table(report))
    best = ranked[0]
    return f"the best of {len(ranked)} on {len(valid)} valid rows: {swept.named(best[0])}, {report.mean(best[1]):.3f}"


def _tried(params: Params, root: Path, specs: Sequence[str], seeds: Sequence[int]) -> Tried:
    """The values of ``specs``. Raises ParamsRefused or MachineRefused if there can be no sweep of them."""
    if not str(root.resolve()).isascii():  # its configuration of a copy is written in ASCII
        raise MachineRefused(f"{root.resolve()}: DVC runs no experiment below such a name", "clone to a path in ASCII")
    if isinstance(params.training, steps.Steps):
        raise ParamsRefused(
            f"{layout.PARAMS}: train.steps: a sweep trains with one method",
            "sweep the step that you ask about as the whole of the section train, without steps",
        )
    tried = sweeps.asked(specs)
    if len(set(seeds)) < len(seeds) or (not tried and len(seeds) < 2):
        what = "a seed is named twice" if tried or len(seeds) > 1 else "no value to try, and not several seeds"
        raise ParamsRefused(what, "write values as train.lora.r=8,16, and each seed once: --seed 17 --seed 18")
    return tried


def _passed(root: Path) -> tuple[Seal, list[Row]]:
    """The seal of validate and the rows of the valid split. Raises EvidenceRefused if validate passed other rows."""
    seal, valid = files.read_json(root / layout.SEAL, Seal), files.read_jsonl(root / VALID, Row)
    if digest.of_file(root / VALID).sha256 != seal.splits.get("valid") or not valid:
        raise EvidenceRefused(f"{VALID}: is not the split that passed", "run `./lockstep run validate`")
    return seal, valid


def _report(
    params: Params, seal: Seal, valid: Sequence[Row], runs: Sequence[SweptRun],
    scores: Mapping[str, Sequence[Sequence[float]]], settings: int, search: Search | None,
) -> SweepReport:  # fmt: skip
    """The report of the trainings so far.

    Of a search without differences: its values were chosen by scores on these rows, so no interval would hold.
    """
    groups, confidence = [row.group for row in valid], params.evaluate.confidence
    return SweepReport.seal(
        Sweep(
            valid=seal.splits["valid"],
            rows=len(valid),
            scorer=params.evaluate.scorers[0].kind,
            confidence=confidence,
            search=search.name if search else None,
            runs=tuple(runs),
            differences=() if search else _differences(scores, groups, confidence, settings),
        )
    )


def _proposals(
    params: Params, parsed: params_file.Parsed, tried: Tried, trials: int | None
) -> tuple[Iterable[Values], int, Search | None]:
    """The settings to train, how many they are, and what chooses them; None: they are every combination."""
    ranges = [path for path, values in tried.items() if isinstance(values, Range)]
    if ranges and trials is None:
        raise ParamsRefused(f"{ranges[0]}: a range has no list of values", "say how many to try: --trials 12")
    if trials is not None and not tried:
        raise ParamsRefused("--trials: no value to search", "name a range: train.learning_rate=1e-4..3e-3:log")
    every = sweeps.combinations(sweeps.ends_of(tried))
    for values in every:
        sweeps.hold(parsed, values)
    if trials is None:
        return every, len(every), None
    search = Search(tried, trials, params.train.seed)
    return search, trials, search


def _run(
    params: Params, root: Path, repository: "Repo", parsed: params_file.Parsed, values: Mapping[str, JsonValue],
    seed: int, seal: Seal, valid: list[Row], parameters: str,
) -> tuple[SweptRun, list[float]]:  # fmt: skip
    """The training, and its scores of the valid rows by the first scorer."""
    about = {"values": dict(values), "seed": seed, "params": parsed.value, "commit": tracking.revision(root)[0]}
    name = f"sweep-{digest.of_json(about).removeprefix('sha256:')[:12]}"
    changes = {**values, "train.seed": seed}
    if (commit := _commit(repository, name)) is None:
        refused.forget(root)
        code = _dvc(params, root, "exp", "run", "--temp", "--name", name, *_overrides(changes), "merge")
        if code:
            word = refused.read(root)
            if word and word.exit_code in _OF_VALUES:
                return SweptRun(values=dict(values), seed=seed, experiment=name, refused=word.what), []
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
    click.echo(f"sweep: score {len(valid):,} rows of the valid split", err=True)
    merged, prompt_format, rows = _scored(params, root, commit, valid)
    groups = [row.group for row in valid]
    scores = {kind: intervals.mean_interval(each, groups, params.evaluate.confidence) for kind, each in rows.items()}
    try:
        tracking.annotate(
            params, root, report.adapter, {f"valid.{kind}": found.value for kind, found in scores.items()}, {}
        )
    except MachineRefused as refusal:
        click.echo(f"sweep: not in MLflow: {refusal}", err=True)
    run = SweptRun(
        values=dict(values),
        seed=seed,
        recipe=Recipe(
            parameters=parameters, base=report.base, train=report.splits["train"], valid=report.splits["valid"],
            scorers=scoring.digest_of(params.evaluate.scorers), prompt_format=prompt_format,
        ),
        adapter=report.adapter,
        merged=merged,
        trainable_parameters=report.trainable_parameters,
        scores=scores,
        seconds=measured.seconds if measured else None,
        device=measured.device if measured else None,
        experiment=name,
        mlflow_run=measured.mlflow_run if measured else None,
    )  # fmt: skip
    return run, next(iter(rows.values()))


def _scored(params: Params, root: Path, commit: str, valid: list[Row]) -> tuple[str, str, dict[str, list[float]]]:
    """The digests of the experiment's merged model and of how it was asked; each scorer's scores of the valid rows."""
    from dvc.api import DVCFileSystem

    with tempfile.TemporaryDirectory(prefix="lockstep-sweep-") as scratch:
        folder = Path(scratch) / "merged"
        DVCFileSystem(str(root), rev=commit).get(layout.MERGED.as_posix(), str(folder), recursive=True)
        merged = digest.of_tree(folder).digest
        prompt_format = answers.prompt_format(folder, params.evaluate)
        return merged, prompt_format, scored(params, root, folder, merged, valid)


def _differences(
    scores: Mapping[str, Sequence[Sequence[float]]], groups: Sequence[str], confidence: float, settings: int
) -> tuple[Compared, ...]:
    """Every two recipes with several seeds. The intervals hold together (Bonferroni), whichever two somebody picks.

    ``settings``: how many recipes the sweep trains. So a sweep that is ended early does not claim more.
    A recipe that was refused with some seed (it has no scores) is none: the other seeds are the lucky ones.
    """
    import numpy as np

    several = {parameters: np.asarray(each) for parameters, each in scores.items() if len(each) > 1 and all(each)}
    pairs, found = math.comb(settings, 2), []
    for one, two in itertools.combinations(several, 2):
        difference = over_seeds.difference(several[one], several[two], groups, 1 - (1 - confidence) / pairs)
        if difference is not None:
            found.append(Compared(**dict(difference), one=one, two=two))
    return tuple(found)


def _overrides(values: Mapping[str, JsonValue]) -> list[str]:
    """Hydra's grammar: ``++`` sets a parameter that params.yaml does not write, too."""
    return [part for path, value in values.items() for part in ("-S", f"++{path}={json.dumps(value)}")]


def _dvc(params: Params, root: Path, *arguments: str) -> int:
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking.address(params, root),
        "LOCKSTEP_STATE": str((root / layout.STATE).resolve()),
    }
    command = [sys.executable, "-m", guarded_dvc.__name__, *arguments]
    return subprocess.run(command, cwd=root, env=environment, check=False).returncode


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


@click.command()
@click.argument("specs", nargs=-1)
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True)
@click.option("--most", type=int, default=20)
@click.option("--trials", type=click.IntRange(min=1))
def main(specs: tuple[str, ...], seeds: tuple[int, ...], most: int, trials: int | None) -> None:
    """Train each combination of the values of SPECS, or as many as TRIALS that a search chooses, with each seed."""
    entry.run("sweep", lambda params, root: sweep(params, root, specs, seeds, most, trials))


if __name__ == "__main__":
    main()
