"""The comment's sections, rendered from comment.md.jinja with automatic escaping.

In the template ``{{ value }}`` writes a whole number with thousands separators and text as a code span (``text.cell``);
fractions and None are errors. Everything else goes through one of the filters below, which escape or check. So text of
a row, a model or a branch cannot become markup because the template forgot to escape it.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from checks import layout
from checks.errors import EvidenceRefused
from checks.evaluation import baselines
from checks.formats import energy
from checks.gating import chain
from release.record.records import Records
from release.review import details, exported, metrics, training, verdicts
from release.review.facts import Facts
from release.review.text import cell, prose, visible

# In the comment's order. If there is no room, the section with the lower number is left out first.
_KEEP = {
    "verdict": 100, "gates": 90, "policy": 92, "parameters": 80, "flips": 50, "metrics": 95, "exported": 75,
    "slices": 30, "data": 60, "training": 40, "places": 45, "reproduce": 70, "digests": 35,
}  # fmt: skip
_SHOWN_AT_FIRST = 4  # changed parameters
_KEEP_BAD_DATA = {"verdict": 100, "data": 88}  # it refused the data: that comes first
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/=&?+,;:#-]*)?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9 .-]{1,40}", re.ASCII)
_BARE = re.compile(r"(sha256:)?[0-9a-f]{7,64}", re.ASCII)


class Section(NamedTuple):
    name: str
    markdown: str
    keep: int


def sections(
    records: Records, facts: Facts, links: Sequence[tuple[str, str]], images: Mapping[str, str], number: int | None
) -> list[Section]:
    """Every section that is not empty. Raises EvidenceRefused for a link that cannot be written safely.

    ``links``: labels and addresses. ``images``: plots whose address was checked. ``number``: of the pull request.
    """
    compared, suites, uncompared = metrics.compared(facts), metrics.suites(facts), metrics.uncompared(facts)
    values = {
        "facts": facts, "links": links, "images": images, "number": number, "layout": layout,
        "outcome": verdicts.outcome(facts, uncompared), "who": verdicts.who(facts),
        "machine_refused": verdicts.machine_refused(facts), "failing": verdicts.failing(facts),
        "evaluation": facts.evaluation, "compared": compared, "scorer": next(iter(compared), ""),
        "of_main": metrics.of_main(facts), "failed_expectations": details.failed_expectations(facts),
        "against": metrics.against(facts), "on_valid": metrics.on_valid(facts), "look": metrics.look(facts),
        "uncompared": uncompared, "slices": metrics.slices(facts), "suites": suites,
        "export": exported.export(facts), "quantised": exported.table(facts, compared, suites),
        "cheapest": metrics.cheapest(facts), "splits": details.splits(facts), "shown_at_first": _SHOWN_AT_FIRST,
        "parameters": details.parameters(facts), "recipe": details.recipe(records, facts),
        "flips": details.flips(facts),
        "columns": details.columns, "shown": details.shown, "short": chain.short, "losses": training.loss(records.root),
        "sparkline": training.sparkline, "confusions": training.confusions(records.root),
        "cost": training.cost(facts, records), "figures": training.figures(facts), **training.rewards(facts),
    }  # fmt: skip
    keep = _KEEP_BAD_DATA | _KEEP | _KEEP_BAD_DATA if facts.state == "bad-data" else _KEEP
    found = [Section(name, render(f"{name}_section", values), number) for name, number in keep.items()]
    return [each for each in found if each.markdown]


def left_out(names: Sequence[str]) -> Section:
    """The note that replaces sections for which there is no room."""
    return Section("left-out", render("left_out_section", {"names": names}), 0)


def render(macro: str, values: Mapping[str, Any]) -> str:
    """The text of a macro of the template, without surrounding blank lines."""
    text = getattr(template().make_module(dict(values)), macro)()
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def template() -> Template:
    return environment("release.review").get_template("comment.md.jinja")


@functools.cache
def environment(package: str) -> Environment:
    """What renders the Markdown templates of ``package``: values are written as the docstring above says."""
    made = Environment(
        loader=PackageLoader(package, ""), autoescape=True, finalize=_safe(_written),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    kept = ("length", "list", "min", "selectattr", "rejectattr", "sort")  # none of them makes text
    ours: dict[str, Callable[..., str]] = {
        "said": prose, "cell": cell, "code": lambda parts: cell(" ".join(parts)), "paragraph": _paragraph,
        "bare": _bare, "address": address, "label": _label, "number": lambda value, how: format(float(value), how),
        "interval": lambda found, how: f"{found.value:{how}} [{found.low:{how}}, {found.high:{how}}]",
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
