"""Finds the modules that a stage runs with given parameters, from the text of the code alone.

Nothing is imported, so the code can be that of another commit. A stage runs ``stages/STAGE.py``, every module of
``checks`` and ``stages`` that it imports, directly or not, in functions too, and the kinds that its parameters name.
A folder of kinds does not count as a whole: a new or changed kind that no parameter names changes nothing. The same
holds for the kinds of a team's repository (``checks.kinds.team_kinds``).

Text that looks like an import counts, in a docstring too, and so does a string that is the name of a module. So more
modules can be found than run, and ``tests/checks/code/test_code_runs.py`` holds that none runs without being found.
Code that makes the name of a module while it runs is not found: a review has to refuse it.
"""

import functools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checks.storage import layout

PACKAGES = ("checks", "stages")
# The content of each file of Python below ``PACKAGES`` and the folder of a team's kinds, by its path.
Code = Mapping[str, bytes]

# The folders of kinds, by the module that finds the kinds in it. A kind's file has the kind's name.
KINDS = {
    "checks/kinds/chat_template.py": "checks/chat_templates",
    "checks/kinds/gate.py": "checks/gates",
    "checks/kinds/judge.py": "stages/judges",
    "checks/kinds/loader.py": "stages/loaders",
    "checks/kinds/method.py": "stages/training/methods",
    "checks/kinds/retriever.py": "checks/retrievers",
    "checks/kinds/rule.py": "checks/rules",
    "checks/kinds/scorer.py": "checks/scorers",
    "checks/kinds/suite.py": "checks/suites",
    "stages/sources/parsing.py": "stages/sources/schemes",
}

# The group of sections of params.yaml. No module of Lockstep looks for kinds in it but params.yaml's own.
SECTIONS = "sections"

_METHODS, _SCHEMES = "stages/training/methods", "stages/sources/schemes"
# Where a group of kinds is not called as its folder.
_GROUPS = {_SCHEMES: "sources"}
# The stage that runs the functions of these kinds. Other stages ask them for parameters and columns only.
_LATE_FOR = {_METHODS: "train", f"{layout.KINDS}/methods": "train"}

# The modules that a stage reaches through its parameters alone, or by the name of a kind in its own code.
_BY_PARAMETERS = {
    "fetch": ("checks/config/data_sources.py",),
    "gate": ("checks/config/data_sources.py", "checks/kinds/suite.py"),
    "validate": (
        "checks/evaluation/encoder.py",
        "checks/rules/strip_control_characters.py",
        "checks/rules/trim_ends.py",
    ),
}

# A section of the parameters whose functions decide. What it imports says what the section may have.
_ALONE = "checks/config/data_sources.py"

NOT_FOLLOWED = frozenset(
    {
        # These say what parameters there are. Their values are recorded beside the digest.
        "checks/config/params.py",
        "checks/config/params_file.py",
        "checks/config/pipeline_params.py",
        "checks/config/release_params.py",
        "checks/records/sections.py",
        # These end a run or describe one, and decide no byte of what it makes.
        "checks/code/lock.py",
        "checks/process/distribution.py",
        "checks/process/errors.py",
        "checks/storage/layout.py",
        "checks/machine/disk.py",
        "stages/entry.py",
        "stages/progress.py",
        "stages/tools/guarded_dvc.py",
        "stages/tracking/__init__.py",
        "stages/tracking/others.py",
        "stages/tracking/store.py",
    }
)

_IMPORT = re.compile(
    rb"^(?=[^\n]*import)([ \t]*)(?:[^\n#'\"]*:[ \t]*)?"
    rb"(?:from[ \t]+((?:checks|stages)[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n]+)|import[ \t]+([^\n]*))",
    re.MULTILINE,
)
_QUOTED = re.compile(rb"[\"']((?:checks|stages)(?:\.\w+)+)[\"']")
_COMMENT = re.compile(r"#[^\n]*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")


def below(root: Path) -> Code:
    """Read the code of Lockstep in a folder."""
    return _read(root, PACKAGES)


def of_team(root: Path) -> Code:
    """Read the kinds of the team's repository at ``root``."""
    return _read(root, (layout.KINDS.name,))


def _read(root: Path, folders: Iterable[str]) -> Code:
    places = (place for folder in folders for place in os.walk(root / folder))
    paths = [
        f"{place}/{name}" for place, _, names in places for name in names if name.endswith(".py")
    ]
    return {path.removeprefix(f"{root}/"): Path(path).read_bytes() for path in sorted(paths)}


def of_stage(
    stage: str, names: frozenset[str], code: Code, sections: Collection[str] = ()
) -> list[str]:
    """Return the paths of the modules that a stage runs, sorted.

    ``names``: all that its parameters may name, as ``names_in`` gives it. ``sections``: the sections of params.yaml, of
    which a kind of the team may read one of the team.
    """
    pending = [f"stages/{stage}.py", *_BY_PARAMETERS.get(stage, ())]
    paths, followed = set[str](), set[str]()
    while pending:
        path = pending.pop()
        if path in paths or path in NOT_FOLLOWED or path not in code:
            continue
        paths.add(path)
        if path == _ALONE:
            continue
        folder = path.rpartition("/")[0]
        late = _LATE_FOR.get(folder, stage) == stage
        new = {*imported(code[path], late)} - followed
        followed |= new
        pending += [module for name in new for module in _modules(name)]
        if folder.startswith(f"{layout.KINDS}/"):
            pending += (f"{layout.KINDS}/{SECTIONS}/{section}.py" for section in sections)
        if kinds := KINDS.get(path):
            pending += _named(kinds, names, code)
    return sorted(paths)


def groups(paths: Collection[str]) -> set[str]:
    """Return the groups of kinds that the modules ``paths`` find kinds of, such as ``scorers``."""
    return {_group(folder) for finder, folder in KINDS.items() if finder in paths}


def names_in(values: Any) -> frozenset[str]:
    """Return every text in ``values`` that may be the name of a kind: keys, values, and the schemes of URIs."""
    if isinstance(values, Mapping):
        return frozenset(map(str, values)).union(*map(names_in, values.values()))
    if isinstance(values, list | tuple):
        return frozenset[str]().union(*map(names_in, values))
    if not isinstance(values, str):
        return frozenset()
    scheme = _SCHEME.match(values)
    return frozenset({values, scheme[1]} if scheme else {values})


def _named(folder: str, names: frozenset[str], code: Code) -> Iterator[str]:
    """Yield the packages around a folder of kinds, and its kinds and those of the team that are named."""
    yield from _modules(folder.replace("/", "."))
    kinds = {name.replace("-", "_").replace("+", "_") for name in names if "/" not in name}
    if folder == _SCHEMES:
        # `file` reads paths. `url` reads every address whose scheme has no kind of its own.
        kinds |= {"file", "url"}
    for place in (folder, f"{layout.KINDS}/{_group(folder)}"):
        yield from (path for kind in kinds if (path := f"{place}/{kind}.py") in code)


def _group(folder: str) -> str:
    return _GROUPS.get(folder, folder.rpartition("/")[2])


@functools.lru_cache(maxsize=2048)
def imported(text: bytes, late: bool) -> tuple[str, ...]:
    """Return the names that a module imports and that may be modules; those in functions only where ``late``."""
    names = [match.decode() for match in _QUOTED.findall(text)]
    for indent, package, attributes, modules in _IMPORT.findall(
        text.replace(b"\\\n", b" ").replace(b";", b"\n")
    ):
        if indent and not late:
            continue
        listed = _COMMENT.sub("", (attributes or modules).decode(errors="replace")).strip("() \n")
        words = [part.split()[0] for part in listed.replace("\n", " ").split(",") if part.split()]
        start = f"{package.decode()}." if package else ""
        names += [package.decode(), *(f"{start}{word}" for word in words)]
    return tuple(names)


@functools.lru_cache(maxsize=8192)
def _modules(name: str) -> tuple[str, ...]:
    """Return where the modules may be that an import of ``name`` runs: the packages around it, and itself."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return ()
    places = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return tuple(path for place in places for path in (f"{place}.py", f"{place}/__init__.py"))
