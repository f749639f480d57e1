"""Models that test splits judged, of a long history."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from checks.formats.looks import LooksReport
from checks.storage import digest, layout
from release.adapters import commits
from release.adapters.git import Git
from release.record import judged_models
from release.record.judged_models import Look
from tests import ledger_tree


def test_a_look_is_made_once_however_many_lists_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[Look]()

    def counted(test: str, model: str) -> Look:
        made.append(Look(test, model))
        return made[-1]

    monkeypatch.setattr(judged_models, "Look", counted)
    test, models = digest.of_bytes(b"test"), [digest.of_bytes(b"%d" % number) for number in range(40)]
    lists = [LooksReport(models={test: tuple(models[:count])}).model_dump_json().encode() for count in range(1, 41)]
    known = judged_models.of({layout.LOOKS: lists})
    assert known.looks == {Look(test, model) for model in models}
    assert len(made) == len(models)


def test_the_versions_of_a_file_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, path, read = tmp_path / "root", Path("file"), list[int]()
    ledger_tree.begin(root)
    for number in range(5):
        (root / path).write_text(f"{number}\n")
        ledger_tree.keep(root, "change")
    objects = Git.objects

    def counted(git: Git, hashes: Sequence[str]) -> dict[str, bytes]:
        read.append(len(hashes))
        return objects(git, hashes)

    monkeypatch.setattr(commits, "_TOGETHER", 2)
    monkeypatch.setattr(Git, "objects", counted)
    versions = commits.versions_of_each(root, [path], "HEAD")[path]
    assert not read
    assert sorted(versions) == [b"%d\n" % number for number in range(5)]
    assert read == [2, 2, 1]
