"""YAML that is only data: no aliases, no tags, no dates out of the calendar; whatever is wrong is a YAMLError."""

import json
import re
from typing import Any

import yaml


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # libyaml's where it is built in
    """PyYAML's safe loader that reads ``1e-3`` as the number that YAML 1.2, and so DVC, takes it for."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(text: str) -> Any:
    """The plain value of ``text``."""
    return read(text)[1]


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes, which know their lines, and the plain value of ``text``. Raises YAMLError, marked where it can be.

    Aliases and explicit tags are refused: a few lines of them make values without end, or none at all.
    """
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise _marked("an alias: write the value out", event)
            if getattr(event, "tag", None) is not None:
                raise _marked("a tag: write the value plainly", event)
        node = yaml.compose(text, Loader=_Loader)
        _refuse_duplicates(node)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        json.dumps(value, ensure_ascii=False, default=str).encode()  # half a surrogate pair is no text
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, TypeError) as error:  # what the constructors and json raise
        raise yaml.YAMLError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return node, value


def _refuse_duplicates(node: yaml.Node | None) -> None:
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in current.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _marked("a key that is no text", key)
                if key.value in seen:
                    raise _marked(f"{key.value} is written twice: keep one of the two", key)
                seen.add(key.value)
                pending.append(value)
        elif isinstance(current, yaml.SequenceNode):
            pending.extend(current.value)


def _marked(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """``at``: a node or an event, which know where they start."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
