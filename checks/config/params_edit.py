"""Changes single lines in the text of params.yaml, and leaves its comments and its order as they are."""

from collections.abc import Mapping

import yaml
from pydantic import JsonValue

from checks.process.errors import ParamsRefused
from checks.storage import plain_yaml


def with_values(text: str, values: Mapping[str, JsonValue]) -> str:
    """Return ``text`` with ``values``, by the path of each parameter.

    Raises ParamsRefused if a parameter is not in the text.
    """
    replacements = []
    for path, value in values.items():
        node = _node(text, path)
        if node is None:
            raise ParamsRefused(
                f"params.yaml: does not write {path}", f"add it by hand, as {value!r}"
            )
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            raise ParamsRefused(
                f"params.yaml: {path} is written over several lines",
                f"change it by hand, to {value!r}",
            )
        replacements.append((node.start_mark.index, node.end_mark.index, in_flow(value)))
    for start, end, written in sorted(replacements, reverse=True):
        text = text[:start] + written + text[end:]
    return text


def in_flow(value: JsonValue) -> str:
    """Return a value as YAML that may stand between braces too: DVC refuses `{uri: s3://…}` without quotes there."""
    return plain_yaml.inline([value])[1:-1]


def with_key(text: str, section: str, line: str) -> str | None:
    """Return ``text`` with ``line``, a key with its value, in ``section``, which is added if it is one of the top.

    An empty ``section`` is the file itself. None: a person must write the line, because the section is on one line.
    """
    node = _node(text, section) if section else None
    if node is None:
        return f"{text.rstrip()}\n\n" + (f"{section}:\n  {line}\n" if section else f"{line}\n")
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    first = node.value[0][0].start_mark
    return f"{text[: first.index]}{line}\n{' ' * first.column}{text[first.index :]}"


def without_key(text: str, section: str, key: str) -> tuple[str, str] | None:
    """Return ``text`` without a key of ``section``, and the line that the key had.

    None: a person must remove it, because the key or all else of the section is not on lines of its own.
    """
    node, value = _node(text, section), _node(text, f"{section}.{key}")
    if not isinstance(node, yaml.MappingNode) or node.flow_style or len(node.value) == 1:
        return None
    if value is None or value.start_mark.line != value.end_mark.line:
        return None
    lines = text.splitlines(keepends=True)
    line = lines.pop(value.start_mark.line).strip()
    return ("".join(lines), line) if line.startswith(f"{key}:") else None


def _node(text: str, path: str) -> yaml.Node | None:
    """Return the value at a path in ``text``; None if there is none."""
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in path.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((below for key, below in pairs if key.value == part), None)
    return node
