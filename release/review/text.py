"""Untrusted text in a comment: nothing but text comes out, whatever a row, a model or a branch says.

GitHub renders Markdown first and then looks through the text for mentions, issue numbers, hashes and emoji, entities
decoded: escaping a character stops Markdown and none of the rest. All of it leaves code alone, so that is where
untrusted text goes: a code span, on one line, without the one character (a pipe) that ends a table's cell before code
is looked for. Sources: https://github.github.com/gfm/ (§4.10 tables, §6.3 code spans, §6.9 autolinks).
"""

import re
import unicodedata

LONGEST = 160  # characters of one text in a table
_MARKS = 4  # combining marks on one character; more pile up over the lines around
_PIPE = "\N{BOX DRAWINGS LIGHT VERTICAL}"
EMPTY = "*(empty)*"

# Sentences of our own making that quote little: words, figures, and names with underscores inside.
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9 .,;:()%+=?'–…-]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])|\[[-+0-9., ]+\](?![(:\[]))*", re.ASCII
)
# What GitHub or Markdown would make something of, in such a sentence: lists, emoji and addresses, references to issues
# (GH-1, and a team's own prefixes), hashes.
_LOADED = re.compile(
    r"^[-+=:]|^\d+[.)]|:(?! |$)|www\.|\b[A-Za-z][A-Za-z0-9_]*-\d|(?i:\b[0-9a-f]{7,}\b)|--|==", re.ASCII
)


def visible(text: str, longest: int = LONGEST) -> str:
    """``text`` on one line: white space as spaces, what is invisible or turns the line around as U+FFFD; cut."""
    shown, marks = list[str](), 0
    for character in text[: longest * 8]:
        kind = unicodedata.category(character)
        marks = marks + 1 if kind[0] == "M" else 0
        if marks > _MARKS:
            continue
        if character.isspace():
            shown.append(" ")
        else:
            shown.append("\N{REPLACEMENT CHARACTER}" if kind[0] == "C" else character)
    line = " ".join("".join(shown).split())
    cut = len(line) > longest or len(text) > longest * 8
    return f"{line[: longest - 1]}…" if cut else line


def cell(text: str, longest: int = LONGEST) -> str:
    """Untrusted text as Markdown that renders as this text in a code span, in a table or anywhere in a line."""
    shown = visible(text, longest).replace("|", _PIPE)
    if not shown:
        return EMPTY
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def prose(text: str, longest: int = LONGEST * 4) -> str:
    """A sentence that may quote untrusted text: as it is where nothing in it could mean anything, else as ``cell``."""
    shown = visible(text, longest)
    if shown and _PLAIN.fullmatch(shown) and not _LOADED.search(shown):
        return shown
    return cell(text, longest)
