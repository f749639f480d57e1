"""Makes untrusted text safe in a comment, so that text of a row, a model or a branch has no effect.

GitHub renders Markdown first and then searches the text, with entities decoded, for mentions, issue numbers, hashes and
emoji. Escaping a character stops only Markdown. Nothing is searched in code, so untrusted text is written as a code
span, on one line, without pipes (a pipe ends a table cell before code is recognised). Sources:
https://github.github.com/gfm/ (§4.10 tables, §6.3 code spans, §6.9 autolinks).
"""

import re
import unicodedata

from checks.process.text import escape

LONGEST = 160  # characters of one text in a table
_MARKS = 4  # combining marks on one character; more pile up over the lines around
_PIPE = "\N{BOX DRAWINGS LIGHT VERTICAL}"
EMPTY = "*(empty)*"

# Sentences of our own making that quote little: words, figures, and names with underscores inside.
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9 .,;:()%+=?'–−…-]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])|\[[-−+0-9., ]+\](?![(:\[]))*",
    re.ASCII,
)
# What GitHub or Markdown would make something of, in such a sentence: lists, emoji and addresses, references to issues
# (GH-1, and a team's own prefixes, but not the licence Apache-2.0), hashes.
_LOADED = re.compile(
    r"^[-+=:]|^\d+[.)]|:(?! |$)|www\.|\b(?!Apache-2\.0)[A-Za-z][A-Za-z0-9_]*-\d|(?i:\b[0-9a-f]{7,}\b)|--|==",
    re.ASCII,
)


def visible(text: str, longest: int = LONGEST) -> str:
    """``text`` on one line and shortened; hidden characters as ``checks.process.text.escape`` writes them."""
    shown, marks = list[str](), 0
    for character in text[: longest * 8]:
        marks = marks + 1 if unicodedata.category(character)[0] == "M" else 0
        if marks <= _MARKS:
            shown.append(" " if character.isspace() else character)
    line = " ".join(escape("".join(shown)).split())
    cut = len(line) > longest or len(text) > longest * 8
    return f"{line[: longest - 1]}…" if cut else line


def cell(text: str, longest: int = LONGEST) -> str:
    """Untrusted text as Markdown that renders as the same text in a code span, in a table or a line."""
    shown = visible(text, longest).replace("|", _PIPE)
    if not shown:
        return EMPTY
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def prose(text: str, longest: int = LONGEST * 4) -> str:
    """A sentence that may quote untrusted text: unchanged if nothing in it is special in Markdown, else as ``cell``.

    Commands of Lockstep become those of a clone's script, as in the rest of a comment.
    """
    text = text.replace("`lockstep ", "`./lockstep ")
    shown = visible(text, longest)
    if shown and _PLAIN.fullmatch(shown) and not _LOADED.search(shown):
        return shown
    return cell(text, longest)
