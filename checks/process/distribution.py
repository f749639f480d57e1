"""The distribution that Lockstep is installed as: its name, its version, its place, and how an extra is added to it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checks

# The name on the package index. The command is `lockstep`, the packages are checks, release and stages.
NAME = "lockstep-llm"

# The file of a thin repository that names the version of Lockstep, its extras and the packages of kinds.
PIN = "lockstep-requirements.txt"

# A file or folder of docs/ that only this repository has: a team has docs/cards, and docs/params.schema.json.
_PAGE = re.compile(r"(?<![\w./:-])docs/(?!cards\b)([a-z-]+(?:/[\w-]+(?:\.[a-z]+)?)+)")
_EXTRAS = re.compile(rf"^{NAME}\[(.*?)\]==", re.MULTILINE)


def version() -> str:
    # It takes as long to import as click, and --help needs it rarely.
    from importlib import metadata

    return metadata.version(NAME)


def home() -> Path:
    """Return the folder that the running packages lie in: site-packages, or the top of this repository."""
    return Path(checks.__file__).resolve().parent.parent


def _is_clone() -> bool:
    return (home() / "pyproject.toml").is_file()


def origin() -> dict[str, Any]:
    """Return where pip took the distribution from (PEP 610). Empty if it came from an index."""
    from importlib import metadata

    document: dict[str, Any] = json.loads(
        metadata.distribution(NAME).read_text("direct_url.json") or "{}"
    )
    return document


def install(extras: str) -> str:
    """Return the fix for a missing package of ``extras``, which are separated by commas.

    An editable installation is of this repository. A thin repository pins Lockstep in a file, which LOCKSTEP_ROOT or
    the current folder has. Elsewhere pip alone installed it.
    """
    if _is_clone():
        return f"pip install -c constraints.txt -e '.[{extras}]'"
    pin = Path(os.environ.get("LOCKSTEP_ROOT", ".")) / PIN
    if pin.is_file():
        pinned = _EXTRAS.search(pin.read_text(encoding="utf-8", errors="replace"))
        if pinned and set(extras.split(",")) <= set(re.findall(r"[\w-]+", pinned[1])):
            return "run ./lockstep in place of lockstep: it installs what this repository pins"
        return f"add {extras} to the extras in {PIN}, then run ./lockstep"
    return f"pip install '{NAME}[{extras}]=={version()}'"


@contextmanager
def needed(what: str, extras: str) -> Iterator[None]:
    """Raise MachineRefused, which says how to install ``extras``, if an import inside the block fails."""
    # The command line reads this module before it can say in one line that another of ours is missing.
    from checks.process.errors import MachineRefused

    try:
        yield
    except ImportError as error:
        raise MachineRefused(what, install(extras)) from error


def linked(text: str) -> str:
    """Return a text in which files of docs/ are addresses, unless this is a clone, which has the files."""
    if not _PAGE.search(text) or _is_clone():
        return text
    from importlib import metadata

    urls = metadata.metadata(NAME).get_all("Project-URL") or []
    address = next(
        (url.partition(", ")[2] for url in urls if url.startswith("Documentation, ")), ""
    )
    return _PAGE.sub(rf"{address}/\1", text)
