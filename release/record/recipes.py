"""Compares the parameters here with the target branch's over several seeds, as the last sweep measured them.

A verdict is about weights. A claim about parameters ("rank 8 is not worse") needs several trainings of each, and counts
only for the base, the splits and the questions that they were measured with: reports/sweep.json has their digests.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.config import sweeps
from checks.config.sweeps import Recipe, SweepReport, SweptRun
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.training_reports import TrainReport
from checks.gating import chain
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.stats import over_seeds
from checks.stats.over_seeds import Difference
from checks.storage import layout
from release.adapters import commits
from release.record.records import Commit, Records

_SEEDS = "--seed 17 --seed 18 --seed 19"
_FIX = f"train these parameters with several seeds: ./lockstep sweep {_SEEDS}"
_OTHER = {
    "parameters": "other parameters", "base": "another base", "train": "another train split",
    "valid": "another valid split", "scorers": "other scorers", "prompt_format": "another prompt format",
}  # fmt: skip


class Spread(NamedTuple):
    """The trainings of one recipe, by the first scorer on the valid split."""

    seeds: tuple[int, ...]
    mean: float
    spread: float  # standard deviation over seeds


class Claim(NamedTuple):
    """The comparison of the parameters here with those of ``ref``.

    ``theirs``: the spread of the parameters of ``ref``, which ``difference`` is to; None: they are the same, or were
    not trained in this sweep. ``lines``: the same for a person, the first about the parameters here.
    """

    scorer: str
    rows: int
    here: Spread
    ref: str
    theirs: Spread | None
    difference: Difference | None
    lines: tuple[str, ...]


def claim(records: Records, target: str | None = None) -> Claim:
    """Compare the parameters of the work tree with those of ``target`` (default: ``commits.target``).

    Raises EvidenceRefused if there is no sweep, if its report was changed by hand, if it was measured with other
    parameters, another base, other splits or other questions than the record has, or with one seed. Raises
    ParamsRefused if the parameters here cannot be read.
    """
    tree = records.work_tree
    try:
        report = tree.report(layout.SWEEP_REPORT, SweepReport)
    except EvidenceRefused as refusal:
        raise EvidenceRefused(refusal.what, _FIX, refusal.others) from refusal
    recipe = _recipe_of(records)
    runs = _runs_of(report, recipe)
    here = _spread(report, runs)
    ref, commit = commits.target(records.root, target)
    theirs, difference, line = None, None, f"{ref} has no commit to compare with"
    if commit is not None:
        theirs, difference, line = _against(report, recipe.parameters, records.at(commit), ref)
    lines = [
        over_seeds.said_of_one(here.mean, here.spread, len(here.seeds), report.confidence),
        line,
    ]
    judged = tree.report(layout.EVALUATION, EvaluationReport).merged
    lines += _same_model(runs, tree.params.train.seed, judged)
    return Claim(report.scorer, report.rows, here, ref, theirs, difference, tuple(lines))


def _recipe_of(records: Records) -> Recipe:
    """The recipe of the record in the work tree."""
    tree = records.work_tree
    train = tree.report(layout.TRAIN_REPORT, TrainReport)
    if not {"train", "valid"} <= set(train.splits):
        raise EvidenceRefused(
            f"{layout.TRAIN_REPORT}: does not name its splits", "run `./lockstep run`"
        )
    return Recipe(
        parameters=sweeps.parameters_of(tree.params),
        base=train.base,
        train=train.splits["train"],
        valid=train.splits["valid"],
        scorers=scoring.digest_of(tree.params.evaluate.scorers),
        prompt_format=tree.report(layout.EVALUATION, EvaluationReport).prompt_format,
    )


def _against(
    report: SweepReport, here: str, there: Commit, ref: str
) -> tuple[Spread | None, Difference | None, str]:
    """The spread of the parameters of ``ref``, the difference to them, and a line about both."""
    try:
        parameters = sweeps.parameters_of(there.params(f"{ref}:{layout.PARAMS}"))
    except ParamsRefused as refusal:
        return None, None, f"the parameters of {ref} cannot be read: {refusal.what}"
    if parameters == here:
        return None, None, f"the parameters of {ref} are the same"
    difference = report.difference(here, parameters)
    if difference is None and report.of(parameters):
        line = f"the parameters of {ref} cannot be told from these: one seed, a refused one, or equal scores"
        return None, None, line
    if difference is None:
        line = f"the parameters of {ref} were not compared with: ./lockstep sweep PARAMETER=OLD,NEW {_SEEDS}"
        return None, None, line
    theirs = _spread(report, report.of(parameters))
    about = f"{theirs.mean:.3f} over {len(theirs.seeds)} seeds, spread {theirs.spread:.3f}"
    return theirs, difference, f"against the parameters of {ref}, {about}: {difference.said()}"


def _runs_of(report: SweepReport, recipe: Recipe) -> list[SweptRun]:
    """The trainings of ``recipe``. Raises EvidenceRefused with everything in which the nearest one differs."""
    recipes = [run.recipe for run in report.runs if run.recipe is not None]
    if not recipes:
        raise EvidenceRefused(f"{layout.SWEEP_REPORT}: every training was refused", _FIX)
    nearest = min(recipes, key=lambda other: len(_differing(other, recipe)))
    if differing := _differing(nearest, recipe):
        first, *others = [
            f"{_OTHER[name]}, {chain.short(getattr(nearest, name))}; the record here has "
            f"{chain.short(getattr(recipe, name))}"
            for name in differing
        ]
        raise EvidenceRefused(
            f"{layout.SWEEP_REPORT}: was measured with {first}", _FIX, tuple(others)
        )
    runs = report.of(recipe.parameters)
    if refused := report.refused(runs[0].values):
        seeds = f"{refused} of {refused + len(runs)} seeds were refused, and the others are the lucky ones"
        raise EvidenceRefused(
            f"{layout.SWEEP_REPORT}: {seeds}", "choose parameters that train with every seed"
        )
    if len(runs) < 2:
        raise EvidenceRefused(
            f"{layout.SWEEP_REPORT}: has one seed of these parameters, and so no spread", _FIX
        )
    return runs


def _differing(one: Recipe, two: Recipe) -> list[str]:
    """The names of the fields in which the recipes differ."""
    return [name for name in _OTHER if getattr(one, name) != getattr(two, name)]


def _spread(report: SweepReport, runs: Sequence[SweptRun]) -> Spread:
    return Spread(tuple(run.seed for run in runs), report.mean(runs), report.spread(runs) or 0.0)


def _same_model(runs: Sequence[SweptRun], seed: int, judged: str) -> Iterator[str]:
    """Whether the training with the seed of params.yaml gave the judged model, as it does on an equal machine."""
    for run in runs:
        if run.seed == seed and run.merged == judged:
            yield f"the judged model is the one of seed {seed}"
        elif run.seed == seed:
            yield f"seed {seed} gave another model in the sweep than here: by another machine, or other code"
