"""Loader of prepare: examples in the help of the Azure CLI, read with ``ast`` and never executed.

In: a folder that holds the contents of ``azure/cli/command_modules``. Out: drafts of ``checks.rules``.

Two places hold examples. Every ``_help.py``: ``helps['…'] = '''YAML'''`` with a list ``examples`` of
``name`` and ``text`` (or ``command``). And ``:example:`` sections in the docstrings of command classes.
Help that is put together (f-strings, ``.format``, loops over literals) is resolved as far as the file alone
says; what it does not say stays as ``{placeholder}``. Where such help takes in a block of lines from elsewhere, the
line of ``source`` is near, not exact.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from checks.errors import DataRefused
from checks.params import AzureCli
from checks.rows import Message
from checks.rules import Draft, commands_in, service_of
from stages.loaders.static_text import line_of, texts_under

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster, and optional
_LARGEST = 4 << 20  # bytes of a file; the longest of Azure CLI has 0.7 MB, and its syntax tree takes 100 times as much
_FIELD = re.compile(r"^\s*:\w[\w -]*:")  # the next section of a docstring
_QUOTES = re.compile(rb"\"{3}|'{3}")
# The last word of a command that says what it does; every other word is "other".
ACTIONS = frozenset(
    [
        "add",
        "approve",
        "assign",
        "attach",
        "cancel",
        "check",
        "clear",
        "create",
        "deallocate",
        "delete",
        "detach",
        "disable",
        "download",
        "enable",
        "export",
        "get",
        "import",
        "invoke",
        "list",
        "move",
        "publish",
        "query",
        "reject",
        "remove",
        "renew",
        "reset",
        "restart",
        "restore",
        "run",
        "set",
        "show",
        "start",
        "stop",
        "test",
        "update",
        "upgrade",
        "upload",
        "validate",
        "wait",
    ]
)


def load(loader: AzureCli, folder: Path) -> list[Draft]:
    """All examples below ``folder``, ordered by path and line.

    Help that cannot be read (Python or YAML is malformed) is one draft with ``unreadable`` set, so
    that it is counted. Raises DataRefused when there is no example at all.
    """
    drafts: list[Draft] = []
    for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix()):
        if (size := path.stat().st_size) > _LARGEST:
            raise DataRefused(
                f"{path.relative_to(folder).as_posix()}: {size} bytes: files of help are at most {_LARGEST} bytes",
                "point data.uri at azure/cli/command_modules",
            )
        source = path.read_bytes()
        help_file = path.name == "_help.py"
        if not help_file and b":example:" not in source:
            continue
        name = path.relative_to(folder).as_posix()
        try:
            tree = ast.parse(source) if help_file else _parsed_docstrings(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None) or 1
            drafts.append(_draft(loader, f"{name}:{line}", "", "", unreadable=f"not Python: {error}"))
            continue
        lines = source.decode("utf-8", "replace").split("\n")
        if help_file:
            drafts.extend(_in_helps(loader, tree, name, lines))
        drafts.extend(_in_docstrings(loader, tree.body, name, lines))
    if not drafts:
        raise DataRefused(
            f"{folder}: no example in a _help.py or in the docstring of a command class",
            "point data.uri at azure/cli/command_modules, or use prepare.loader.kind: table",
        )
    return drafts


def _in_helps(loader: AzureCli, tree: ast.Module, name: str, lines: list[str]) -> Iterator[Draft]:
    for start, text in texts_under(tree, "helps"):
        if "examples" not in text:
            continue
        try:
            found = list(_examples(yaml.compose(_without_blocks(text), Loader=_Loader)))
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{name}:{line_of(lines, start, mark.line if mark else 0)}"
            yield _draft(loader, where, "", "", unreadable=f"not YAML: {getattr(error, 'problem', error)}")
            continue
        for offset, prompt, answer in found:
            yield _draft(loader, f"{name}:{line_of(lines, start, offset)}", prompt, answer)


def _without_blocks(text: str) -> str:
    """Blank the lines that are nothing but a placeholder: they stand for blocks of YAML that this file does not say."""
    return re.sub(r"^[ \t]*\{\w+\}[ \t]*$", "", text, flags=re.MULTILINE)


def _examples(node: yaml.Node | None) -> Iterator[tuple[int, str, str]]:
    """(Line offset, name, text) of each example of one command's help."""
    for key, listed in _pairs(node):
        if key != "examples" or not isinstance(listed, yaml.SequenceNode):
            continue
        for item in listed.value:
            fields = dict(_pairs(item))
            prompt, answer = (_scalar(fields.get(field)) for field in ("name", "text"))
            yield item.start_mark.line, prompt, answer or _scalar(fields.get("command"))


def _pairs(node: yaml.Node | None) -> list[tuple[str, yaml.Node]]:
    return [(str(key.value), value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _scalar(node: yaml.Node | None) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "\n".join(_scalar(item) for item in node.value)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _parsed_docstrings(source: bytes) -> ast.Module:
    """The file up to its last example: generated files are long, and their docstrings come first."""
    end = _QUOTES.search(source, source.rindex(b":example:"))
    try:
        return ast.parse(source[: end.end()] if end else source)
    except SyntaxError:  # the quotes were not the docstring's
        return ast.parse(source)


def _in_docstrings(loader: AzureCli, body: list[ast.stmt], name: str, lines: list[str]) -> Iterator[Draft]:
    for node in body:
        if not isinstance(node, ast.ClassDef):
            continue
        yield from _in_docstrings(loader, node.body, name, lines)
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        if not isinstance(doc := first.value.value, str):
            continue
        parts = doc.split("\n")
        starts = [i for i, line in enumerate(parts) if line.strip().startswith(":example:")]
        for start in starts:
            end = next((i for i in range(start + 1, len(parts)) if _FIELD.match(parts[i])), len(parts))
            prompt = parts[start].split(":example:", 1)[1].strip()
            answer = "\n".join(line.strip() for line in parts[start + 1 : end])
            yield _draft(loader, f"{name}:{line_of(lines, first.lineno, start)}", prompt, answer)


def _draft(loader: AzureCli, source: str, prompt: str, answer: str, unreadable: str | None = None) -> Draft:
    commands = commands_in(answer)
    command = commands[0] if commands else ""
    service = service_of(command)
    return Draft(
        before=(Message(role="system", content=loader.instruction),) if loader.instruction else (),
        prompt=prompt,
        reference=service if loader.task == "service" else command,
        answer=answer,
        slice=_action(command),
        source=source,
        service=service,
        unreadable=unreadable,
    )


def _action(command: str) -> str:
    """What a command does: the first part of the last of its words before the arguments that says an action."""
    words = re.search(r"\baz((?: [a-z][a-z0-9-]*)+)", command)
    for word in reversed(words[1].split() if words else []):
        if (action := word.split("-")[0]) in ACTIONS:
            return action
    return "other"
