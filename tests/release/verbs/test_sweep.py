"""Sweeps: real trainings of a tiny model as DVC's experiments, chosen by the valid split; params.yaml keeps its comments."""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from git import Repo

import stages.sweep
from checks.config import params_edit, params_file, sweeps
from checks.config.params import Params
from checks.config.sweeps import Sweep, SweepReport, SweptRun
from checks.formats import refused
from checks.formats.data_reports import Seal
from checks.formats.evaluation_reports import Interval
from checks.formats.refused import Refused
from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import files, layout
from stages.reporting.swept import table
from stages.sweep import Setup, sweep
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY

PARAMS = (REPOSITORY / layout.PARAMS).read_text()


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["train.lora.r=4,8"], {"train.lora.r": [4, 8]}),
        (["train.learning_rate=1e-3", "train.schedule=cosine,linear"], {"train.learning_rate": [0.001], "train.schedule": ["cosine", "linear"]}),
        (["train.lora.targets=[q_proj],[q_proj, v_proj]"], {"train.lora.targets": [["q_proj"], ["q_proj", "v_proj"]]}),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml(specs: list[str], expected: dict[str, list[Any]]) -> None:
    assert sweeps.value_lists(specs) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train.lora.r", "is not a parameter of train with its values; write for example train.lora.r=8,16"),
        ("evaluate.max_new_tokens=4,8", "is not a parameter of train"),
        ("train.seed=1,2", "a seed is no value to choose; give seeds with --seed"),
        ("train.lora.r=8,8", "names a parameter or a value twice"),
        ("train.lora.r=", "or no value"),
        ("train.lora.r=]", "its values are no YAML"),
    ],
)
def test_what_is_no_list_of_values_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ParamsRefused) as refused:
        sweeps.value_lists([spec])
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


def test_too_many_trainings_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / layout.PARAMS).write_text(PARAMS)
    with pytest.raises(ParamsRefused, match="21 trainings, and at most 20 are allowed; try fewer values"):
        sweep(params_file.parse(PARAMS), tmp_path, [], range(21), 20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.lora.r": 0}, "train.lora.r=0: train.lora.r: 0; "),
        ({"train.lora.r": "4..8"}, "train.lora.r=4..8: train.lora.r: '4..8'; "),
        ({"train.lora.rank": 4}, "train.lora.rank=4: train.lora.rank: unknown key; remove it"),
        ({"train.max_length": 64}, "train.max_length=64: train.max_length: 64 would cut rows"),
    ],
)
def test_values_that_params_yaml_could_not_have_are_refused_before_training(values: dict, message: str) -> None:
    with pytest.raises(ParamsRefused) as refused:
        sweeps.changed(params_file.read_text(PARAMS, "params.yaml"), values)
    assert message in str(refused.value)


def test_the_chosen_values_change_their_lines_alone() -> None:
    values: sweeps.Values = {
        "train.lora.r": 4,
        "train.learning_rate": 0.001,
        "train.lora.targets": ["q_proj", "v_proj"],
        "train.epochs": 9,
    }
    changed = params_edit.with_values(PARAMS, values)
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
        params_edit.with_values(PARAMS, {"train.neftune_alpha": 5})


def _run(rank: int, seed: int, score: float | None) -> SweptRun:
    scores = {} if score is None else {"exact-match": Interval(value=score, low=score - 0.1, high=score + 0.1, n=100)}
    return SweptRun(
        values={"train.lora.r": rank}, seed=seed, scores=scores, experiment=f"sweep-{rank}-{seed}",
        refused=None if scores else "step 3: the loss is nan",
    )  # fmt: skip


def test_the_best_mean_over_seeds_comes_first_and_refused_trainings_are_named() -> None:
    runs = (_run(4, 1, 0.5), _run(4, 2, 0.7), _run(8, 1, 0.65), _run(16, 1, None))
    report = Sweep(valid=f"sha256:{'1' * 64}", rows=100, scorer="exact-match", confidence=0.95, runs=runs)
    assert [(values["train.lora.r"], report.mean(each)) for values, each in report.by_values()] == [(8, 0.65), (4, 0.6)]
    assert report.spread(runs[:2]) == pytest.approx(0.1414, abs=1e-4)
    lines = table(report).splitlines()
    assert "| train.lora.r=8 | 0.650 [0.550, 0.750] | 1 |  |" in lines
    assert "| train.lora.r=4 | 0.600 | 2 | 0.141 |" in lines
    assert "* train.lora.r=16, seed 1: refused: step 3: the loss is nan" in lines


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
    params = params_file.check(parsed)
    setup = Setup(root, Repo(root), params, parsed, Seal(splits={}), [])
    run = partial(stages.sweep._train, setup, {"train.lora.r": 4}, 5, sweeps.parameters_of(params))
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
    repository.commit(root, "a comment")

    done = _sweep(root, "train.lora.r=2", "--seed", "5", "--seed", "6", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    report = files.read_json(root / layout.SWEEP_REPORT, SweepReport)
    assert json.loads(done.stdout) == report.model_dump(mode="json")
    assert [(run.values, run.seed, run.refused) for run in report.runs] == [
        ({"train.lora.r": 2}, seed, None) for seed in (5, 6)
    ]
    assert report.runs[0].merged != report.runs[1].merged
    assert report.runs[0].recipe == report.runs[1].recipe
    assert all(0 <= run.scores["exact-match"].value <= 1 for run in report.runs)
    assert not (root / layout.PREDICTIONS).exists()
    assert (root / layout.PARAMS).read_text() == text
    assert repository.git(root, "status", "--porcelain", "--", "params.yaml") == ""

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root / '.lockstep' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(yaml.safe_load(text)["tracking"]["experiment"])
    logged = [run.data.metrics["valid.exact-match"] for run in client.search_runs([experiment.experiment_id])]
    assert sorted(logged) == pytest.approx(sorted(run.scores["exact-match"].value for run in report.runs))

    assert "over 2 seeds, " in (root / layout.SWEEP_TABLE).read_text()

    again = _sweep(root, "train.lora.r=2", "--seed", "5", "--seed", "6")
    assert again.returncode == 0, again.stderr[-4000:]
    assert again.stderr.count("trained before, as experiment sweep-") == 2
    assert "Running stage" not in again.stdout
    assert files.read_json(root / layout.SWEEP_REPORT, SweepReport).runs == report.runs
    params = params_edit.with_values(text, report.by_values()[0][0])
    assert report.runs[0].recipe is not None
    assert report.runs[0].recipe.parameters == sweeps.parameters_of(params_file.parse(params))
