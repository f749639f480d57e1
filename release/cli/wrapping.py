"""Wraps lines at the width of the terminal: the continued part of a line stands below the beginning of its text."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TextIO

import click

from checks.process import distribution

# Matches before a line's first text, and after two spaces.
_COLUMN = re.compile(r"(?:^\s*(?:[^\w\s] )?(?:[\w#.-]+: )?|  +)(?=\S)")
_PIP = re.compile(r"(?<![\w./])pip install")
_NARROWEST = 3  # a column is not wrapped into less than this part of the width


def hanging(text: str, stream: TextIO | None = None) -> str:
    """``text`` with each line wrapped, if ``stream`` (default: standard output) is a terminal.

    A line of columns, which two spaces or more part, goes on below its last column that is wide enough. Nothing is
    cut, and no word is broken. A pipe or a log gets each line whole. Commands are named as they can be typed here, and
    pages of the documentation by an address that can be opened.
    """
    text = _as_called(distribution.linked(text))
    if not is_terminal(stream or sys.stdout):
        return text
    return wrapped(text, shutil.get_terminal_size().columns)


def _as_called(text: str) -> str:
    """``text`` with commands as they work here: the script's if it was called, or if this is a clone, which has it.

    In a project they name its folder.
    """
    called = os.environ.get("LOCKSTEP_CALLED")
    text = _PIP.sub(".venv/bin/pip install", text) if called else text
    here = called or ("./lockstep" if Path("lockstep").is_file() else "lockstep")
    context = click.get_current_context(silent=True)
    root = context.find_root().obj if context else None
    if isinstance(root, Path) and root != Path() and not root.is_absolute():
        here = f"{here} -C {root}"
    return text.replace("`lockstep ", f"`{here} ")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads ``stream`` as it is written: a runner of jobs may give a terminal and keep a log."""
    return stream.isatty() and not os.environ.get("CI")


def wrapped(text: str, width: int) -> str:
    """``text`` with each line wrapped at ``width`` characters; codes of colours take no room."""
    return "\n".join("\n".join(_lines(line, width)) for line in text.split("\n"))


def _lines(line: str, width: int) -> list[str]:
    plain = click.unstyle(line)
    if len(plain) <= width:
        return [line]
    starts = [match.end() for match in _COLUMN.finditer(plain)]
    wide_enough = [start for start in starts if width - start >= width // _NARROWEST]
    indent = " " * (max(wide_enough, default=0) or 2)
    lines = [""]
    for word in re.findall(r" *\S+", line):  # A word has the spaces before it.
        below = indent + word.lstrip(" ")
        fits = len(click.unstyle(lines[-1] + word)) <= width
        # A digest that fits nowhere stays where it is.
        if not lines[-1] or fits or len(click.unstyle(below)) > width:
            lines[-1] += word
        else:
            lines.append(below)
    return lines
