"""Renders a template as one page of HTML: nothing is loaded from elsewhere, so that it can be sent and read offline.

As in the comment's template (``release.review.sections``), a value is escaped however the template writes it:
``{{ value }}`` takes text and whole numbers alone. The page's policy allows its own script and style, by digest, and
nothing else: text of a row or a model that escaped all of this could neither run nor load anything.

A template extends ``frame.html.jinja`` and imports ``parts.html.jinja``.
"""

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as to_html

from checks.process.errors import MachineRefused
from checks.process.text import escape
from checks.storage import files
from release.pages import markdown
from release.pages.figures import signed, typeset, whole

ANSWERS = 2000  # cards that a browser on a phone still scrolls
_LONGEST = 4000  # characters of one text


def write(path: Path, page: str) -> None:
    """Write a page or another document. Raises MachineRefused if ``path`` cannot be written."""
    try:
        files.write_text(path, page)
    except OSError as error:
        raise MachineRefused(
            f"{path}: {error.strerror}", "name a file in a folder that you may write"
        ) from error


def render(
    package: str, template: str, looks: str = "page.css", acts: str = "search.js", **values: Any
) -> str:
    """The page that ``template``, a file of ``package``, makes of ``values``.

    ``looks`` and ``acts`` are its style sheet and script, of the same package or of this one.
    """
    style, script = (Markup(_own(package, name)) for name in (looks, acts))  # noqa: S704  # our own files
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_digest(style)}; "
        f"script-src {_digest(script)}"
    )
    return (
        _environment(package)
        .get_template(template)
        .render(style=style, script=script, policy=policy, **values)
    )


@functools.cache
def _environment(package: str) -> Environment:
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("release.pages", "")]), autoescape=True,
        finalize=_written, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    kept = ("length", "list", "selectattr", "sum", "map", "unique")  # none of them makes text
    ours: dict[str, Any] = {
        "number": lambda value, how: signed(float(value), how), "reason": typeset, "place": lambda at: f"{at:.2f}",
        "whole": whole, "text": _text, "title": str.capitalize,
        "short": lambda text: text.removeprefix("sha256:")[:12], "day": lambda at: format(at, "%Y-%m-%d %H:%M UTC"),
        "markdown": markdown.html,
    }  # fmt: skip
    made.filters = {name: made.filters[name] for name in kept} | ours
    return made


def _written(value: object) -> str:
    """The text of ``{{ value }}``, which Jinja escapes then."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    raise TypeError(f"{value!r}: the template does not say how to write it")


def _text(value: str) -> Markup:
    """A prompt or an answer: its lines stay, and it is cut if it is very long."""
    lines = "\n".join(map(escape, value[:_LONGEST].splitlines()))
    more = len(value) - _LONGEST
    return Markup("{}{}").format(
        to_html(lines), f" … {more:,} characters more, in --json" if more > 0 else ""
    )


def _own(package: str, name: str) -> str:
    files_ = [
        resources.files(package_name).joinpath(name) for package_name in (package, "release.pages")
    ]
    return next(file for file in files_ if file.is_file()).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
