"""Signed windows of production: what stands in their place and is none."""

from pathlib import Path

from checks.storage import layout
from release.evidence import windows


def test_a_link_to_nothing_and_a_folder_are_named_as_no_windows(tmp_path: Path) -> None:
    folder = tmp_path / layout.WATCH
    (folder / "a.intoto.json").mkdir(parents=True)
    (folder / "b.intoto.json").symlink_to("gone")
    reports, problems = windows.read(tmp_path, (), f"sha256:{'1' * 64}")
    assert (reports, problems) == (
        (),
        [
            "a window does not count: reports/watch/a.intoto.json: Is a directory",
            "a window does not count: reports/watch/b.intoto.json: No such file or directory",
        ],
    )
