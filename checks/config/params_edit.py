"""Writes single values into the text of params.yaml, and leaves its comments and its order as they are."""

from collections.abc import Mapping

import yaml
from pydantic import JsonValue

from checks.process.errors import ParamsRefused


def with_values(text: str, values: Mapping[str, JsonValue]) -> str:
    """Return ``text`` with ``values``, by the path of each parameter.

    Raises ParamsRefused if a parameter is not in the text.
    """
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    replacements = []
    for path, value in values.items():
        node = document
        for part in path.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((below for key, below in pairs if key.value == part), None)
        if node is None:
            raise ParamsRefused(
                f"params.yaml: does not write {path}", f"add it by hand, as {value!r}"
            )
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            raise ParamsRefused(
                f"params.yaml: {path} is written over several lines",
                f"change it by hand, to {value!r}",
            )
        written = (
            yaml.safe_dump(value, default_flow_style=True, width=10_000)
            .removesuffix("\n")
            .removesuffix("\n...")
        )
        replacements.append((node.start_mark.index, node.end_mark.index, written))
    for start, end, written in sorted(replacements, reverse=True):
        text = text[:start] + written + text[end:]
    return text
