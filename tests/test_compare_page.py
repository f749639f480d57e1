"""The page of `lockstep compare --html`, as a browser shows it. The pictures are to be looked at."""

import base64
import hashlib
import re
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from release.review import page
from release.verbs.compare import compare
from tests import compare_tree, programs
from tests.test_report_picture import colours

STYLE = Path(page.__file__).with_name("page.css").read_text()
WIDTHS = {"phone": 390, "desktop": 1280}
MODES = {"light": "1", "dark": "0"}  # values of Chromium's preferredColorScheme
# Searches as a person does, then writes what can be seen into the title.
SEARCH = """
const field = document.getElementById("wanted"), select = document.getElementById("right"), seen = [];
const look = () => seen.push([...document.querySelectorAll("#answers-list > li")].filter((li) => li.checkVisibility()).length);
look(); field.value = "CRÉER"; field.dispatchEvent(new Event("input", { bubbles: true })); look();
select.value = "B"; select.dispatchEvent(new Event("input", { bubbles: true })); look();
field.value = ""; field.dispatchEvent(new Event("input", { bubbles: true })); look();
field.value = "no such text"; field.dispatchEvent(new Event("input", { bubbles: true })); look();
document.title = `seen=${seen} count=${document.getElementById("count").textContent} wide=${document.documentElement.scrollWidth}`;
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("showy") / "pr"
    compare_tree.showy(root)
    return page.render(compare(root, "before"))


class Parsed(HTMLParser):
    """Elements with their attributes, and those that are open at each table header and heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def every(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def test_text_of_rows_and_models_is_text_and_nothing_is_loaded_from_elsewhere(html: str) -> None:
    parsed = Parsed(html)
    assert "alert(" in html  # the rows have it
    assert len(parsed.every("script")) == 1
    assert not parsed.every("img", "link", "iframe", "object", "embed", "base")
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name in ("src", "style", "action") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [each["content"] for each in parsed.every("meta") if each.get("http-equiv")]
    assert (policy or "").startswith("default-src 'none'")
    assert "unsafe" not in (policy or "")
    for mark in ("\x1b", "\u202e", "\u202c"):
        assert mark not in html
    assert not re.search(r"url\(|@import|https?:", STYLE)


def test_the_page_can_be_read_by_a_screen_reader(html: str) -> None:
    parsed = Parsed(html)
    assert parsed.every("html") == [{"lang": "en"}]
    assert all(each.get("scope") in ("col", "row") for each in parsed.every("th"))
    assert len(parsed.every("caption")) == len(parsed.every("table")) > 4
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    labelled = {each["for"] for each in parsed.every("label")}
    assert {each["id"] for each in parsed.every("input", "select")} == labelled
    assert all(
        each.get("aria-label") and each.get("tabindex") == "0"
        for each in parsed.every("div")
        if each.get("class") == "scroll"
    )
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(each["href"] or "")[1:] for each in parsed.every("a")} <= set(ids)


def _luminance(colour: str) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_has_contrast_on_every_ground(mode: int) -> None:
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[mode]
    named = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
    for text in ("ink", "quiet", "better", "worse", "link"):
        for ground in ("ground", "card"):
            light, dark = sorted((_luminance(named[text]), _luminance(named[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", WIDTHS)
def test_the_page_fits_the_screen_and_its_search_finds(html: str, where: str, mode: str, tmp_path: Path) -> None:
    programs.require("chromium")
    width, picture = WIDTHS[where], tmp_path / f"compare-{where}-{mode}.png"
    (tmp_path / "page.html").write_text(html)
    # A window is never narrower than 500: a frame is.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!doctype html><body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:2400px">'
    )
    options = [f"--blink-settings=preferredColorScheme={MODES[mode]}", "--allow-file-access-from-files"]
    _browse(tmp_path, *options, f"--window-size={max(width, 500)},2400", f"--screenshot={picture}", frame.as_uri())
    assert colours(picture) > 5, "nothing is to be seen"
    if mode == "light":
        seen, count, wide = _searched(html, width, tmp_path)
        assert seen == [48, 4, 0, 34, 0]
        assert count == "0 of 48 shown"
        assert wide <= width, "a line is wider than the screen"


def _searched(html: str, width: int, folder: Path) -> tuple[list[int], str, int]:
    """How many answers are seen before and after each search, what the page says of it, and how wide the page is."""
    allowed = base64.b64encode(hashlib.sha256(SEARCH.encode()).digest()).decode()
    told = html.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ", 1)
    told = told.replace("</body>", f"<script>{SEARCH}</script></body>")
    (folder / "searched.html").write_text(told)
    report = "<script>onload = () => { document.title = frames[0].document.title }</script>"
    outer = folder / "outer.html"
    outer.write_text(
        f'<!doctype html><iframe src="searched.html" style="border:0;width:{width}px;height:900px"></iframe>{report}'
    )
    dumped = _browse(folder, "--allow-file-access-from-files", "--dump-dom", outer.as_uri())
    found = re.search(r"<title>seen=([\d,]+) count=(.*?) wide=(\d+)</title>", dumped)
    assert found, dumped[-2000:]
    return [int(each) for each in found[1].split(",")], found[2], int(found[3])


def _browse(folder: Path, *options: str) -> str:
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/user"]
    done = subprocess.run(["chromium", *fixed, *options], check=True, capture_output=True, timeout=240)
    return done.stdout.decode(errors="replace")
