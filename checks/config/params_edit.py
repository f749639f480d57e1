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
        replacements.append((node.start_mark.index, node.end_mark.index, plain_yaml.inline(value)))
    for start, end, written in sorted(replacements, reverse=True):
        text = text[:start] + written + text[end:]
    return text


def with_key(text: str, section: str, line: str) -> str | None:
    """Return ``text`` with ``line``, a key with its value, in ``section``, which is added if it is one of the top.

    An empty ``section`` is the file itself. None: a person must write the line there.
    """
    if not section:
        return f"{text.rstrip()}\n\n{line}\n"
    node = _node(text, section)
    if node is None and "." not in section:
        return f"{text.rstrip()}\n\n{section}:\n  {line}\n"
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return None
    first = node.value[0][0].start_mark
    between = f"\n{' ' * first.column}"
    if node.flow_style:
        line, between = line.partition(" #")[0], ", "
    return text[: first.index] + line + between + text[first.index :]


def without_key(text: str, section: str, key: str) -> tuple[str, str] | None:
    """Return ``text`` without a key of ``section``, and the line that the key had.

    None: a person must remove it, because nothing else is in the section, or the value has several lines.
    """
    node = _node(text, section)
    if not isinstance(node, yaml.MappingNode):
        return None
    pairs = node.value
    names = [name.value for name, _ in pairs]
    if key not in names or len(pairs) == 1:
        return None
    place = names.index(key)
    name, value = pairs[place]
    if name.start_mark.line != value.end_mark.line:
        return None
    start, end = name.start_mark.index, value.end_mark.index
    if not node.flow_style:
        end = text.find("\n", end) + 1 or len(text)
        begin = text.rfind("\n", 0, start) + 1
        return text[:begin] + text[end:], text[start:end].rstrip()
    begin, after = start, end
    if place:
        begin = pairs[place - 1][1].end_mark.index
    else:
        after = pairs[1][0].start_mark.index
    if "#" in text[begin:after]:
        return None
    return text[:begin] + text[after:], text[start:end]


def _node(text: str, path: str) -> yaml.Node | None:
    """Return the value at a path in ``text``; None if there is none."""
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in path.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((below for key, below in pairs if key.value == part), None)
    return node
