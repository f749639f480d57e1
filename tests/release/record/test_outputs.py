"""Why DVC has no output goes onto pages that others read, so it names no folder of this machine."""

import subprocess
from pathlib import Path

import pytest

from checks.formats.suite_report import SuiteLine
from checks.storage import layout
from release.adapters import dvc
from release.record import outputs

PRINTED = {
    "ERROR: unexpected error - [Errno 2] No such file or directory: '/home/ada/the work/.dvc/cache/files/md5/ab/cdef'":
    "[Errno 2] No such file or directory: '…/cdef'",
    "ERROR: unexpected error - [Errno 13] Permission denied: /srv/dvc/files/md5/ab/cdef":
    "[Errno 13] Permission denied: …/cdef",
    'ERROR: cannot read "/home/ada/.config/dvc/config": it is empty': 'cannot read "…/config": it is empty',
    "ERROR: file:///srv/dvc/files: is gone": "…/files: is gone",
    # An address of a remote is no path of this machine, and a path of the repository begins below it.
    "ERROR: https://dvc.example/team/files: 404, for data/predictions/candidate.jsonl":
    "https://dvc.example/team/files: 404, for data/predictions/candidate.jsonl",
}  # fmt: skip


@pytest.mark.parametrize("printed", PRINTED)
def test_a_note_about_dvcs_error_names_no_folder_of_this_machine(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 1, b"", printed.encode())
    monkeypatch.setattr(dvc, "_quietly", lambda *_: done)
    monkeypatch.setattr(dvc, "from_top", lambda _, path: path)
    path = layout.PREDICTIONS / "candidate.jsonl"
    note = outputs.lines(tmp_path, "a" * 40, path, SuiteLine, "sha256:" + "b" * 64)
    assert f"{path} of commit aaaaaaaaaaaa is not here, and DVC cannot fetch it ({PRINTED[printed]}); push it" in note
