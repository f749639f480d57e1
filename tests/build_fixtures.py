"""What the tests of `lockstep build` share: a record that passes, bases, and how an image and a refusal are looked at."""

import shutil
from pathlib import Path

import pytest

from checks import layout
from checks.errors import Refusal
from release.build import Options, build
from tests import build_tree, oci_check
from tests.build_tree import BaseLayout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed record whose verdict passes. Read-only by custom."""
    root = tmp_path_factory.mktemp("released") / "root"
    build_tree.make(root)
    return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it, to build from and to damage."""
    return shutil.copytree(released, tmp_path / "root")


@pytest.fixture
def base(tmp_path: Path) -> BaseLayout:
    """A place for base images."""
    return BaseLayout(tmp_path / "base")


def built_image(root: Path) -> oci_check.Checked:
    return oci_check.only(root / layout.IMAGE)


def merged_files(root: Path) -> dict[str, bytes]:
    merged = root / layout.MERGED
    return {path.relative_to(merged).as_posix(): path.read_bytes() for path in merged.rglob("*") if path.is_file()}


def needed(image: oci_check.Checked) -> set[str]:
    digests = [
        image.digest,
        image.manifest["config"]["digest"],
        *(layer["digest"] for layer in image.manifest["layers"]),
    ]
    return {digest.removeprefix("sha256:") for digest in digests}


def refused(root: Path, options: Options, kind: type[Refusal], word: str) -> Refusal:
    """``build`` refuses with one line that matches, and no index, no report and no half blob is there."""
    with pytest.raises(kind, match=word) as refused:
        build(root, options)
    assert "\n" not in str(refused.value)
    target = root / layout.IMAGE
    assert not (target / "index.json").exists()
    assert not (root / layout.IMAGE_REPORT).exists()
    assert not list(target.rglob(".*"))
    return refused.value
