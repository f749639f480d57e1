"""Renders a template as one page of HTML: nothing is loaded from elsewhere, so that it can be sent and read offline.

As in the comment's template (``release.review.sections``), a value is escaped however the template writes it:
``{{ value }}`` takes text and whole numbers alone. The page's policy allows its own script and style, by digest, and
nothing else: text of a row or a model that escaped all of this could neither run nor load anything.

A template extends ``frame.html.jinja`` and imports ``parts.html.jinja``.

In Markdown that is part of a page, HTML, links and pictures are written out as text.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup
from markupsafe import escape as to_html

from checks.process.errors import MachineRefused
from checks.process.text import escape
from checks.storage import files
from release.pages.figures import signed, typeset, whole
from release.pages.templates import written

ANSWERS = 2000  # cards that a browser on a phone still scrolls
LONGEST = 4000  # characters of one text
LARGEST = 3_000_000  # characters of all texts of answers on a page

_BETTER, _WORSE = re.compile("[▲✓]"), re.compile("[▼✗]")


def write(path: Path, page: str) -> None:
    """Write a page or another document. Raises MachineRefused if ``path`` cannot be written."""
    try:
        files.write_text(path, page)
    except OSError as error:
        raise MachineRefused(
            f"{path}: {error.strerror}", "name a file in a folder that you may write"
        ) from error


def render(
    package: str, template: str, looks: str = "page.css", acts: str = "search.js", **values: Any
) -> str:
    """The page that ``template``, a file of ``package``, makes of ``values``.

    ``looks`` and ``acts`` are its style sheet and script, of the same package or of this one.
    """
    style, script = (Markup(_own(package, name)) for name in (looks, acts))  # noqa: S704  # our own files
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_digest(style)}; "
        f"script-src {_digest(script)}"
    )
    return (
        _environment(package)
        .get_template(template)
        .render(style=style, script=script, policy=policy, **values)
    )


@functools.cache
def _environment(package: str) -> Environment:
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("release.pages", "")]), autoescape=True,
        finalize=functools.partial(written, of_text=escape), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    kept = (
        "length",
        "list",
        "selectattr",
        "sum",
        "map",
        "unique",
        "sort",
    )  # none of them makes text
    ours: dict[str, Any] = {
        "number": lambda value, how: signed(float(value), how), "reason": typeset, "place": lambda at: f"{at:.2f}",
        "whole": whole, "text": _text, "title": str.capitalize,
        "short": lambda text: text.removeprefix("sha256:")[:12], "day": lambda at: format(at, "%Y-%m-%d %H:%M UTC"),
        "markdown": of_markdown,
    }  # fmt: skip
    made.filters = {name: made.filters[name] for name in kept} | ours
    return made


def _text(value: str) -> Markup:
    """A prompt or an answer: its lines stay, and it is cut if it is very long."""
    lines = "\n".join(map(escape, value[:LONGEST].splitlines()))
    more = len(value) - LONGEST
    return Markup("{}{}").format(
        to_html(lines), f" … {more:,} characters more, in --json" if more > 0 else ""
    )


def _own(package: str, name: str) -> str:
    files_ = [
        resources.files(package_name).joinpath(name) for package_name in (package, "release.pages")
    ]
    return next(file for file in files_ if file.is_file()).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def of_markdown(text: str, below: int = 3, heading: str = "Table") -> Markup:
    """Return ``text`` as HTML below ``heading``, a heading of level ``below``: ``##`` becomes the level after that.

    A table gets the heading above it as its caption. Marks of better and worse get their colours.
    """
    # No entities: one could bring back a character that `escape` replaced.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "image", "autolink", "entity", "reference"])
    tokens = parser.parse("\n".join(map(escape, text.expandtabs(4).splitlines())))
    for at, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + below - 1, 6)}"
        if token.type == "heading_open":
            heading = "".join(child.content for child in tokens[at + 1].children or ())
        if token.type == "table_open":
            token.meta["caption"] = heading
        if token.type in ("th_open", "td_open"):
            token.attrs = (
                {"class": "number"} if token.attrs.get("style") == "text-align:right" else {}
            )
        if token.type == "th_open":
            token.attrs["scope"] = "col"
    parser.add_render_rule("text", _coloured)
    parser.add_render_rule("table_open", _open_table)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704  # what markdown-it escaped


def _coloured(_: object, tokens: Sequence[Token], at: int, *__: object) -> str:
    text = _BETTER.sub(r'<span class="better">\g<0></span>', escapeHtml(tokens[at].content))
    return _WORSE.sub(r'<span class="worse">\g<0></span>', text)


def _open_table(_: object, tokens: Sequence[Token], at: int, *__: object) -> str:
    caption = to_html(tokens[at].meta["caption"])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="titled">\n<caption>{caption}.</caption>\n'
    )
