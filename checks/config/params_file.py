"""Reads params.yaml into ``checks.config.params``: strict, every problem on one line with its place and its fix.

Unknown keys, wrong types, duplicate keys and impossible combinations are ParamsRefused, with the
line in the file, the path of the key and the value.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from checks.config.moved_keys import IS_MOVED, MOVED
from checks.config.release_params import ReleaseParams
from checks.kinds.registry import refuse_broken
from checks.process import distribution
from checks.process.errors import ParamsRefused
from checks.records.sections import Section
from checks.storage import layout, plain_yaml

if TYPE_CHECKING:
    from checks.config.params import Params

S = TypeVar("S", bound=Section)

# Pydantic's names of errors about the key that tells a kind.
_TAGGED = ("union_tag_invalid", "union_tag_not_found")
# With these errors, the last part of the path may be unknown or absent from the file.
_UNWRITTEN = ("missing", "extra_forbidden", "union_tag_not_found")
_NOUNS = {
    "loader": "loader", "scorers": "scorer", "gates": "kind of gate", "train": "training method",
    "suites": "kind of suite", "judge": "judge", "retriever": "retriever",
}  # fmt: skip
# Loaders and rules of lockstep-azure-cli, which the extra of this name installs. stages.sources names lockstep-lake.
_AZURE_CLI = "azure-cli"
_OF_AZURE_CLI = (
    _AZURE_CLI, "drop-command-in-prompt", "drop-several-commands", "drop-without-command",
)  # fmt: skip


class Parsed(NamedTuple):
    """Parsed but unchecked YAML: nodes, which know their lines, and plain values, as DVC records them.

    ``name``: the file's name in messages.
    """

    name: str
    node: yaml.Node | None
    value: dict[str, Any]


def load(path: Path = layout.PARAMS) -> "Params":
    """Read and check ``path``; raises ParamsRefused with every problem."""
    return check(read(path))


def parse(text: str, name: str = str(layout.PARAMS)) -> "Params":
    """Check YAML text; ``name`` is its name in messages."""
    return check(read_text(text, name))


def read(path: Path = layout.PARAMS) -> Parsed:
    """Read ``path``; raise ParamsRefused when it is not a YAML mapping."""
    return read_text(_text(path), str(path))


def check(parsed: Parsed) -> "Params":
    """The parameters. Raises ParamsRefused with every problem.

    Raises MachineRefused if an installed package adds a kind that cannot be used, because the text might mean that one.
    """
    from checks.config import params

    refuse_broken()
    return _checked(parsed, params.model())


def check_release(parsed: Parsed) -> ReleaseParams:
    """Return the sections that say how a model is served and promoted. Raises ParamsRefused with every problem."""
    return _checked(parsed, ReleaseParams)


def _checked(parsed: Parsed, model: type[S]) -> S:
    name, node, value = parsed
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = _own(error.errors(include_url=False))
        problems = [_problem(name, node, detail) for detail in _with_meant(details)]
        (what, todo), *others = sorted(dict.fromkeys(problems), key=lambda p: _line_of(p[0]))
        raise ParamsRefused(what, todo, tuple(f"{w}; {t}" for w, t in others)) from error


def schema() -> dict[str, Any]:
    """JSON Schema of params.yaml, for editors."""
    from checks.config import params

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    } | params.model().model_json_schema(by_alias=True)


def _text(path: Path) -> str:
    # A pipe would keep a reader waiting.
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ParamsRefused(f"{path}: is not a regular file", "restore it from git")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ParamsRefused(
            f"{path}: {reason}",
            "run inside the repository, restore the file from git, or begin with `lockstep init FILE`",
        ) from error


def read_text(text: str, name: str) -> Parsed:
    """Read YAML text; raises ParamsRefused if it is not a mapping. ``name`` is its name in messages."""
    try:
        node, value = plain_yaml.read(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsRefused(f"{name}:{line}: not YAML: {error.problem}", "fix that line") from error
    except yaml.YAMLError as error:
        raise ParamsRefused(f"{name}: not YAML: {error}", "fix the file") from error
    if not isinstance(value, dict):
        raise ParamsRefused(f"{name}: holds no sections", "restore the file from git")
    return Parsed(name, node, value)


class _Place(NamedTuple):
    """A value in the file, and the line of its key."""

    node: yaml.Node | None
    line: int


def _own(details: Sequence[Any]) -> list[Any]:
    """Drop problems that only follow from others: a list whose one item is invalid counts as too short."""
    return [
        detail
        for detail in details
        if detail["type"] != "too_short" or not any(_is_below(other, detail) for other in details)
    ]


def _with_meant(details: Sequence[Any]) -> list[Any]:
    """Give each unknown key the missing one beside it that is nearly the same, as ``meant``, and drop that one."""
    missing = {detail["loc"] for detail in details if detail["type"] == "missing"}
    meant = dict[tuple[int | str, ...], str]()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            beside = [str(loc[-1]) for loc in missing if loc[:-1] == detail["loc"][:-1]]
            for near in difflib.get_close_matches(str(detail["loc"][-1]), beside, n=1):
                meant[detail["loc"]] = near
    written = {(*loc[:-1], near) for loc, near in meant.items()}
    return [
        {**detail, "meant": meant.get(detail["loc"])}
        for detail in details
        if detail["loc"] not in written
    ]


def _is_below(detail: Any, other: Any) -> bool:
    depth = len(other["loc"])
    return len(detail["loc"]) > depth and detail["loc"][:depth] == other["loc"]


def _problem(name: str, root: yaml.Node | None, detail: Any) -> tuple[str, str]:
    """One pydantic error as (what, todo)."""
    kind, given, loc = detail["type"], detail["input"], detail["loc"]
    if kind in _TAGGED:
        loc = (*loc, detail["ctx"]["discriminator"].strip("'"))
    place, keys = _Place(root, root.start_mark.line + 1 if root else 1), []
    around = place
    for number, part in enumerate(loc, 1):
        below = _below(place, part)
        if below is None and not (number == len(loc) and kind in _UNWRITTEN):
            continue  # the tag of a union: in pydantic's path, not in the file's
        keys.append(str(part))
        around, place = place, below or place
    path = ".".join(keys)
    if kind == "value_error":
        text, _, todo = str(detail["ctx"]["error"]).partition("|")
        line = _named(place, text).line
        return f"{name}:{line}: {path}: {text}" if path else f"{name}:{line}: {text}", todo
    start = f"{name}:{place.line}: {path}"
    if kind == "extra_forbidden":
        if moved := MOVED.get(str(loc[-1])):
            return f"{start}: {IS_MOVED}", moved.todo
        near = detail["meant"] or _nearest(str(loc[-1]), around)
        return f"{start}: unknown key", f"did you mean {near}?" if near else "remove it"
    unknown = detail["ctx"]["tag"] if kind == "union_tag_invalid" else given
    if kind in ("union_tag_invalid", "literal_error") and unknown in _OF_AZURE_CLI:
        package = f"the package lockstep-{_AZURE_CLI}"
        return f"{start}: {unknown!r} needs {package}", distribution.install(_AZURE_CLI)
    if kind in _UNWRITTEN:
        return f"{start}: missing", "add it, as the documentation of params.yaml shows"
    if kind == "union_tag_invalid":
        noun = next((_NOUNS[part] for part in reversed(loc) if part in _NOUNS), "kind")
        known = detail["ctx"]["expected_tags"].replace("'", "")
        return f"{start}: unknown {noun} {detail['ctx']['tag']!r}", f"one of: {known}"
    shown = (
        "a mapping"
        if isinstance(given, dict)
        else "a list"
        if isinstance(given, list)
        else repr(given)
    )
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{start}: {shown}", message


def _named(place: _Place, text: str) -> _Place:
    """The key that a validator's message begins with, or the part of its path that is written below ``place``."""
    for part in re.split(r"[^\w.-]", text, maxsplit=1)[0].split("."):
        below = _below(place, part)
        if below is None:
            break
        place = below
    return place


def _below(place: _Place, part: str | int) -> _Place | None:
    child: _Place | None = None
    if isinstance(place.node, yaml.MappingNode):
        child = next(
            (
                _Place(value, key.start_mark.line + 1)
                for key, value in place.node.value
                if key.value == str(part)
            ),
            None,
        )
    elif (
        isinstance(place.node, yaml.SequenceNode)
        and isinstance(part, int)
        and part < len(place.node.value)
    ):
        node = place.node.value[part]
        child = _Place(node, node.start_mark.line + 1)
    return child


def _nearest(key: str, around: _Place) -> str | None:
    """The known key most like ``key``, of the sections that have the most keys of the mapping ``around`` it."""
    fields = [
        {field.alias or name for name, field in section.model_fields.items()}
        for section in _sections()
    ]
    written = (
        {key.value for key, _ in around.node.value}
        if isinstance(around.node, yaml.MappingNode)
        else set()
    )
    most = max(len(names & written) for names in fields)
    names = set().union(*(names for names in fields if len(names & written) == most))
    close = difflib.get_close_matches(key, sorted(names), n=1)
    return close[0] if close else None


def _sections(base: type[Section] = Section) -> list[type[Section]]:
    """Return every class below ``base``."""
    from checks.config import params  # noqa: F401 - to import it defines most sections

    return [below for child in base.__subclasses__() for below in (child, *_sections(child))]


def _line_of(what: str) -> int:
    parts = what.split(":")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
