"""Adds the generated parts of docs/reference to the site: commands, parameters, kinds of gate.

MkDocs calls ``on_page_markdown`` for each page (`hooks` of .ci/mkdocs.yml). The line ``<!-- generated: NAME -->`` of a
page becomes the part of this name. Commands come from click, parameters and gates from the JSON Schema of params.yaml.

    .venv/bin/python .ci/reference.py            write docs/release.schema.json and docs/audit.schema.json
"""

import functools
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import click

from checks.config import params_file
from checks.formats import statement
from release.cards import audit_index
from release.cli import main

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r"<!-- generated: ([a-z-]+) -->")
LONG = 8  # names in a list; a longer one is named by its length, and its page lists it

Schema = dict[str, Any]


def commands() -> Iterator[str]:
    """Yield the lines of every command: what it does, how it is called, its options."""
    yield from _command(main, None, "lockstep")


def tasks() -> Iterator[str]:
    """Yield the commands by the section of `lockstep --help` that lists them."""
    for title, names in main.sections().items():
        yield f"\n**{title}**\n"
        for name in names:
            yield f"* [`lockstep {name}`](#lockstep-{name}): {_prose(main.sentence(name))}"


def parameters() -> Iterator[str]:
    """Yield every section of params.yaml with its keys. The kinds of gate have a page of their own."""
    for name, node in _schema()["properties"].items():
        if name != "gates":
            yield f"\n## `{name}`\n"
            yield from _section(_resolved(node), f"{name}.")
            for named in node.get("patternProperties", {}).values():
                yield from _kinds(named, "### kind `{kind}`", f"{name}.NAME.")


def gates() -> Iterator[str]:
    """Yield every kind of gate with its keys."""
    (named,) = _schema()["properties"]["gates"]["patternProperties"].values()
    yield from _kinds(named, "### `{kind}`")


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "tasks": tasks,
    "commands": commands,
    "parameters": parameters,
    "gate-kinds": gates,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page's text with its generated parts. Raises KeyError for a name that is not in PARTS."""
    return PART.sub(_part, markdown)


def _part(marker: re.Match[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(PARTS[marker[1]]())).strip("\n")


# --- commands ----------------------------------------------------------------------------------------------------


def _command(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    yield f"\n## `{context.command_path}`\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield _prose(paragraph) + "\n"
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    records = [
        param.get_help_record(context)
        for param in command.params
        if isinstance(param, click.Option)
    ]
    if records:
        yield from _table("option", "meaning")
        yield from (_row(f"`{record[0]}`", _prose(record[1])) for record in records if record)
    if isinstance(command, click.Group):
        for subname in command.list_commands(context):
            if subcommand := command.get_command(context, subname):
                yield from _command(subcommand, context, subname)


# --- parameters --------------------------------------------------------------------------------------------------


@functools.cache
def _schema() -> Schema:
    return params_file.schema()


def _resolved(node: Schema) -> Schema:
    """Return the definition that a node refers to. The node's own words and default win."""
    if "$ref" not in node:
        return node
    definition: Schema = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return definition | {key: value for key, value in node.items() if key != "$ref"}


def _section(node: Schema, prefix: str) -> Iterator[str]:
    """Yield a section's words, one table of all its keys, and the kinds of whatever has kinds."""
    yield _paragraphs(node)
    if "discriminator" in node:
        tag = node["discriminator"]["propertyName"]
        shared = _shared(node)
        yield f"\nEvery {tag} has these keys:\n"
        yield from _table("key", "value", "meaning")
        yield from _keys(
            {"properties": shared, "required": _resolved(node["oneOf"][0])["required"]}, prefix
        )
        yield from _kinds(node, f"### {tag} `{{kind}}`", prefix, shared)
    elif "oneOf" in node:  # the section in one of several forms, the first of which has kinds
        first, *others = map(_resolved, node["oneOf"])
        yield from _section(first, prefix)
        shared = _shared(first).keys() | _resolved(first["oneOf"][0])["properties"].keys() - {
            "method"
        }
        for form in others:
            yield f"\n### {prefix.rstrip('.')} in {form['title'].lower()}\n"
            own = {name: value for name, value in form["properties"].items() if name not in shared}
            yield from _section(form | {"properties": own}, prefix)
    elif "anyOf" in node:  # or null
        yield ""
        yield from _table("key", "value", "meaning")
        yield from _keys(_resolved(node["anyOf"][0]), prefix)
    if "properties" in node:
        yield from _table("key", "value", "meaning")
        yield from _keys(node, prefix)
        for name, kinds in _with_kinds(node, prefix):
            yield from _kinds(kinds, f"### `{name}`, kind `{{kind}}`")


def _keys(node: Schema, prefix: str) -> Iterator[str]:
    required = node.get("required", ())
    for name, value in node["properties"].items():
        key = f"{prefix}{name}"
        definition = _resolved(value)
        optional = "" if name in required else "; optional" + _default(definition)
        meaning = definition.get("description", "").partition("\n\n")[0]
        yield _row(f"`{key}`", _value(definition) + optional, _prose(meaning))
        section, section_prefix = _below(definition, key)
        if section:
            yield from _keys(section, section_prefix)


def _below(node: Schema, key: str) -> tuple[Schema | None, str]:
    """Return the section below a key, or below each of its names, and the prefix of the section's keys."""
    for choice in (node, *map(_resolved, _choices(node))):
        if "properties" in choice:
            return choice, f"{key}."
        more = choice.get("additionalProperties")
        for named in [
            *choice.get("patternProperties", {}).values(),
            *([more] if isinstance(more, dict) else []),
        ]:
            if "properties" in _resolved(named):
                return _resolved(named), f"{key}.NAME."
    return None, ""


def _with_kinds(node: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    for name, value in node["properties"].items():
        definition = _resolved(value)
        definition = definition.get("items", definition)
        if "discriminator" in definition:
            yield f"{prefix}{name}", definition
        elif "properties" in definition:
            yield from _with_kinds(definition, f"{prefix}{name}.")


def _shared(node: Schema) -> Schema:
    """Return the keys that are the same in every kind."""
    first, *others = map(_resolved, node["oneOf"])
    return {
        name: value
        for name, value in first["properties"].items()
        if all(other["properties"].get(name) == value for other in others)
    }


def _kinds(
    node: Schema, heading: str, prefix: str = "", without: Collection[str] = ()
) -> Iterator[str]:
    for kind in map(_resolved, node["oneOf"]):
        tag = kind["properties"][node["discriminator"]["propertyName"]]["const"]
        yield f"\n{heading.format(kind=tag)}\n"
        own = {name: value for name, value in kind["properties"].items() if "const" not in value}
        rest = {name: value for name, value in own.items() if name not in without}
        yield from _section({key: value for key, value in kind.items() if key != "properties"}, "")
        if rest:
            yield from _table("key", "value", "meaning")
            yield from _keys(kind | {"properties": rest}, prefix)
            for name, kinds in _with_kinds({"properties": rest}, prefix):
                yield from _kinds(kinds, f"### `{name}`, kind `{{kind}}`", f"{name}.")


def _choices(node: Schema) -> list[Schema]:
    """Return the forms of a value that has several. A section with kinds has one form."""
    several = "anyOf" if "anyOf" in node or "discriminator" in node else "oneOf"
    return list(node.get(several, ()))


def _value(node: Schema) -> str:
    """Describe the values of a key in words."""
    node = _resolved(node)
    if choices := _choices(node):
        return " or ".join(map(_value, choices))
    if "oneOf" in node:
        return f"a section with `kind`: {_names(node['discriminator']['mapping'])}"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return _names(node["enum"])
    kind = node.get("type")
    if kind == "array":
        items = _value(node.get("items", {}))
        return f"list, each {items}" if items != "text" else "list of text"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(node)
    if kind == "object":
        return "section" if "properties" in node else "section of names"
    return {"string": "text", "boolean": "`true` or `false`", "null": "`null`"}.get(
        str(kind), "anything"
    )


def _names(names: Any) -> str:
    listed = [f"`{name}`" for name in names]
    if len(listed) > LONG:
        return f"one of {len(listed)} names"
    return " or ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))


def _bounds(node: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return (" " + ", ".join(bounds)) if bounds else ""


def _default(node: Schema) -> str:
    default = node.get("default")
    return (
        "" if default is None or isinstance(default, dict) else f", else `{str(default).lower()}`"
    )


def _paragraphs(node: Schema) -> str:
    return "\n\n".join(map(_prose, node.get("description", "").split("\n\n"))) + "\n"


# --- Markdown ----------------------------------------------------------------------------------------------------


def _prose(text: str) -> str:
    """Return text on one line, with Markdown and HTML outside of code escaped."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    return "".join(
        part if part[:1] == "`" else part.replace("<", "&lt;").replace("*", r"\*") for part in parts
    )


def _table(*columns: str) -> tuple[str, str]:
    return _row(*columns), _row(*("---" for _ in columns))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    for name, schema in (("release", statement.schema()), ("audit", audit_index.schema())):
        path = ROOT / "docs" / f"{name}.schema.json"
        path.write_text(json.dumps(schema, indent=2) + "\n")
