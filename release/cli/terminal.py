"""Renders the Markdown of templates, and the table of a sweep, as plain text: no Markdown marks, tables as columns.

It handles only the Markdown that the templates of ``release.pages.templates`` and stages/reporting/swept.py write:
headings, paragraphs, lists, tables, fences, ``<details>``, bold, links and code spans. There, untrusted text is in code
spans on one line, without a pipe.
"""

import re
from collections.abc import Iterator, Mapping

import click

_COLOURS = {"▲": "green", "▼": "red"}
_CODE = r"(?<!`)(?P<fence>`+)(?!`)(?P<code>.+?)(?<!`)(?P=fence)(?!`)"
_INLINE = re.compile(_CODE + r"|!?\[(?P<label>[^\]\[]*)\]\((?P<url>[^)]*)\)|\*+")
_HEADING = re.compile(r"#+ (.*)")
_SMALL = re.compile(r"^<sub>|</sub>$")
_DIGEST = re.compile(r"sha256:([0-9a-f]{12})[0-9a-f]{52}")
_FOLDED = re.compile(r"<details><summary>(.*)</summary>")


def text(markdown: str) -> str:
    """Return ``markdown`` as plain text."""
    blocks = list[str]()
    for block in markdown.strip().split("\n\n"):
        lines = block.split("\n")
        if block.startswith("```"):
            blocks.append("\n".join(f"    {line}" for line in lines[1:-1]))
        elif block.startswith("| "):
            blocks.append("\n".join(_table([_cells(line) for line in lines])))
        elif block.startswith("…and "):
            blocks[-1] += f"\n  {block}"
        elif heading := _HEADING.fullmatch(block):
            blocks.append(
                heading[1].upper() if blocks else _INLINE.sub(_unmarked_unless_code, heading[1])
            )
        elif folded := _FOLDED.fullmatch(block):
            blocks.append(folded[1] if ": " in folded[1] else f"{folded[1]}:")
        elif block != "</details>":
            shown = [_INLINE.sub(_unmarked_unless_code, _SMALL.sub("", line)) for line in lines]
            blocks.append(
                "\n".join(f"  {line}" if line.lstrip().startswith("- ") else line for line in shown)
            )
    return "\n\n".join(blocks) + "\n"


def sections(texts: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a document whose sections are Markdown. Each has its name above it."""
    for name, markdown in texts.items():
        yield from ("", click.style(name.upper(), bold=True), "")
        for line in text(markdown).splitlines():
            colours = [colour for mark, colour in _COLOURS.items() if f"  {mark} " in line]
            yield click.style(line, fg=colours[0]) if colours else line


def _unmarked_unless_code(found: re.Match[str]) -> str:
    return found[0] if found["code"] else _unmarked(found)


def _unmarked(found: re.Match[str]) -> str:
    """The text of a match of ``_INLINE`` without its Markdown marks."""
    if found["url"] is not None:
        return f"{found['label']} {found['url']}"
    code = found["code"] or ""
    return code[1:-1] if code.startswith(" ") and code.endswith(" ") and code.strip() else code


def _cells(line: str) -> list[str]:
    """The cells of a table row; code spans lose their backticks, and digests are cut."""
    line = _DIGEST.sub(r"\1", line)
    return [
        _INLINE.sub(_unmarked, cell)
        for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")
    ]


def _table(rows: list[list[str]]) -> Iterator[str]:
    """Lines of aligned columns; the second row of the Markdown says which are right-aligned."""
    header, marks, *others = rows
    widths = [max(len(row[i]) for row in (header, *others)) for i in range(len(header))]
    for row in (header, ["-" * min(width, 40) for width in widths], *others):
        line = "  ".join(
            cell.rjust(width) if mark.endswith(":") else cell.ljust(width)
            for cell, width, mark in zip(row, widths, marks, strict=True)
        )
        yield f"  {line.rstrip()}"
