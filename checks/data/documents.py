"""Compares passages of documents with the requests of test rows.

A test request rarely is a whole document, but it can be a line, a sentence or a cell of a table in one. Whether it is
some words in the middle of a sentence is asked by ``checks.data.contamination``, of the whole text.
"""

import html
import re
from collections.abc import Iterator

from checks.records.rows import Row, request

_BLANK_LINES = re.compile(r"\n\s*\n")
# Of a sentence, of a cell, of what is quoted; Chinese and Japanese sentences end without a space.
_ENDS = re.compile(r"(?<=[.!?])[)\]]*\s+|(?<=[。！？])|[|\t\"“”«»「」`]")
_WORD = re.compile(r"\w")
_TAGS = (
    (re.compile(r"</?(?:a|b|code|del|em|font|i|ins|kbd|mark|s|small|span|strong|su[bp]|u)(?:\s[^<>]*)?>", re.I), ""),
    # Tags may end a paragraph, a cell or a line.
    (re.compile(r"</?[a-z][^<>]*>|<!--|-->", re.I), "\n"),
)  # fmt: skip
_MARKS = (
    (re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]"), ""),  # characters that nobody sees
    (re.compile(r"!?\[([^\[\]\n]*)\](?:\([^()\n]*\)|\[[^\[\]\n]*\])"), r"\1"),  # a link
    (re.compile(r"\*+|~~|\b_{1,3}|_{1,3}\b"), ""),  # emphasis
)


def plain(text: str) -> str:
    """``text`` as a reader sees it: without HTML's tags and entities, and Markdown's links and emphasis."""
    for mark, instead in _TAGS:
        text = mark.sub(instead, text)
    text = html.unescape(text)
    for mark, instead in _MARKS:
        text = mark.sub(instead, text)
    return text


def passages(text: str) -> tuple[str, ...]:
    """Every line and every sentence of ``text``, as written and as a reader sees it, each once.

    A sentence may go over several lines. What follows a colon counts too: "Question: What is a vault?".
    """
    pieces = (
        piece.strip() for form in dict.fromkeys((text, plain(text))) for piece in _pieces(form)
    )
    return tuple(dict.fromkeys(piece for piece in pieces if _WORD.search(piece)))


def _pieces(text: str) -> Iterator[str]:
    for paragraph in _BLANK_LINES.split("\n".join(text.splitlines())):
        lines = paragraph.split("\n")
        for piece in (*lines, *_ENDS.split(" ".join(lines))):
            yield piece
            yield piece.partition(": ")[2]


def asked(row: Row) -> tuple[str, ...]:
    """Return what a row may give away of test rows: its request; the text and the passages of a document."""
    return (row.reference, *passages(row.reference)) if row.document else (request(row.messages),)
