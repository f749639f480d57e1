"""The text that a Python file assigns to ``name['…']``, found in its syntax tree without running it.

Statements are followed in order: both branches of an ``if``, a loop over literals once for each literal, any other loop
once. A value that the file alone does not determine becomes the placeholder ``{expression}``.
"""

import ast
import string
from collections.abc import Callable, Iterable, Iterator, Sequence

_METHODS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "strip": str.strip,
    "capitalize": str.capitalize,
}
Scope = dict[str, str]


def texts_under(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    """(Line, text) of every string assigned to a subscript of ``name``."""
    yield from _follow(tree.body, name, {})


def line_of(source: Sequence[str], start: int, offset: int) -> int:
    """The line of the file with line ``offset`` of a string that starts on line ``start`` (from 1).

    A line of the file that ends in one backslash continues in the next; a written ``\\n`` starts a new line of the
    string.
    """
    for line in range(start, len(source) + 1):
        text = source[line - 1].replace("\\\\", "")
        offset -= text.count("\\n") + (not text.endswith("\\"))
        if offset < 0:
            return line
    return start


def _follow(body: Iterable[ast.stmt], name: str, scope: Scope) -> Iterator[tuple[int, str]]:
    for statement in body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            text = _text(statement.value, scope) if statement.value is not None else None
            for target in targets:
                if isinstance(target, ast.Name):
                    scope.pop(target.id, None)
                    if text is not None:
                        scope[target.id] = text
                elif _is_under(target, name) and text is not None and statement.value is not None:
                    yield statement.value.lineno, text
        elif isinstance(statement, ast.For):
            yield from _loop(statement, name, scope)
        elif isinstance(statement, ast.If | ast.While | ast.With | ast.Try):
            for part in ("body", "handlers", "orelse", "finalbody"):
                inner = getattr(statement, part, [])
                for block in [h.body for h in inner] if part == "handlers" else [inner]:
                    yield from _follow(block, name, scope)


def _loop(loop: ast.For, name: str, scope: Scope) -> Iterator[tuple[int, str]]:
    rounds: list[str | None] = [None]
    if isinstance(loop.target, ast.Name):
        scope.pop(loop.target.id, None)
        if isinstance(loop.iter, ast.List | ast.Tuple | ast.Set):
            known = [_text(item, scope) for item in loop.iter.elts]
            rounds = list(known) if all(value is not None for value in known) else rounds
    for value in rounds:
        if value is not None and isinstance(loop.target, ast.Name):
            scope[loop.target.id] = value
        yield from _follow(loop.body, name, scope)


def _is_under(target: ast.expr, name: str) -> bool:
    return (
        isinstance(target, ast.Subscript)
        and isinstance(target.value, ast.Name)
        and target.value.id == name
    )


def _text(node: ast.expr, scope: Scope) -> str | None:
    """The string value of ``node``; None if it is not a string or the file does not determine it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.FormattedValue) else p for p in node.values]
        return "".join(_or_placeholder(part, scope) for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left, scope), _text(node.right, scope)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.IfExp):  # text that is there in one case only counts as there
        return _text(node.body, scope) or _text(node.orelse, scope)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        template = _text(node.func.value, scope)
        if template is not None and node.func.attr == "format":
            return _formatted(template, node, scope)
        if template is not None and not node.args and node.func.attr in _METHODS:
            return _METHODS[node.func.attr](template)
    return None


def _or_placeholder(node: ast.expr, scope: Scope) -> str:
    known = _text(node, scope)
    if known is not None:
        return known
    return str(node.value) if isinstance(node, ast.Constant) else "{" + ast.unparse(node) + "}"


def _formatted(template: str, call: ast.Call, scope: Scope) -> str:
    """``template.format(…)`` with the known arguments; the others remain placeholders."""
    known: dict[str, str | None] = {
        str(i): _text(value, scope) for i, value in enumerate(call.args)
    }
    known |= {keyword.arg: _text(keyword.value, scope) for keyword in call.keywords if keyword.arg}
    unnamed, parts = 0, []
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError:  # not a template after all: what was written is all there is
        return template
    for literal, field, _, _ in fields:
        parts.append(literal)
        if field is None:
            continue
        if field == "":
            field, unnamed = str(unnamed), unnamed + 1
        value = known.get(field)
        parts.append("{" + field + "}" if value is None else value)
    return "".join(parts)
