"""What a document shares with test rows: its passages, which are compared with their requests.

A test request rarely is a whole document, but it can be a line, a sentence or a cell of a table in one. Whether it is
some words in the middle of a sentence is asked by ``checks.data.contamination``, of the whole text.
"""

import re
from collections.abc import Iterator

from checks.rows import Row, request

_BLANK_LINES = re.compile(r"\n\s*\n")
_ENDS = re.compile(r"(?<=[.!?])\s+|[|\t\"“”]")  # of a sentence, of a cell, of what is quoted
_WORD = re.compile(r"\w")


def passages(text: str) -> tuple[str, ...]:
    """Every line and every sentence of ``text``, each once; a sentence may go over several lines."""
    found = (each.strip() for each in _pieces(text))
    return tuple(dict.fromkeys(each for each in found if _WORD.search(each)))


def _pieces(text: str) -> Iterator[str]:
    for paragraph in _BLANK_LINES.split(text):
        yield from paragraph.split("\n")
        yield from _ENDS.split(" ".join(paragraph.split("\n")))


def asked(row: Row) -> tuple[str, ...]:
    """What a row may give away of test rows: its request; the text and the passages of a document."""
    return (row.reference, *passages(row.reference)) if row.document else (request(row.messages),)
