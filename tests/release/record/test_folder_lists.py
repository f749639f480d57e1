"""The folders that dvc.lock names have the files of DVC's lists, and no list names a file outside of its folder."""

import hashlib
import json
from pathlib import Path

import pytest

from release.record import folder_lists, lock_check

OTHER = "data/splits: is not what dvc.lock says of prepare"
OUTSIDE = "its list {} names files outside of it"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train.jsonl", "sub/test.jsonl"):
        (tmp_path / "data/splits" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/splits" / name).write_text(name)
    return tmp_path


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def listed(root: Path, names: object, cache: str = ".dvc/cache") -> str:
    """Put a list of ``names`` into the cache; its digest."""
    entries = (
        [{"md5": md5_of(str(name).encode()), "relpath": name} for name in names] if isinstance(names, list) else names
    )
    data = json.dumps(entries).encode()
    path = root / cache / "files/md5" / md5_of(data)[:2] / f"{md5_of(data)[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"{md5_of(data)}.dir"


def differences(root: Path, md5: str, may_read: bool = True) -> list[str]:
    return list(folder_lists.differences(root, "prepare", "data/splits", md5, may_read))


FINE = ["sub/test.jsonl", "train.jsonl"]
LISTS: dict[str, tuple[object, str | None]] = {
    "the files that are there": (FINE, None),
    "a file less": (FINE[:1], OTHER),
    "a file more": ([*FINE, "valid.jsonl"], OTHER),
    "a path out of the folder": ([*FINE, "../../release/verbs/sign.py"], OUTSIDE),
    "an absolute path": ([*FINE, "/etc/passwd"], OUTSIDE),
    "a path with an empty part": ([*FINE, "sub//x"], OUTSIDE),
    "a path twice": ([*FINE, FINE[0]], OUTSIDE),
    "a path that is no text": ([*FINE, 3], OUTSIDE),
    "no list": ({}, OUTSIDE),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_in_the_cache_is_compared_with_the_folder(root: Path, case: str) -> None:
    names, line = LISTS[case]
    md5 = listed(root, names)
    said = differences(root, md5, may_read=False)
    assert len(said) == (line is not None)
    assert line is None or line.format(md5) in said[0]


def test_a_list_with_other_bytes_than_its_name_says_is_refused(root: Path) -> None:
    md5 = listed(root, FINE)
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).write_text("[]")
    assert differences(root, md5) == [
        f"data/splits: DVC's cache has another list than {md5}; remove it there, and `./lockstep dvc pull data/splits`"
    ]


def test_the_cache_is_found_where_dvc_keeps_it(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / ".dvc/config.local").write_text("[cache]\n    dir = ../elsewhere\n")
    md5 = listed(root, ["../x"], cache="elsewhere")
    assert OUTSIDE.format(md5) in differences(root, md5)[0]


def test_without_a_list_the_contents_decide(root: Path) -> None:
    md5 = listed(root, FINE, cache="nowhere")  # whose contents are their names
    assert differences(root, md5) == []
    (root / "data/splits/train.jsonl").write_text("another")
    assert differences(root, md5) == [OTHER]
    assert differences(root, md5, may_read=False) == []


def test_a_folder_that_is_not_here_is_left_to_the_verdict(root: Path) -> None:
    assert list(folder_lists.differences(root, "merge", "models/merged", f"{'0' * 32}.dir", True)) == []


def test_probes_that_nobody_fetched_are_said_to_be_missing(root: Path) -> None:
    ran = {"outs": [{"path": "data/probes.json", "md5": md5_of(b"probes")}]}
    missing = "data/probes.json: is missing here: `./lockstep dvc pull data/probes.json` fetches it"
    assert lock_check._changed(root, "probe", ran, ()) == [missing]
    (root / "data/probes.json").write_text("others")
    assert lock_check._changed(root, "probe", ran, ()) == ["data/probes.json: is not what dvc.lock says of probe"]
