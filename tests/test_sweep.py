"""Sweeps: real trainings of a tiny model as DVC's experiments, chosen by the valid split; params.yaml keeps its comments."""

import json
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from git import Repo

import stages.sweep
from checks import files, layout
from checks.config import params_file, sweeps
from checks.config.params import Params
from checks.config.sweeps import Range, Sweep, SweepReport, SweptRun
from checks.errors import MachineRefused, ParamsRefused
from checks.formats import refused
from checks.formats.data_reports import Seal
from checks.formats.evaluation_reports import Interval
from checks.formats.refused import Refused
from stages.reporting.swept import draw, table
from stages.searching import Search
from stages.sweep import sweep
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY

PARAMS = (REPOSITORY / layout.PARAMS).read_text()


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["train.lora.r=4,8"], {"train.lora.r": [4, 8]}),
        (["train.learning_rate=1e-3", "train.schedule=cosine,linear"], {"train.learning_rate": [0.001], "train.schedule": ["cosine", "linear"]}),
        (["train.learning_rate=1e-4..3e-3:log", "train.lora.r=4..8"], {"train.learning_rate": Range(low=1e-4, high=3e-3, log=True), "train.lora.r": Range(low=4, high=8)}),
        (["train.lora.targets=[q_proj],[q_proj, v_proj]"], {"train.lora.targets": [["q_proj"], ["q_proj", "v_proj"]]}),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml(specs: list[str], expected: dict[str, list[Any]]) -> None:
    assert sweeps.asked(specs) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train.lora.r", "is not a parameter of train with its values; write for example train.lora.r=8,16"),
        ("evaluate.max_new_tokens=4,8", "is not a parameter of train"),
        ("train.seed=1,2", "a seed is no value to choose; give seeds with --seed"),
        ("train.lora.r=8,8", "names a parameter or a value twice"),
        ("train.lora.r=", "or no value"),
        ("train.lora.r=]", "its values are no YAML"),
        ("train.lora.r=4..", "is no range of numbers; write it as train.learning_rate=1e-4..3e-3:log"),
        ("train.lora.r=4..x", "is no range of numbers"),
        ("train.lora.r=4..8:lin", "is no range of numbers"),
        ("train.lora.r=[..8", "is no range of numbers"),
        ("train.lora.r=true..8", "is no range of numbers"),
        ("train.learning_rate=1e-4...inf", "is no range of numbers"),
        ("train.lora.r=8..4", "is no range; write the lower end first"),
        ("train.learning_rate=0..1:log", "with :log it is above 0"),
    ],
)
def test_what_is_no_list_of_values_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ParamsRefused) as refused:
        sweeps.asked([spec])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("specs", "seeds", "message"),
    [
        ([], [], "no value to try, and not several seeds; write values as"),
        ([], [5], "no value to try, and not several seeds; write values as"),
        ([], [5, 5], "a seed is named twice; write values as train.lora.r=8,16, and each seed once"),
        (["train.lora.r=2"], [5, 6, 5], "a seed is named twice"),
    ],
)
def test_seeds_are_several_and_each_once(tmp_path: Path, specs: list[str], seeds: list[int], message: str) -> None:
    with pytest.raises(ParamsRefused, match=message):
        sweep(params_file.parse(PARAMS), tmp_path, specs, seeds, 20)


@pytest.mark.parametrize(
    ("specs", "trials", "message"),
    [
        (["train.lora.r=4..8"], None, "train.lora.r: a range has no list of values; say how many to try: --trials 12"),
        ([], 3, "--trials: no value to search; name a range"),
        (["train.lora.r=4..8"], 21, "21 trainings, and at most 20 are allowed"),
        (["train.lora.r=0..8"], 3, "train.lora.r=0: train.lora.r: 0; "),
        (["train.lora.r=4..8", "train.learning_rate=1e-4..-1"], 3, "is no range"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_training(
    tmp_path: Path, specs: list[str], trials: int | None, message: str
) -> None:
    (tmp_path / layout.PARAMS).write_text(PARAMS)
    with pytest.raises(ParamsRefused, match=message):
        sweep(params_file.parse(PARAMS), tmp_path, specs, [17, 18][: 1 if specs else 2], 20, trials)


def test_a_search_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MachineRefused, match="a search needs optuna, which is not installed; pip install"):
        Search({"train.lora.r": [4, 8]}, 3, 17)


SPACE: sweeps.Tried = {
    "train.learning_rate": Range(low=1e-4, high=1e-1, log=True),
    "train.lora.r": Range(low=4, high=64, log=True),
    "train.lora.targets": [["q_proj"], ["q_proj", "v_proj"]],
}


def _score(values: sweeps.Values) -> float | None:
    """Best at a rate of 0.002; refused above 0.03, as a loss that is not finite is."""
    rate = values["train.learning_rate"]
    assert isinstance(rate, float)
    return None if rate > 0.03 else -abs(math.log10(rate / 0.002))


def _search(trials: int, stopped_after: int | None = None) -> list[sweeps.Values]:
    found, search = [], Search(SPACE, trials, 17)
    for values in search:
        found.append(values)
        if len(found) == stopped_after:
            break
        search.tell(values, _score(values))
    return found


def test_a_search_chooses_by_scores_and_goes_on_after_an_interruption() -> None:
    found = _search(20)
    assert len(found) == 20
    assert len({json.dumps(values) for values in found}) == 20
    assert found[:7] == _search(20, stopped_after=7)
    assert found[:8] == _search(8), "more trials go on with the same search"
    near = [score is not None and score > -0.5 for score in map(_score, found)]
    assert sum(near[10:]) > sum(near[:10])
    for values in found:
        rate, rank = values["train.learning_rate"], values["train.lora.r"]
        assert isinstance(rate, float)
        assert isinstance(rank, int)
        assert 1e-4 <= rate == float(f"{rate:.3g}") <= 1e-1
        assert 4 <= rank <= 64
        assert values["train.lora.targets"] in (["q_proj"], ["q_proj", "v_proj"])


def test_a_number_between_two_ends_stays_between_them() -> None:
    ends = Range(low=0.0012345, high=0.0012349)
    search = Search({"train.learning_rate": ends}, 3, 17)
    for values in search:
        assert values == {"train.learning_rate": ends.low}
        search.tell(values, 0.5)


@pytest.mark.slow
def test_a_search_of_few_settings_tries_each_once() -> None:
    search = Search({"train.lora.r": [4, 8]}, 12, 17)
    found = []
    for values in search:
        found.append(values["train.lora.r"])
        search.tell(values, 0.5)
    assert found in ([4, 8], [8, 4])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.lora.r": 0}, "train.lora.r=0: train.lora.r: 0; "),
        ({"train.lora.rank": 4}, "train.lora.rank=4: train.lora.rank: unknown key; remove it"),
        ({"train.max_length": 64}, "train.max_length=64: train.max_length: 64 would cut rows"),
    ],
)
def test_values_that_params_yaml_could_not_have_are_refused_before_training(values: dict, message: str) -> None:
    with pytest.raises(ParamsRefused) as refused:
        sweeps.hold(params_file.read_text(PARAMS, "params.yaml"), values)
    assert message in str(refused.value)


def test_the_chosen_values_change_their_lines_alone() -> None:
    values: sweeps.Values = {
        "train.lora.r": 4,
        "train.learning_rate": 0.001,
        "train.lora.targets": ["q_proj", "v_proj"],
        "train.epochs": 9,
    }
    changed = sweeps.written(PARAMS, values)
    train = params_file.parse(changed).train
    assert train.lora is not None
    assert (train.lora.r, train.learning_rate, train.lora.targets, train.epochs) == (
        4,
        0.001,
        ("q_proj", "v_proj"),
        9,
    )
    before, after = PARAMS.splitlines(), changed.splitlines()
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == len(values)
    with pytest.raises(ParamsRefused, match=r"does not write train\.neftune_alpha; add it by hand, as 5"):
        sweeps.written(PARAMS, {"train.neftune_alpha": 5})


def _run(rank: int, seed: int, score: float | None, seconds: float = 1.0) -> SweptRun:
    scores = {} if score is None else {"exact-match": Interval(value=score, low=score - 0.1, high=score + 0.1, n=100)}
    return SweptRun(
        values={"train.lora.r": rank}, seed=seed, scores=scores, seconds=seconds, experiment=f"sweep-{rank}-{seed}",
        trainable_parameters=rank * 1000, refused=None if scores else "step 3: the loss is nan",
    )  # fmt: skip


def test_the_best_mean_over_seeds_comes_first_and_refused_trainings_are_named() -> None:
    runs = (_run(4, 1, 0.5), _run(4, 2, 0.7), _run(8, 1, 0.65), _run(16, 1, None))
    report = Sweep(valid=f"sha256:{'1' * 64}", rows=100, scorer="exact-match", confidence=0.95, runs=runs)
    assert [(values["train.lora.r"], report.mean(each)) for values, each in report.by_values()] == [(8, 0.65), (4, 0.6)]
    assert report.spread(runs[:2]) == pytest.approx(0.1414, abs=1e-4)
    lines = table(report).splitlines()
    assert "| train.lora.r=8 | 0.01 | 0.650 [0.550, 0.750] | 1 |  | 1 |" in lines
    assert "| train.lora.r=4 | 0.00 | 0.600 | 2 | 0.141 | 1 |" in lines
    assert "* train.lora.r=16, seed 1: refused: step 3: the loss is nan" in lines


@pytest.mark.slow
def test_a_search_is_told_as_one_and_drawn_along_its_ranges(tmp_path: Path) -> None:
    runs = tuple(
        _run(rank, seed, rank / 100).model_copy(
            update={"values": {"train.lora.r": rank, "train.learning_rate": rank / 1e4}}
        )
        for rank in (4, 7, 16)
        for seed in (1, 2)
    )
    report = Sweep(
        valid=f"sha256:{'1' * 64}", rows=100, scorer="exact-match", confidence=0.95, search="TPE, seed 17", runs=runs
    )
    assert "Values by TPE, seed 17: each was chosen by the scores before." in table(report)
    draw(
        tmp_path,
        report,
        {"train.lora.r": Range(low=4, high=16, log=True), "train.learning_rate": Range(low=1e-4, high=2e-3, log=True)},
    )
    drawn = (tmp_path / "scores.svg").read_text()
    assert "by train.learning_rate: a point a training" in drawn
    assert ">0.0005<" in drawn
    assert "$" not in drawn


def _sweep(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [repository.interpreter(), "-m", "release.cli", "sweep", *arguments], cwd=root, env=repository.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_path_in_which_dvc_runs_no_experiment_is_refused_at_once(tmp_path: Path) -> None:
    params = params_file.parse(PARAMS)
    with pytest.raises(MachineRefused, match="é: DVC runs no experiment below such a name; clone to a path in ASCII"):
        sweep(params, tmp_path / "é", ["train.lora.r=2,4"], [], 20)


@pytest.mark.parametrize(
    ("code", "named"), [(5, "step 3: the loss is nan"), (6, "step 3: the loss is nan"), (4, None), (9, None)]
)
def test_only_what_depends_on_the_values_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, named: str | None
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / layout.PARAMS).write_text(PARAMS)
    repository.git(root, "init", "--quiet")
    repository.commit(root, "start")
    word = Refused(stage="train", exit_code=code, what="step 3: the loss is nan", todo="lower it")

    def refuses(_params: Params, where: Path, *_arguments: str) -> int:
        refused.write(where, word)
        return 255

    monkeypatch.setattr(stages.sweep, "_dvc", refuses)
    parsed = params_file.read(root / layout.PARAMS)
    run = partial(
        stages.sweep._run,
        params_file.check(parsed),
        root,
        Repo(root),
        parsed,
        {"train.lora.r": 4},
        5,
        Seal(splits={}),
        [],
        sweeps.parameters_of(params_file.check(parsed)),
    )
    if named:
        assert run() == (
            SweptRun(values={"train.lora.r": 4}, seed=5, experiment=run()[0].experiment, refused=named),
            [],
        )
    else:
        with pytest.raises(MachineRefused, match="stage train refused: step 3: the loss is nan; fix what it says"):
            run()


@pytest.mark.slow
def test_a_sweep_trains_each_seed_once_and_asks_no_test_row(tmp_path: Path, tiny_base: Path) -> None:
    from tests.conftest import scaled_down

    root = tmp_path / "a reposit ory"
    repository.make(root, tiny_base, scaled_down(), repository.table())
    text = (root / layout.PARAMS).read_text() + "# a comment at the end\n"
    (root / layout.PARAMS).write_text(text)
    (root / layout.TRAIN_MEASURED).parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / layout.TRAIN_MEASURED, root / layout.TRAIN_MEASURED)
    repository.commit(root, "a comment, and the measurement of an earlier training")

    done = _sweep(root, "train.lora.r=2", "--seed", "5", "--seed", "6", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    report = files.read_json(root / layout.SWEEP_REPORT, SweepReport)
    assert json.loads(done.stdout) == report.model_dump(mode="json")
    assert [(run.values, run.seed, run.refused) for run in report.runs] == [
        ({"train.lora.r": 2}, seed, None) for seed in (5, 6)
    ]
    assert report.runs[0].merged != report.runs[1].merged
    assert report.runs[0].recipe == report.runs[1].recipe
    assert all(0 <= run.scores["exact-match"].value <= 1 and run.seconds for run in report.runs)
    assert {path.name for path in (root / layout.SWEEP_PLOTS).iterdir()} == {
        f"{name}.{kind}" for name in ("scores", "seconds") for kind in ("png", "svg")
    }
    assert not (root / layout.PREDICTIONS).exists()
    assert (root / layout.PARAMS).read_text() == text
    assert repository.git(root, "status", "--porcelain", "--", "params.yaml") == ""

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root / '.lockstep' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(yaml.safe_load(text)["tracking"]["experiment"])
    logged = {run.info.run_id: run.data.metrics for run in client.search_runs([experiment.experiment_id])}
    for run in report.runs:
        assert logged[run.mlflow_run]["valid.exact-match"] == pytest.approx(run.scores["exact-match"].value)

    assert "over 2 seeds, " in (root / layout.SWEEP_TABLE).read_text()

    # A search that has one setting to choose finds it trained.
    shutil.rmtree(root / layout.SWEEP_PLOTS)
    again = _sweep(root, "train.lora.r=2", "--trials", "2", "--seed", "5", "--seed", "6", "--apply")
    assert again.returncode == 0, again.stderr[-4000:]
    assert again.stderr.count("trained before, as experiment sweep-") == 2
    assert "Running stage" not in again.stdout
    searched = files.read_json(root / layout.SWEEP_REPORT, SweepReport)
    assert searched.runs == report.runs
    assert searched.search is not None
    assert searched.search in again.stdout
    params = params_file.load(root / layout.PARAMS)
    assert params.train.lora is not None
    assert params.train.lora.r == 2
    assert report.runs[0].recipe is not None
    assert report.runs[0].recipe.parameters == sweeps.parameters_of(params)
    assert (root / layout.PARAMS).read_text().endswith("# a comment at the end\n")
