"""What a comment is made of, and how it is written: as GitHub's Markdown, and as plain text for a terminal.

A piece of a line is a ``str`` that this program wrote, or says what else it is: what came from outside is ``Data`` or
``Said`` and cannot be put into a line otherwise.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checks.errors import EvidenceRefused
from release.review.text import LONGEST, cell, prose, visible

_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/=&?+,;:#-]*)?", re.ASCII)


class Data(NamedTuple):
    """Untrusted text."""

    text: str
    longest: int = LONGEST


class Said(NamedTuple):
    """A sentence of a check or of git, which may quote untrusted text."""

    text: str


class Bold(NamedTuple):
    pieces: tuple["Piece", ...]


class Link(NamedTuple):
    """``label`` is ours, ``url`` went through ``address``."""

    label: str
    url: str


class Image(NamedTuple):
    """Shown by GitHub; a link in plain text."""

    label: str
    url: str


Piece = str | Data | Said | Bold | Link | Image
Line = tuple[Piece, ...]


class Paragraph(NamedTuple):
    line: Line


class Bullets(NamedTuple):
    lines: Sequence[Line]


class Table(NamedTuple):
    """``left_out``: how many more rows there are."""

    header: Sequence[Line]
    rows: Sequence[Sequence[Line]]
    figures: frozenset[int] = frozenset()  # columns set to the right
    left_out: int = 0


class Code(NamedTuple):
    """Lines of our own, to be copied."""

    lines: Sequence[str]


class Folded(NamedTuple):
    """``summary`` is ours: inside it Markdown is not read."""

    summary: str
    blocks: Sequence["Block"]


Block = Paragraph | Bullets | Table | Code | Folded


class Section(NamedTuple):
    """``keep``: of two sections the one with the lower number is left out first where there is no room for both."""

    name: str
    title: str
    blocks: Sequence[Block]
    keep: int = 0


def line(*pieces: Piece) -> Line:
    return pieces


def row(*cells: Piece | Line) -> tuple[Line, ...]:
    """Cells of a table, of one piece or of several."""
    return tuple(each if type(each) is tuple else (each,) for each in cells)  # type: ignore[misc]  # not a NamedTuple


def capped(header: Sequence[Line], rows: Sequence[Sequence[Line]], most: int, figures: Sequence[int] = ()) -> Table:
    """A table of the first ``most`` rows, which says how many more there are."""
    return Table(header, rows[:most], frozenset(figures), max(0, len(rows) - most))


def address(url: str) -> str:
    """``url`` if it can be put into Markdown as it is. Raises EvidenceRefused."""
    if len(url) <= 500 and _URL.fullmatch(url):
        return url
    raise EvidenceRefused(
        f"{visible(url.rpartition('@')[2], 80)}: is no address for a comment",
        "give one that starts with https://, without a login, a space or a bracket",
    )


def markdown(section: Section) -> str:
    """A section as GitHub's Markdown, without a blank line around it."""
    title = [f"### {section.title}"] if section.title else []
    return "\n\n".join([*title, *map(_markdown, section.blocks)])


def plain(section: Section) -> str:
    """A section as text."""
    title = [f"{section.title.upper()}"] if section.title else []
    return "\n\n".join([*title, *map(_plain, section.blocks)])


def inline(pieces: Line) -> str:
    return "".join(map(_piece, pieces))


def spoken(pieces: Line) -> str:
    """The line as text."""
    return "".join(map(_spoken, pieces))


def _piece(piece: Piece) -> str:
    match piece:
        case Data(text, longest):
            return cell(text, longest)
        case Said(text):
            return prose(text)
        case Bold(pieces):
            return f"**{inline(pieces)}**"
        case Link(label, url):
            return f"[{label}]({url})"
        case Image(label, url):
            return f"![{label}]({url})"
        case str():
            return piece


def _spoken(piece: Piece) -> str:
    match piece:
        case Data(text, longest):
            return visible(text, longest) or "(empty)"
        case Said(text):
            return visible(text, LONGEST * 4)
        case Bold(pieces):
            return spoken(pieces)
        case Link(label, url) | Image(label, url):
            return f"{label} {url}"
        case str():
            return piece


def _markdown(block: Block) -> str:
    match block:
        case Paragraph(pieces):
            return inline(pieces)
        case Bullets(lines):
            return "\n".join(f"- {inline(each)}" for each in lines)
        case Code(lines):
            return "\n".join(["```bash", *lines, "```"])
        case Folded(summary, blocks):
            inner = "\n\n".join(map(_markdown, blocks))
            return f"<details><summary>{summary}</summary>\n\n{inner}\n\n</details>"
        case Table(header, rows, figures, left_out):
            marks = ["---:" if i in figures else "---" for i in range(len(header))]
            written = [_cells(map(inline, header)), _cells(marks)]
            written += [_cells(map(inline, each)) for each in rows]
            more = f"\n\n…and {left_out:,} more." if left_out else ""
            return "\n".join(written) + more


def _cells(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(block: Block) -> str:
    match block:
        case Paragraph(pieces):
            return spoken(pieces)
        case Bullets(lines):
            return "\n".join(f"  - {spoken(each)}" for each in lines)
        case Code(lines):
            return "\n".join(f"    {each}" for each in lines)
        case Folded(summary, blocks):
            return "\n\n".join([f"{summary}:", *map(_plain, blocks)])
        case Table(header, rows, figures, left_out):
            told = [list(map(spoken, each)) for each in (header, *rows)]
            widths = [max(len(each[i]) for each in told) for i in range(len(header))]
            lines = [
                "  ".join(
                    text.rjust(width) if i in figures else text.ljust(width)
                    for i, (text, width) in enumerate(zip(each, widths, strict=True))
                ).rstrip()
                for each in told
            ]
            lines.insert(1, "  ".join("-" * min(width, 40) for width in widths))
            more = [f"…and {left_out:,} more."] if left_out else []
            return "\n".join(f"  {each}" for each in (*lines, *more))
