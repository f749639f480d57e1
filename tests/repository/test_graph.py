"""dvc.yaml: each stage depends on its own code, by a digest in code.lock, and on the parameters that it reads."""

import pytest
import yaml

from checks.code import lock
from checks.storage import layout
from tests.conftest import REPOSITORY

STAGES: dict = yaml.safe_load((REPOSITORY / layout.PIPELINE).read_text())["stages"]


@pytest.mark.parametrize("stage", sorted(lock.READS))
def test_a_stage_depends_on_what_it_reads_and_on_its_code(stage: str) -> None:
    params = [*lock.READS[stage], {layout.CODE_LOCK.as_posix(): [lock.key(stage)]}]
    assert STAGES[stage]["params"] == params


def test_the_first_stage_writes_the_digests_in_every_run() -> None:
    first, *others = STAGES
    assert first == lock.STAGE
    assert others == list(lock.READS)
    assert STAGES[first]["always_changed"]
    assert STAGES[first]["outs"] == [{layout.CODE_LOCK.as_posix(): {"cache": False, "persist": True}}]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_runs_as_its_own_module_and_names_no_code(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -P -m stages.{stage}"
    assert not [path for path in STAGES[stage].get("deps", ()) if path.startswith(("checks", "stages", "release"))]
