"""The picture of the comment, which README and the site show, is of the record that is here and of today's comment."""

import re
import runpy
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

LARGEST = 300_000  # bytes of both pictures: git keeps each one that ever was


@pytest.fixture(scope="module")
def picture() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / ".ci" / "picture.py"))


@pytest.mark.slow
def test_the_picture_is_of_this_record_and_of_the_comment_as_it_is_now(picture: dict[str, Any]) -> None:
    page = picture["html"]()
    assert re.search(r"<h3>.*Pass.*</h3>", page), "README shows a model that may be merged"
    drawn, now = picture["DIGESTS"].read_text(), picture["digests"](page)
    assert drawn == now, "draw it again: .venv/bin/python .ci/picture.py, and look at docs/comment-light.png"


def test_both_pictures_are_of_one_size_and_small(picture: dict[str, Any]) -> None:
    files: list[Path] = list(picture["PICTURES"].values())
    sizes = set()
    for file in files:
        data = file.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        sizes.add(struct.unpack(">II", data[16:24]))
    ((width, _),) = sizes
    assert width == 2 * picture["WIDTH"]
    assert sum(file.stat().st_size for file in files) < LARGEST


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/reference/comment.md"])
def test_each_page_that_shows_it_has_the_light_and_the_dark_one(page: str, picture: dict[str, Any]) -> None:
    path = REPOSITORY / page
    shown = re.findall(r'(?:srcset="|src="|\]\()([^")#]*comment-\w+\.png)', path.read_text())
    assert {(path.parent / name).resolve() for name in shown} == set(picture["PICTURES"].values())
