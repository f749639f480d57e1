"""dvc.yaml: a stage depends on every module of this repository that it imports.

It depends on no folder of modules, but for those whose modules are found by looking there (``plugins.collect``).
"""

from pathlib import Path

import pytest
import yaml

from release.record import pipeline_lock
from tests import dvc_deps
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / dvc_deps.PIPELINE).read_text()
STAGES: dict = yaml.safe_load(TEXT)["stages"]


def test_the_gate_knows_which_parameters_each_stage_reads() -> None:
    decide = {
        name: stage for name, stage in STAGES.items() if name != "score"
    }  # releases of earlier versions have none
    assert {name: tuple(stage["params"]) for name, stage in decide.items()} == pipeline_lock.READS


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_lists_exactly_the_modules_it_imports(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("checks", "stages"))}
    assert listed == set(dvc_deps.modules(stage)), f"run `{dvc_deps.COMMAND}`"


@pytest.mark.slow
def test_dvc_yaml_is_as_the_command_writes_it() -> None:
    assert dvc_deps.written(TEXT) == TEXT, f"run `{dvc_deps.COMMAND}`"


@pytest.mark.slow
def test_the_command_adds_and_removes_modules_and_leaves_every_other_line() -> None:
    kept = "      # of the fetch stage\n      - stages/fetch.py\n"
    old = TEXT.replace("      - stages/fetch.py\n", f"{kept}      - stages/gone.py\n")
    old = old.replace("      - checks/digest.py\n", "", 1)
    assert dvc_deps.written(old) == TEXT.replace("      - stages/fetch.py\n", kept)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_runs_as_its_own_module_and_depends_on_no_source_folder(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert not {"checks", "stages", "release"} & set(STAGES[stage]["deps"])


def test_the_folders_of_kinds_are_those_that_this_test_expects() -> None:
    folders = {name: {dep for dep in stage["deps"] if "." not in dep} for name, stage in STAGES.items()}
    code = {name: {dep for dep in found if dep.startswith(("checks", "stages"))} for name, found in folders.items()}
    kinds = {"stages/loaders", "stages/training/methods", "checks/rules", "checks/scorers"}
    assert {name: found for name, found in code.items() if found} == {
        "fetch": {"stages/sources/schemes", "checks/chat_templates"}, "prepare": kinds, "validate": kinds | {"stages/sources/schemes"}, "train": {"stages/training/methods", "checks/scorers"},
        "merge": {"stages/sources/schemes"}, "score": {"checks/scorers"}, "evaluate": {"checks/scorers"}, "suites": {"checks/retrievers", "checks/scorers", "checks/suites", "stages/judges", "stages/sources/schemes"}, "gate": {"checks/gates", "checks/retrievers", "checks/scorers", "checks/suites", "stages/judges"},
    }  # fmt: skip


FOUND = {
    "a folder that is imported": "from checks import plugins\nfrom stages import kinds\nx = plugins.collect('g', kinds, f, g)\n",
    "a folder by its name": "from checks import plugins\nx = plugins.collect('g', import_module('stages.kinds'), f, g)\n",
}


@pytest.mark.parametrize("case", FOUND)
def test_modules_of_a_folder_that_is_searched_count_as_imported(case: str, tmp_path: Path) -> None:
    files = {
        "stages/one.py": FOUND[case],
        "stages/kinds/__init__.py": '"""Nothing."""\n',
        "checks/plugins.py": "X = 1\n",
    }
    files |= {
        "stages/kinds/a.py": "from stages import b\n",
        "stages/kinds/_help.py": "X = 1\n",
        "stages/b.py": "X = 1\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    wanted = ["stages/b.py", "stages/kinds", "stages/one.py", "checks/plugins.py"]
    assert dvc_deps.modules("one", tmp_path) == wanted


def test_a_folder_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/one.py").write_text("x = plugins.collect('g', anywhere(), f, g)\n")
    with pytest.raises(ValueError, match=r"one.py:1: cannot tell which package is meant by anywhere\(\)"):
        dvc_deps.modules("one", tmp_path)
