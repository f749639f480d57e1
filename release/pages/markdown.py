"""Renders Markdown as part of a page. HTML, links and pictures in it are written out as text."""

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup
from markupsafe import escape as to_html

from checks.process.text import escape

_BETTER, _WORSE = re.compile("[▲✓]"), re.compile("[▼✗]")


def html(text: str, below: int = 3, heading: str = "Table") -> Markup:
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
