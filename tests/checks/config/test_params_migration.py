"""The params.yaml of an earlier version: moved keys get their place of today, and what DVC tracks is written."""

import pytest

from checks.code import lock
from checks.config import params_file
from checks.config.params_migration import migrated
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.adapters import thin_files
from tests.conftest import REPOSITORY

TEXT = thin_files.templates()[layout.PARAMS.as_posix()].decode()
LAST = "    artifact_mb: 450\n"


def given(*lines: str, text: str = TEXT) -> str:
    """The file with further keys of the gate budget."""
    return text.replace(LAST, LAST + "".join(f"    {line}\n" for line in lines))


MOVES = {
    "to a section that is not there": (given("gpu_hours: 1 # one card"), f"{TEXT}\ntrain_budget:\n  gpu_hours: 1 # one card\n"),
    "two to the same section": (
        given("cost: 1", "hourly_price: 2"), f"{TEXT}\ntrain_budget:\n  hourly_price: 2\n  cost: 1\n",
    ),
    "to a section with other keys": (
        given("gpu_hours: 1", text=f"{TEXT}\ntrain_budget: # of a run\n  train_minutes: 3\n"),
        f"{TEXT}\ntrain_budget: # of a run\n  gpu_hours: 1\n  train_minutes: 3\n",
    ),
    "nowhere": (given("latency_p95_seconds: 30 # of a batch"), TEXT),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_a_key_of_an_earlier_version_is_moved_with_its_comment_and_nothing_else_changes(case: str) -> None:
    old, new = MOVES[case]
    with pytest.raises(ParamsRefused, match="is no longer a parameter"):
        params_file.parse(old)
    assert migrated(old) == new
    params_file.parse(new)


@pytest.mark.parametrize(
    "text",
    [
        given("gpu_hours: 1", text=f"{TEXT}\ntrain_budget:\n  gpu_hours: 2\n"),
        TEXT.replace("serve:\n", "serve:\n  verify:\n    p95_seconds: 5\n"),
        TEXT.replace("serve:\n", "serve:\n  verify: {p95_seconds: 5, margin: 0.02}\n"),
        given("gpu_hours: 1", text=f"{TEXT}\ntrain_budget: {{train_minutes: 3}}\n"),
        given("gpu_hours:\n      1"),
    ],
    ids=[
        "two values of one key",
        "the only key of its section",
        "from one line",
        "to one line",
        "a value below its key",
    ],
)
def test_what_a_person_must_decide_stays_and_is_refused(text: str) -> None:
    assert migrated(text) == text
    with pytest.raises(ParamsRefused):
        params_file.parse(text)


def test_the_file_of_this_version_stays() -> None:
    assert migrated(TEXT) == TEXT


LEFT_OUT = {
    "suites": "\nsuites: {}\n",
    "merge": "\nmerge: {shard_mb: ",
    "evaluate.precision": "evaluate:\n  precision: bf16\n",
    "serve.dtype": "serve:\n  dtype: bf16\n",
}


@pytest.mark.parametrize("path", LEFT_OUT)
def test_a_default_that_dvc_tracks_is_named_before_dvc_starts_and_written_by_a_migration(path: str) -> None:
    text = (REPOSITORY / "docs/configurations/preferences.yaml").read_text()
    section, _, key = path.rpartition(".")
    lines = text.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{section or key}:"))
    if section:
        start = next(i for i in range(start, len(lines)) if lines[i].startswith(f"  {key}:"))
    end = next(i for i in range(start + 1, len(lines)) if section or lines[i][:1] not in " \n")
    shorter = "".join(lines[:start] + lines[end:])
    with pytest.raises(
        ParamsRefused, match=rf"params.yaml: {path}: is not written, and DVC tracks it; write `{path}: "
    ):
        lock.refuse_left_out(params_file.parse(shorter))
    text = migrated(shorter)
    assert LEFT_OUT[path] in text
    lock.refuse_left_out(params_file.parse(text))


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "docs/configurations").glob("*.yaml")), ids=lambda path: path.stem
)
def test_each_configuration_of_the_docs_writes_what_dvc_tracks(path: object) -> None:
    lock.refuse_left_out(params_file.load(path))  # type: ignore[arg-type]
