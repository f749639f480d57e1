"""The comment as a reader sees it: rendered, on a tablet and on a phone, by a browser. The pictures are to be looked at."""

import re
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from release.verbs.report import report
from tests import programs
from tests.release.pages.test_report_text import gfm
from tests.release.verbs.test_report import FOR, OUTCOMES

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
# A window is never narrower than 500: the page is.
MEASURE = "<script>document.title = 'wide=' + document.querySelector('main').scrollWidth</script>"
WIDTHS = {"tablet": 768, "phone": 390}


@pytest.fixture(scope="session")
def browser() -> str:
    programs.require("chromium-headless-shell")
    return "chromium-headless-shell"


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_comment_can_be_looked_at(name: str, browser: str, tmp_path: Path) -> None:
    root = tmp_path / "pr"
    OUTCOMES[name][0](root)
    body = gfm(report(root, FOR).markdown)
    for where, width in WIDTHS.items():
        page, picture = tmp_path / f"{where}.html", tmp_path / f"{name}-{where}.png"
        view = '<meta name="viewport" content="width=device-width">'
        opened = body if where == "tablet" else body.replace("<details>", "<details open>")
        page.write_text(
            f'<!doctype html><meta charset=utf-8>{view}<style>{STYLE}</style><main style="width:{width - 32}px">{opened}</main>'
        )
        options = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path}/u"]
        size = f"--window-size={width},1600"
        _browse(browser, *options, size, f"--screenshot={picture}", page.as_uri())
        assert colours(picture) > 5, "nothing is to be seen"
        page.write_text(f"{page.read_text()}{MEASURE}")
        (wide,) = re.findall(r"wide=(\d+)", _browse(browser, *options, size, "--dump-dom", page.as_uri()))
        assert int(wide) <= width - 32, "a line is wider than the screen"


def _browse(browser: str, *options: str) -> str:
    done = subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)
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
