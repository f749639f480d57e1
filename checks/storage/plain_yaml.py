"""YAML that is only data: no aliases, merge keys, tags or invalid dates. Any fault raises YAMLError."""

import json
import re
from typing import Any

import yaml

_TEXT, _LIST, _MAPPING = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


# libyaml's where it is built in
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # mypy knows no class by a call
    """PyYAML's safe loader, but as in YAML 1.2 and DVC ``1e-3`` is a number and ``=`` a text."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """The tag of a node that has none. As PyYAML does, but asks for no resolvers by path: there are none."""
        if kind is not yaml.ScalarNode:
            return _LIST if kind is yaml.SequenceNode else _MAPPING
        if implicit[0]:
            for tag, pattern in self.yaml_implicit_resolvers.get(value[:1], ()):
                if pattern.match(value):
                    return str(tag)
        return _TEXT

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does, but for what its constructors raise: that is an error at the line of ``node``."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _marked(str(error) or type(error).__name__, node) from error


_Loader.yaml_implicit_resolvers = {
    k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# In YAML 1.2 this is a text, and kustomize writes it without quotes.
_Loader.yaml_implicit_resolvers.pop("=")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Also quotes texts that are numbers in YAML 1.2: a hash of digits and one e, an octal."""


_Dumper.yaml_implicit_resolvers = {
    key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^0o[0-7]+$"),
    list("-+.0123456789"),
)


def dump(value: Any) -> str:
    """Plain values as YAML that ``load``, kustomize and every other reader understand alike."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    if all(c.isprintable() or c == "\n" for c in text):
        return text
    # PyYAML would lose a line break of Unicode that is written as it stands.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)


def inline(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def load(text: str) -> Any:
    """The plain value of ``text``."""
    return read(text)[1]


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes, which know their lines, and the plain value of ``text``. Raises YAMLError, with the place if known.

    Aliases and explicit tags are refused, because a few lines of them can produce huge or invalid values. Merge keys
    are refused, because PyYAML and kustomize resolve them differently.
    """
    try:
        if "*" in text or "!" in text:  # no alias and no tag is written without one of these
            for event in yaml.parse(text, Loader=_Loader):
                if isinstance(event, yaml.AliasEvent):
                    raise _marked("an alias: write the value out", event)
                if getattr(event, "tag", None) is not None:
                    raise _marked("a tag: write the value plainly", event)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else _plain(loader, node)
        finally:
            loader.dispose()
        json.dumps(
            value, ensure_ascii=False, default=str
        ).encode()  # half a surrogate pair is not text
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (
        ValueError,
        TypeError,
    ) as error:  # Raised by json, and by the reader of bytes that are no text.
        raise yaml.YAMLError(
            str(error).splitlines()[0] if str(error) else type(error).__name__
        ) from error
    return node, value


def _plain(loader: _Loader, node: yaml.Node) -> Any:
    """The value of ``node``. Checks that each key is text, is written once, and means what it says.

    PyYAML's own constructors of lists and mappings also serve aliases and merge keys, at twice the time.
    """
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.tag == _TEXT else loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, node_of_item) for node_of_item in node.value]
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _marked("a key that is not text", key)
        if key.value == "<<":  # In quotes it is text, until a tool writes it again.
            raise _marked("<<: a merge key: write the keys out", key)
        if key.value in seen:
            raise _marked(f"{key.value} is written twice: keep one of the two", key)
        seen.add(key.value)
    return {
        "=" if key.value == "=" else _plain(loader, key): _plain(loader, value)
        for key, value in node.value
    }


def _marked(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """An error at the start of ``at``, a node or event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
