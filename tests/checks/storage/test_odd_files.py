"""What is found where a file is expected, and is none: refused in one line, and nobody waits for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.formats.training_reports import TrainReport
from checks.process.errors import EvidenceRefused, ParamsRefused, RegistryRefused
from checks.records.rows import Row
from checks.storage import files, layout
from release.cli import main
from release.image.layout import Layout
from release.promotion import move_commit

pytestmark = pytest.mark.timeout(60)


def _pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _device])
def test_reports_rows_and_parameters_that_are_no_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    report, rows, params = tmp_path / "train.json", tmp_path / "test.jsonl", tmp_path / layout.PARAMS
    for path in (report, rows, params):
        make(path)
    with pytest.raises(EvidenceRefused, match=r"train.json: is not a regular file"):
        files.read_json(report, TrainReport)
    with pytest.raises(EvidenceRefused, match=r"test.jsonl: is not a regular file"):
        files.read_jsonl(rows, Row)
    with pytest.raises(ParamsRefused, match=r"params.yaml: is not a regular file"):
        params_file.load(params)


def test_a_path_that_the_system_cannot_look_up(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    with pytest.raises(EvidenceRefused, match="File name too long"):
        files.read_json(long, TrainReport)
    with pytest.raises(EvidenceRefused, match="File name too long"):
        files.read_jsonl(long, Row)


@pytest.mark.parametrize("make", [_pipe, _device])
@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_an_image_folder_with_no_file_in_it(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(RegistryRefused, match=f"{name}: is not a regular file"):
        Layout(tmp_path).document(f"sha256:{1:064}")


def test_a_blob_that_is_a_pipe(tmp_path: Path) -> None:
    _pipe(tmp_path / "blobs" / "sha256" / f"{1:064}")
    with pytest.raises(RegistryRefused, match="is not a regular file"):
        list(Layout(tmp_path).blob(f"sha256:{1:064}", 3))


def test_a_number_that_no_machine_counts_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(f'{{"total_parameters": {10**400}}}')
    with pytest.raises(EvidenceRefused, match=r"train.json: "):
        files.read_json(tmp_path / "train.json", TrainReport)


def test_a_name_with_a_line_break_does_not_look_like_a_line_of_ours(tmp_path: Path) -> None:
    root = tmp_path / "x\nstaging runs v9.9.9 now\x1b[2J"
    root.mkdir()
    said = CliRunner().invoke(main, ["-C", str(root), "gate"])
    assert said.exit_code != 0
    assert "x\N{REPLACEMENT CHARACTER}staging runs" in said.stderr
    assert all(line.startswith("lockstep: ") and line.isprintable() for line in said.stderr.splitlines())


def test_a_name_in_a_diff_does_not_look_like_another_line() -> None:
    shown = move_commit.diff({}, {Path("a\nstaging runs v9.9.9 now.yaml"): b"x: \x1b[2J\n"})
    assert "staging runs v9.9.9 now" not in shown.splitlines()
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown.splitlines()) == 4
