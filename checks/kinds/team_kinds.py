"""The kinds of a team's repository: ``kinds/GROUP/NAME.py``, one kind a file, such as ``kinds/scorers/brevity.py``.

``GROUP`` is a group of entry points without its prefix: gates, scorers, rules, loaders, … The file has the kind's name,
with ``_`` for ``-`` and ``+``. It is loaded by its path, alone: no import statement reaches another file of the folder,
so the digest of the one file, and of what it imports of ``checks`` and ``stages``, is the digest of its code
(``checks.code.modules``).

The folder is that of the current directory, where stages run, or that of the command's option ``-C`` (``use``).
"""

import importlib.util
import sys
from collections.abc import Collection, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from checks.process.errors import MachineRefused
from checks.storage import layout

_FIX = "move the file to kinds/GROUP/NAME.py, or remove it"
_root = Path()


def use(root: Path) -> None:
    """Take the kinds of the repository at ``root``. Call it before anything reads parameters."""
    global _root
    _root = root


def paths(group: str) -> list[Path]:
    """Return the files of a group, such as ``scorers``, relative to the repository's root and sorted."""
    folder = layout.KINDS / group
    return [
        path
        for path in _python()
        if path.parent == folder and _has_name(path) and not _is_linked(path)
    ]


def misplaced(groups: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (problem, fix) for each file of Python below the folder that is no file of a kind."""
    for path in _python():
        if _is_linked(path):
            yield f"{path}: is a link, or lies below one", "replace it with what it points at"
        elif len(path.parts) != 3 or not _has_name(path):
            yield f"{path}: is not named as a kind of this repository", _FIX
        elif path.parent.name not in groups:
            yield (
                f"{path}: there is no group {path.parent.name}",
                f"use one of {', '.join(sorted(groups))}",
            )


def load(path: Path) -> ModuleType:
    """Run the file of a kind. Raises what its code raises, MachineRefused if it imports another file of the folder."""
    if _ALONE not in sys.meta_path:
        sys.meta_path.insert(0, _ALONE)
    # The slashes keep the name out of every import statement.
    name = path.with_suffix("").as_posix()
    file = _root.resolve() / path
    loader = _Source(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


class _Source(SourceFileLoader):
    """Runs the text of a file, and no bytecode that lies beside it."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file."""
        return self.source_to_code(self.get_data(self.path), self.path)


class _Alone(MetaPathFinder):
    """Refuses every import from the folder, also where Python looks for modules in the current directory."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Find nothing. Raises MachineRefused for a module of the folder."""
        if fullname.partition(".")[0] == layout.KINDS.name:
            raise MachineRefused(
                f"import of {fullname}: a file of {layout.KINDS}/ cannot import another one",
                "move what both need to a package, and install it",
            )


_ALONE = _Alone()


def _has_name(path: Path) -> bool:
    return path.stem.isidentifier() and not path.stem.startswith("_")


def _is_linked(path: Path) -> bool:
    return (_root / path).resolve() != _root.resolve() / path


def _python() -> list[Path]:
    return sorted(path.relative_to(_root) for path in (_root / layout.KINDS).rglob("*.py"))
