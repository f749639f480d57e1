"""Pages in a real browser: pictures, what a script sees in them, and the accessibility scan of axe-core."""

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import util
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests import programs

WIDTHS = {"phone": 390, "desktop": 1280}
MODES = {"light": "1", "dark": "0"}  # values of Chromium's preferredColorScheme
# What fails a scan; axe's "moderate" and "minor" are advice.
SERIOUS = ("critical", "serious")
_SCAN = """
addEventListener("load", () => axe.run(document, {resultTypes: ["violations"]}).then((found) => {
  document.title = "axe=" + btoa(unescape(encodeURIComponent(JSON.stringify(found.violations.map((each) =>
    [each.impact, each.id, each.nodes.map((node) => node.target.join(" "))])))));
}));
"""
# Which elements do not take their direction from their own text; how far a Persian text stands from the right edge.
_DIRECTION = """
addEventListener("load", () => {
  const others = [...document.body.querySelectorAll("*")].filter((each) => getComputedStyle(each).unicodeBidi !== "plaintext");
  const edges = [...document.querySelectorAll("SELECTOR")].map((each) => {
    each.textContent = "سلام دنیا!";
    const text = document.createRange();
    text.selectNodeContents(each);
    const style = getComputedStyle(each), right = each.getBoundingClientRect().right - parseFloat(style.paddingRight) - parseFloat(style.borderRightWidth);
    return Math.round(right - text.getBoundingClientRect().right);
  });
  document.title = `others=${others.map((each) => each.tagName)} edges=${[...new Set(edges)]}`;
});
"""
_WIDE = "addEventListener('load', () => { document.title = `wide=${document.documentElement.scrollWidth}`; });"


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


def loads_nothing(html: str) -> None:
    """The page is text, its own script and its own style: nothing is loaded from elsewhere, and nothing else runs."""
    parsed = Parsed(html)
    assert len(parsed.every("script")) == 1
    assert not parsed.every("img", "link", "iframe", "object", "embed", "base")
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name in ("src", "style", "action") for name in attributes)
        assert re.fullmatch(r"#.*|[a-z0-9.-]+\.html", attributes.get("href") or "#")
    (policy,) = [each["content"] for each in parsed.every("meta") if each.get("http-equiv")]
    assert (policy or "").startswith("default-src 'none'")
    assert "unsafe" not in (policy or "")
    for mark in ("\x1b", "\u202e", "\u202c"):
        assert mark not in html


def can_be_read(html: str) -> None:
    """A screen reader finds its way: what axe-core does not ask for, or asks for in a browser alone."""
    parsed = Parsed(html)
    assert parsed.every("html") == [{"lang": "en"}]
    assert all(each.get("scope") in ("col", "row") for each in parsed.every("th"))
    assert len(parsed.every("caption")) == len(parsed.every("table"))
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
    links = [each["href"] or "" for each in parsed.every("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours such as #d0d7de, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def picture(html: str, width: int, mode: str, path: Path, height: int = 2400) -> None:
    """A picture of the page on a screen of this width."""
    frame = _frame(html, width, height, path.parent)
    size = f"--window-size={max(width, 500)},{height}"  # a window is never narrower than 500: a frame is
    _browse(path.parent, f"--blink-settings=preferredColorScheme={MODES[mode]}", size, f"--screenshot={path}", frame)


def wide(html: str, width: int, folder: Path) -> int:
    """How wide the page is on a screen of this width: more, where something must be scrolled sideways."""
    return int(told(html, _WIDE, width, folder).removeprefix("wide="))


def turns(html: str, selector: str, folder: Path) -> bool:
    """Whether text of a script that is written from the right stands right in what ``selector`` finds."""
    return told(html, _DIRECTION.replace("SELECTOR", selector), 900, folder) == "others= edges=0"


def drawn(page: Path) -> str:
    """The document at ``page`` after its own scripts have run."""
    return _browse(page.parent, "--virtual-time-budget=60000", "--dump-dom", page.as_uri())


def told(html: str, script: str, width: int, folder: Path) -> str:
    """The title that ``script`` gives the page, which its policy allows that script alone to do."""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = html.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ", 1)
    page = page.replace("</body>", f"<script>{script}</script></body>")
    (folder / "told.html").write_text(page)
    report = "<script>onload = () => { document.title = frames[0].document.title }</script>"
    outer = folder / "outer.html"
    outer.write_text(
        f'<!doctype html><iframe src="told.html" style="border:0;width:{width}px;height:900px"></iframe>{report}'
    )
    found = re.search("<title>(.*?)</title>", _browse(folder, "--dump-dom", outer.as_uri()), re.DOTALL)
    assert found
    return found[1]


def serious(html: str, mode: str, folder: Path) -> Iterator[str]:
    """What axe-core finds in the page that keeps somebody from reading it, one line each.

    Its details are opened, so that they are looked at too.
    """
    programs.require("chromium-headless-shell")
    home = util.find_spec("axe_core_python")
    if home is None or home.origin is None:
        programs.missing("axe-core", "the package axe-core-python is not installed")
    # axe makes styles of its own, so the page has no policy here.
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html, count=1)
    page = re.sub("<details(?! open)", "<details open", page)
    engine = Path(home.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    at = page.rindex("</body>")
    path = folder / f"scanned-{mode}.html"
    path.write_text(f"{page[:at]}<script>{engine}</script><script>{_SCAN}</script>{page[at:]}")
    options = [f"--blink-settings=preferredColorScheme={MODES[mode]}", "--virtual-time-budget=60000", "--dump-dom"]
    dumped = _browse(folder, *options, path.as_uri())
    found = re.search("<title>axe=(.*?)</title>", dumped)
    assert found, dumped[:2000]
    results: list[Any] = json.loads(base64.b64decode(found[1]))
    for impact, rule, nodes in results:
        if impact in SERIOUS:
            yield f"{impact}: {rule}: {', '.join(nodes[:5])}"


def loaded(address: str, folder: Path) -> str:
    """The text of a page that scripts build, once they have asked their server for what it shows."""
    return re.sub("<[^>]*>", " ", _browse(folder, "--virtual-time-budget=30000", "--dump-dom", address))


class Tab:
    """A browser in which a test opens a page and types, as a person does. ``close`` ends it.

    Commands go over two pipes: https://chromedevtools.github.io/devtools-protocol. As in a person's browser, a page may
    read no other file.
    """

    def __init__(self, folder: Path) -> None:
        programs.require("chromium-headless-shell")
        command = "exec 3<&0 4>&1; exec chromium-headless-shell --no-sandbox --disable-gpu --remote-debugging-pipe"
        self._process = subprocess.Popen(
            ["sh", "-c", f'{command} --user-data-dir="$0"', str(folder / "user")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._commands = 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, address: str) -> None:
        """Open a page, and wait until it has loaded."""
        self._call("Page.enable")
        self._call("Page.navigate", url=address)
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it gives."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        """Press the key of each character, and then release them all: pages that ask on a release ask once."""
        for event in ("keyDown", "keyUp"):
            for key in text:
                self._call("Input.dispatchKeyEvent", type=event, key=key, text=key if event == "keyDown" else "")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _call(self, method: str, **params: object) -> Any:
        self._commands += 1
        command = {"id": self._commands, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        pipe = self._process.stdin
        assert pipe
        pipe.write(json.dumps(command).encode() + b"\0")
        pipe.flush()
        while (message := self._message()).get("id") != self._commands:
            pass
        assert "result" in message, message
        return message["result"]

    def _message(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe
        text = b""
        while (byte := pipe.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _frame(html: str, width: int, height: int, folder: Path) -> str:
    (folder / "page.html").write_text(html)
    frame = folder / "frame.html"
    style = f"border:0;width:{width}px;height:{height}px"
    frame.write_text(f'<!doctype html><body style="margin:0"><iframe src="page.html" style="{style}">')
    return frame.as_uri()


def _browse(folder: Path, *options: str) -> str:
    programs.require("chromium-headless-shell")
    fixed = [
        "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
        f"--user-data-dir={folder}/user",
    ]  # fmt: skip
    done = subprocess.run(["chromium-headless-shell", *fixed, *options], check=True, capture_output=True, timeout=240)
    return done.stdout.decode(errors="replace")
