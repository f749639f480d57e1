"""The comment as a reader sees it: rendered, on a tablet and on a phone, by a browser. The pictures are to be looked at."""

import html
import json
import re
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from tests import programs
from tests.release.pages.test_report_text import gfm
from tests.release.verbs.test_report import OUTCOMES, outcomes

pytestmark = pytest.mark.slow

# GitHub's own style sheet, as far as a comment shows it: sizes, tables that scroll, code that breaks.
STYLE = """
body { font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; margin: 16px; color: #1f2328; word-wrap: break-word }
h3 { font-size: 1.25em; margin: 24px 0 16px } p, table, details, ul, pre { margin: 0 0 16px }
table { border-collapse: collapse; display: block; width: max-content; max-width: 100%; overflow: auto }
th, td { border: 1px solid #d1d9e0; padding: 6px 13px } tr:nth-child(2n) { background: #f6f8fa }
code { background: #818b981f; border-radius: 6px; padding: .2em .4em; font-size: 85%; white-space: break-spaces }
pre { background: #f6f8fa; padding: 16px; overflow: auto } pre code { background: none; padding: 0; white-space: pre }
"""
# A window is never narrower than 500: the page is. All comments are on one page, because a browser takes a second to start.
MEASURE = """<script>
document.title = JSON.stringify([...document.querySelectorAll('main')].map(it => [it.id, it.scrollWidth, it.scrollHeight]))
</script>"""
WIDTHS = {"tablet": 768, "phone": 390}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each outcome's comment as HTML."""
    return {name: gfm(report.markdown) for name, report in outcomes(tmp_path_factory).items()}


@pytest.mark.parametrize("where", WIDTHS)
def test_comments_can_be_looked_at(where: str, bodies: dict[str, str], tmp_path: Path) -> None:
    programs.require("chromium-headless-shell")
    wide = WIDTHS[where] - 32
    mains = [
        f'<main id="{name}" style="width:{wide}px">{body if where == "tablet" else body.replace("<details>", "<details open>")}</main>'
        for name, body in bodies.items()
    ]
    page, picture = tmp_path / f"{where}.html", tmp_path / f"{where}.png"
    view = '<meta name="viewport" content="width=device-width">'
    page.write_text(f"<!doctype html><meta charset=utf-8>{view}<style>{STYLE}</style>{''.join(mains)}{MEASURE}")
    options = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path}/u"]
    size = f"--window-size={WIDTHS[where]},8000"
    _browse(*options, size, f"--screenshot={picture}", page.as_uri())
    assert colours(picture) > 5, "nothing is to be seen"
    (title,) = re.findall(r"<title>(.*?)</title>", _browse(*options, size, "--dump-dom", page.as_uri()))
    sizes = json.loads(html.unescape(title))
    assert [name for name, *_ in sizes] == list(OUTCOMES)
    assert [name for name, width, _ in sizes if width > wide] == [], "a line is wider than the screen"
    assert [name for name, _, height in sizes if height < 100] == [], "nothing is to be seen"


def _browse(*options: str) -> str:
    done = subprocess.run(["chromium-headless-shell", *options], check=True, capture_output=True, timeout=120)
    return done.stdout.decode(errors="replace")


def colours(picture: Path) -> int:
    """How many different runs of four bytes the picture's lines hold, up to 100: 1 or so when it is blank."""
    data, at, lines = picture.read_bytes(), 8, b""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            lines += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(lines)
    seen = set[bytes]()
    for start in range(0, len(raw) - 4, 4):
        seen.add(raw[start : start + 4])
        if len(seen) >= 100:
            break
    return len(seen)
