"""Ways to spoil what lies below a folder, for the rows of tables: each makes a change of the folder that it is given.

    TAMPERS = {"a report cut short": spoil.cut("reports/train.json"), "no report": spoil.remove("reports/train.json")}

Without a name it is the path itself that is changed.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], object]
Name = str | Path


def remove(name: Name = "") -> Spoil:
    """A file or a folder is gone."""
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def write(name: Name, text: str) -> Spoil:
    """A file has another text, or is new."""
    return lambda root: (root / name).write_text(text)


def edit(name: Name, change: Callable[[str], str]) -> Spoil:
    """A text is another one. Raises AssertionError where it stays the same."""

    def spoil(root: Path) -> None:
        before = (root / name).read_text()
        assert change(before) != before
        (root / name).write_text(change(before))

    return spoil


def replace(name: Name, old: str, new: str) -> Spoil:
    """The first ``old`` in a text is ``new``."""
    return edit(name, lambda text: text.replace(old, new, 1))


def edit_json(name: Name, change: Callable[[Any], object]) -> Spoil:
    """``change`` alters what a JSON file holds."""

    def spoil(root: Path) -> None:
        value = json.loads((root / name).read_text())
        change(value)
        (root / name).write_text(json.dumps(value))

    return spoil


def cut(name: Name = "") -> Spoil:
    """The last byte is gone."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-1])


def flip(name: Name = "", at: int = 0) -> Spoil:
    """One bit of the byte ``at`` is the other one."""

    def spoil(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[at] ^= 1
        (root / name).write_bytes(data)

    return spoil


def link(name: Name = "", target: str = "") -> Spoil:
    """A link is in its place: to ``target``, or to the same bytes, which lie beside the folder then."""

    def spoil(root: Path) -> None:
        path, kept = root / name, root.with_name(f"{root.name} elsewhere")
        if not target:
            shutil.move(path, kept)
        path.unlink(missing_ok=True)
        path.symlink_to(target or kept)

    return spoil


def pipe(name: Name = "") -> Spoil:
    """A pipe is in its place: whoever opens it waits for ever."""

    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return spoil
