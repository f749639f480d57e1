"""The page of `lockstep compare --html`, as a browser shows it. The pictures are to be looked at."""

import re
from pathlib import Path

import pytest

from release.pages import html as pages
from release.review import comparison
from release.verbs.compare import compare
from tests import browser, compare_tree
from tests.release.verbs.test_report_picture import colours

pytestmark = pytest.mark.slow

STYLE = Path(pages.__file__).with_name("page.css").read_text()
# Searches as a person does, then writes what can be seen into the title.
SEARCH = """
const field = document.getElementById("wanted"), select = document.getElementById("right"), seen = [];
const look = () => seen.push([...document.querySelectorAll("#answers-list > li")].filter((li) => li.checkVisibility()).length);
look(); field.value = "CRÉER"; field.dispatchEvent(new Event("input", { bubbles: true })); look();
select.value = "B"; select.dispatchEvent(new Event("input", { bubbles: true })); look();
field.value = ""; field.dispatchEvent(new Event("input", { bubbles: true })); look();
field.value = "no such text"; field.dispatchEvent(new Event("input", { bubbles: true })); look();
document.title = `seen=${seen} count=${document.getElementById("count").textContent}`;
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("showy") / "pr"
    compare_tree.showy(root)
    return comparison.render(compare(root, "before"))


def test_text_of_rows_and_models_is_text_and_nothing_is_loaded_from_elsewhere(html: str) -> None:
    assert "alert(" in html  # the rows have it
    browser.loads_nothing(html)
    assert not re.search(r"url\(|@import|https?:", STYLE)


def test_the_page_can_be_read_by_a_screen_reader(html: str) -> None:
    assert html.count("<table") > 3
    browser.can_be_read(html)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_has_contrast_on_every_ground(mode: int) -> None:
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[mode]
    named = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
    for text in ("ink", "quiet", "better", "worse", "link"):
        for ground in ("ground", "card"):
            assert browser.contrast(named[text], named[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize(("where", "mode"), [("phone", "light"), ("desktop", "dark")])
def test_the_page_fits_the_screen_and_its_search_finds(html: str, where: str, mode: str, tmp_path: Path) -> None:
    width, shown = browser.WIDTHS[where], tmp_path / f"compare-{where}-{mode}.png"
    browser.picture(html, width, mode, shown)
    assert colours(shown) > 5, "nothing is to be seen"
    if mode == "light":
        assert browser.told(html, SEARCH, width, tmp_path) == "seen=52,4,0,34,0 count=0 of 52 shown"
        assert browser.wide(html, width, tmp_path) <= width, "a line is wider than the screen"


def test_text_that_is_written_from_the_right_stands_right(html: str, tmp_path: Path) -> None:
    assert browser.turns(html, "h1, dd, li > h3, section > ul > li", tmp_path)


@pytest.mark.parametrize("mode", browser.MODES)
def test_axe_finds_nothing_serious(html: str, mode: str, tmp_path: Path) -> None:
    assert list(browser.serious(html, mode, tmp_path)) == []
