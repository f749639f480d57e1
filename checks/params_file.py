"""Reads params.yaml into ``checks.params``: strict, every problem on one line with its place and its fix.

Unknown keys, wrong types, duplicate keys and impossible combinations are ParamsRefused, with the
line in the file, the path of the key and the value.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from checks import layout, plain_yaml
from checks.errors import ParamsRefused
from checks.params import Params
from checks.sections import Section


def load(path: Path = layout.PARAMS) -> Params:
    """Read and check ``path``; raise ParamsRefused with every problem found."""
    return parse(_text(path), str(path))


def document(path: Path = layout.PARAMS) -> dict[str, Any]:
    """The plain values of ``path``, as DVC records them; raises ParamsRefused when it is no YAML mapping."""
    return _read(_text(path), str(path))[1]


def parse(text: str, name: str = str(layout.PARAMS)) -> Params:
    """Check YAML text; ``name`` is what messages call it."""
    node, value = _read(text, name)
    try:
        return Params.model_validate(value)
    except ValidationError as error:
        problems = [_problem(name, node, detail) for detail in error.errors(include_url=False)]
        (what, todo), *others = sorted(dict.fromkeys(problems), key=lambda p: _line_of(p[0]))
        raise ParamsRefused(what, todo, tuple(f"{w}; {t}" for w, t in others)) from error


def schema() -> dict[str, Any]:
    """JSON Schema of params.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Params.model_json_schema(by_alias=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ParamsRefused(f"{path}: {reason}", "run inside the repository, or restore the file from git") from error


def _read(text: str, name: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    """The nodes, which know their lines, and the plain values."""
    try:
        node, value = plain_yaml.read(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsRefused(f"{name}:{line}: not YAML: {error.problem}", "mend that line") from error
    except yaml.YAMLError as error:
        raise ParamsRefused(f"{name}: not YAML: {error}", "mend the file") from error
    if not isinstance(value, dict):
        raise ParamsRefused(f"{name}: holds no sections", "restore the file from git")
    return node, value


def _problem(name: str, root: yaml.Node | None, detail: Any) -> tuple[str, str]:
    """One pydantic error as (what, todo)."""
    node, where, closest = root, [], root
    for part in detail["loc"]:
        child = _child(node, part)
        if child is None and detail["type"] not in ("missing", "extra_forbidden"):
            continue  # the tag of a union: in pydantic's path, not in the file's
        where.append(str(part))
        node = child
        closest = child or closest
    line = closest.start_mark.line + 1 if closest else 1
    path = ".".join(where)
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        near = _nearest(detail["loc"])
        return f"{name}:{line}: {path}: unknown key", f"did you mean {near}?" if near else "remove it"
    if kind == "missing":
        return f"{name}:{line}: {path}: missing", "add it, as the documentation of params.yaml shows"
    if kind == "value_error":
        text, _, todo = str(detail["ctx"]["error"]).partition("|")
        prefix = f"{path}: " if path else ""
        return f"{name}:{line}: {prefix}{text}", todo
    shown = "a mapping" if isinstance(given, dict) else "a list" if isinstance(given, list) else repr(given)
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{name}:{line}: {path}: {shown}", message


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    found: yaml.Node | None = None
    if isinstance(node, yaml.MappingNode):
        found = next((value for key, value in node.value if key.value == str(part)), None)
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found = node.value[part]
    return found


def _nearest(loc: tuple[str | int, ...]) -> str | None:
    names = {n for section in _sections() for n in (f.alias or k for k, f in section.model_fields.items())}
    close = difflib.get_close_matches(str(loc[-1]), sorted(names), n=1)
    return close[0] if close else None


def _sections() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    pending: list[type[BaseModel]] = list(Section.__subclasses__())
    while pending:
        found.append(current := pending.pop())
        pending.extend(current.__subclasses__())
    return found


def _line_of(what: str) -> int:
    parts = what.split(":")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
