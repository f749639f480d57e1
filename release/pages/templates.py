"""Renders Markdown from Jinja templates: the comment, the comparison of two records, the cards, and the page of data.

Markdown is the one form of these documents. GitHub and the Hugging Face Hub get it as it is, ``release.pages.html``
makes HTML of it, and ``release.cli.terminal`` makes text of it. So a fact is worded once, in a template.

In a template ``{{ value }}`` writes a whole number with thousands separators and text as a code span (``text.cell``);
fractions and None are errors. Everything else goes through one of the filters below, which escape or check. So text of
a row, a model or a branch cannot become markup because a template forgot to escape it.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from checks.evaluation import baselines
from checks.formats import energy
from checks.formats.evaluation_reports import Interval
from checks.process import distribution
from checks.process.errors import EvidenceRefused
from release.pages.figures import points, signed, typeset, whole
from release.pages.text import cell, prose, visible

_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/=&?+,;:#-]*)?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9 .-]{1,40}", re.ASCII)
_BARE = re.compile(r"(sha256:)?[0-9a-f]{7,64}", re.ASCII)


def sections(
    package: str, template: str, names: Iterable[str], values: Mapping[str, Any]
) -> dict[str, str]:
    """Return the Markdown of each macro ``NAME_section`` of a template, by name. Empty ones are left out."""
    texts = {name: render(package, template, f"{name}_section", values) for name in names}
    return {name: text for name, text in texts.items() if text}


def render(package: str, template: str, macro: str, values: Mapping[str, Any]) -> str:
    """Return the text of a macro, without surrounding blank lines."""
    module = environment(package).get_template(template).make_module(dict(values))
    return distribution.linked(re.sub(r"\n{3,}", "\n\n", getattr(module, macro)()).strip())


@functools.cache
def environment(package: str) -> Environment:
    """Return what renders the Markdown templates of ``package``, which may import those of this package."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("release.pages", "")]), autoescape=True,
        finalize=_safe(written), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # None of these filters makes text.
    kept = ("length", "list", "map", "min", "rejectattr", "selectattr", "sort", "sum", "unique")
    ours: dict[str, Callable[..., str]] = {
        "said": prose, "cell": cell, "bare": _bare, "address": address, "label": _label, "interval": _interval,
        "number": lambda value, how: signed(float(value), how), "points": points, "whole": whole, "value": _value,
        "percent": lambda value: f"{100 * value:.1f} %", "reason": lambda reason: prose(typeset(reason)),
        "words": lambda sentence: sentence.markdown, "short": lambda text: cell(text.removeprefix("sha256:")[:12]),
        "day": lambda at: format(at, "%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip
    made.filters = {name: made.filters[name] for name in kept} | {
        name: _safe(write) for name, write in ours.items()
    }
    models: dict[str, str] = {
        "main": "main",
        "production": "production",
        "best": "best release",
        "base": "base model",
    }
    made.globals["COUNTERS"] = energy.SAYS
    made.globals["NAMES"] = models | {
        str(name): name_of for name, name_of in baselines.NAMES.items()
    }
    return made


def _safe(write: Callable[..., str]) -> Callable[..., Markup]:
    """``write``, marked so that Jinja does not escape its text again."""
    return lambda *args: Markup(write(*args))  # noqa: S704  # what ``write`` is for


def written(value: object, of_text: Callable[[str], str] = cell) -> str:
    """The text of ``{{ value }}``: a whole number with separators, or what ``of_text`` makes of other text."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str | Path):
        return of_text(str(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    raise TypeError(f"{value!r}: the template does not say how to write it")


def _interval(interval: Interval, how: str) -> str:
    """An estimate and its bounds."""
    return (
        f"{signed(interval.value, how)} [{signed(interval.low, how)}, {signed(interval.high, how)}]"
    )


def _value(text: str, longest: int) -> str:
    """A parameter, or a digest, which is cut."""
    return cell(
        text[: len("sha256:") + 12]
        if text.startswith("sha256:") and _BARE.fullmatch(text)
        else text,
        longest,
    )


def _bare(text: str) -> str:
    """A digest or hash for a code block."""
    if _BARE.fullmatch(text):
        return text
    raise ValueError(f"{text!r}: is not a digest")


def address(url: str) -> str:
    """``url``, if it can be written into Markdown unchanged. Raises EvidenceRefused otherwise."""
    if len(url) <= 500 and _URL.fullmatch(url):
        return url
    raise EvidenceRefused(
        f"{visible(url.rpartition('@')[2], 80)}: is not a valid address in a comment",
        "give one that starts with https://, without a login, a space or a bracket",
    )


def _label(text: str) -> str:
    """The text of a link. Raises EvidenceRefused for characters outside those of a name."""
    if _LABEL.fullmatch(text):
        return text
    raise EvidenceRefused(
        f"{text!r}: is not a valid label of a link",
        "write letters, digits, spaces, dots and hyphens",
    )
