"""What renders Markdown from Jinja templates: of the pull request's comment, and of the cards.

In a template ``{{ value }}`` writes a whole number with thousands separators and text as a code span (``text.cell``);
fractions and None are errors. Everything else goes through one of the filters below, which escape or check. So text of
a row, a model or a branch cannot become markup because a template forgot to escape it.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from checks.errors import EvidenceRefused
from checks.evaluation import baselines
from checks.formats import energy
from checks.formats.evaluation_reports import Interval
from release.pages.figures import points, signed, typeset
from release.review.text import cell, prose, visible

_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/=&?+,;:#-]*)?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9 .-]{1,40}", re.ASCII)
_BARE = re.compile(r"(sha256:)?[0-9a-f]{7,64}", re.ASCII)


@functools.cache
def environment(package: str) -> Environment:
    """What renders the Markdown templates of ``package``: values are written as the docstring of this module says."""
    made = Environment(
        loader=PackageLoader(package, ""), autoescape=True, finalize=_safe(_written),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    kept = ("length", "list", "min", "selectattr", "rejectattr", "sort")  # none of them makes text
    ours: dict[str, Callable[..., str]] = {
        "said": prose, "cell": cell, "code": lambda parts: cell(" ".join(parts)), "paragraph": _paragraph,
        "bare": _bare, "address": address, "label": _label, "number": lambda value, how: signed(float(value), how),
        "interval": _interval,
        "words": lambda sentence: sentence.markdown, "points": points, "percent": lambda value: f"{100 * value:.1f} %",
        "reason": lambda reason: prose(typeset(reason)),
    }  # fmt: skip
    made.filters = {name: made.filters[name] for name in kept} | {name: _safe(each) for name, each in ours.items()}
    models: dict[str, str] = {"main": "main", "production": "production", "best": "best release", "base": "base model"}
    made.globals["COUNTERS"] = energy.SAYS
    made.globals["NAMES"] = models | {str(name): said for name, said in baselines.NAMES.items()}
    return made


def _safe(write: Callable[..., str]) -> Callable[..., Markup]:
    """``write``, marked so that Jinja does not escape its text again."""
    return lambda *args: Markup(write(*args))  # noqa: S704  # what ``write`` is for


def _written(value: object) -> str:
    """The text of ``{{ value }}``."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str | Path):
        return cell(str(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    raise TypeError(f"{value!r}: the template does not say how to write it")


def _interval(found: Interval, how: str) -> str:
    """An estimate and its bounds."""
    return f"{signed(found.value, how)} [{signed(found.low, how)}, {signed(found.high, how)}]"


def _paragraph(text: str) -> str:
    """Several lines of the template joined into one."""
    if not isinstance(text, Markup):
        raise TypeError("only what is escaped already makes a paragraph")
    return f"{' '.join(text.split())}\n\n"


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
        f"{text!r}: is not a valid label of a link", "write letters, digits, spaces, dots and hyphens"
    )
