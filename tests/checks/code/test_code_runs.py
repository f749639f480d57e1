"""The digest of a stage's code covers every module that the stage runs: compared with what a traced run called."""

import json
from pathlib import Path

import pytest

from checks.code import lock, modules
from checks.config import params_file
from checks.storage import layout
from tests import pipeline_repository as repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository in which the whole pipeline has run on a tiny model, traced. Read-only by custom."""
    return repository.finished(tmp_path_factory, tiny_base)


@pytest.mark.parametrize("stage", sorted(lock.READS))
def test_no_module_runs_that_the_digest_of_its_stage_does_not_cover(finished: Path, stage: str) -> None:
    params = params_file.load(finished / layout.PARAMS).resolved()
    covered = {*lock.modules_of(stage, params, modules.below(finished))}
    called = set(json.loads((finished.parent / "traces" / f"{stage}.json").read_text()))
    assert f"stages/{stage}.py" in called
    assert called - covered - modules.NOT_FOLLOWED == set()
