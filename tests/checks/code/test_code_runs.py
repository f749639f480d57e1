"""The digest of a stage's code covers every module that the stage runs: compared with what a traced run called."""

import json
from pathlib import Path

import pytest

from checks.code import lock, modules
from checks.config import params_file
from checks.storage import layout
from tests import pipeline_repository as repository
from tests.conftest import scaled_down

pytestmark = pytest.mark.slow

# Runs a stage, and writes which files had a function that was called after the parameters were read. A call that an
# import makes does not count, because all kinds are imported wherever one is used. Nor does one of what validates
# parameters or tells MLflow.
TRACER = """
import json, os, runpy, sys, threading
from stages import entry

root, called, run = os.getcwd() + os.sep, set(), entry.run

def uncounted(frame):
    while frame is not None and frame.f_code.co_name != "<module>":
        if frame.f_code.co_filename.startswith((root + "stages/tracking/", root + "checks/config/params.py")):
            return True
        frame = frame.f_back
    return frame is not None and frame.f_globals["__name__"] != "__main__"

def trace(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(root) and code.co_filename not in called:
        # Where parameters are copied, a gate's serializer writes them.
        if code.co_flags & 1 and code.co_name != "_without_no_suite" and not uncounted(frame):
            called.add(code.co_filename)

def traced(name, stage, *arguments, **named):
    def run_traced(params, folder):
        threading.setprofile(trace)
        sys.setprofile(trace)
        try:
            return stage(params, folder)
        finally:
            sys.setprofile(None)
            with open(os.path.join(".lockstep", f"traced-{name}.json"), "w") as stream:
                json.dump(sorted(path.removeprefix(root) for path in called), stream)

    run(name, run_traced, *arguments, **named)

entry.run = traced
runpy.run_module(f"stages.{sys.argv[1]}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    root = tmp_path_factory.mktemp("traced").resolve()
    repository.make(root, tiny_base, scaled_down(), repository.table())
    (root / ".lockstep").mkdir()
    (root / "tracer.py").write_text(TRACER)
    pipeline = (root / layout.PIPELINE).read_text()
    (root / layout.PIPELINE).write_text(pipeline.replace("cmd: python -m stages.", "cmd: python tracer.py "))
    return root


@pytest.fixture(scope="module")
def called(repo: Path) -> dict[str, set[str]]:
    """The modules whose functions each stage called, by a run of the whole pipeline on a tiny model."""
    repository.repro(repo)
    return {stage: set(json.loads((repo / f".lockstep/traced-{stage}.json").read_text())) for stage in lock.READS}


@pytest.mark.parametrize("stage", sorted(lock.READS))
def test_no_module_runs_that_the_digest_of_its_stage_does_not_cover(
    repo: Path, called: dict[str, set[str]], stage: str
) -> None:
    params = params_file.load(repo / layout.PARAMS).resolved()
    covered = {*lock.modules_of(stage, params, modules.below(repo))}
    assert f"stages/{stage}.py" in called[stage]
    assert called[stage] - covered - modules.NOT_FOLLOWED == set()
