"""Defines the facts of the cards of a model and of its data.

Figures come from a record alone (``card_record`` reads it). Prose comes from files that people own:
``docs/cards/model.md`` and ``docs/cards/data.md``, with front matter that may say what no record knows.

Emissions of a training are its measured energy times the carbon intensity that people state in the front matter:
``carbon: {g_per_kwh: 55, source: grid operator, mean of 2025}``. Without it, or without measured energy, nothing is
claimed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from checks.config.params import Params
from checks.formats import placeholder_cards
from checks.formats.data_reports import DataReport, FetchReport, PrepareReport
from checks.formats.energy import Energy
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.placeholder_cards import DATA as DATA
from checks.formats.placeholder_cards import MODEL as MODEL
from checks.formats.suite_report import SuitesReport
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused
from checks.storage import plain_yaml
from release.cards.production import Production
from release.review import kept_abilities

SECTIONS = {
    MODEL: ("Intended use", "Limits"),
    DATA: ("Where it comes from", "Limits"),
}
CATALOGUE = ("creator", "url", "date_published", "cite_as")  # Only croissant.json has these.
# The key of what people state about the electricity of a training.
CARBON = "carbon"
_SAYS = {  # keys of the front matter
    MODEL: ("language", "tags", CARBON),
    DATA: ("language", "tags", "pretty_name", *CATALOGUE),
}
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


class _Stated(BaseModel, extra="forbid"):
    g_per_kwh: float = Field(ge=0, allow_inf_nan=False)
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Carbon(NamedTuple):
    """``g_per_kwh``: grams of CO2 equivalents for a kilowatt-hour, by ``source``. ``grams``: those of the training."""

    g_per_kwh: float
    source: str
    grams: float


class Prose(NamedTuple):
    """The words of people: ``front`` for the metadata, ``text`` for the card."""

    front: Mapping[str, Any]
    text: str


class CardFacts(NamedTuple):
    """``version`` None: the work tree. ``digests``: the reports that the figures come from, by path.

    ``sizes``: bytes of each split's file, by its name. Empty for a release: its record has no sizes of splits.
    """

    name: str
    version: str | None
    image: str | None
    license: str | None
    params: Params
    fetch: FetchReport
    prepare: PrepareReport
    data: DataReport
    train: TrainReport
    took: TrainMeasured | None
    evaluation: EvaluationReport
    suites: SuitesReport | None
    verdict: Verdict
    digests: Mapping[str, str]
    sizes: Mapping[str, int]
    model_prose: Prose
    data_prose: Prose
    carbon: Carbon | None
    production: Production

    @property
    def kept(self) -> list[kept_abilities.Kept]:
        """Each metric of its suites beside the base, with the loss that a gate allows."""
        return list(kept_abilities.of_report(self.suites, self.verdict))


def prose(path: Path, data: bytes | None) -> Prose:
    """Return what people wrote at ``path``.

    Raises EvidenceRefused if it lacks a section, still has a placeholder, or says what the record says.
    """
    wanted = " and ".join(f"`## {section_name}`" for section_name in SECTIONS[path])
    todo = f"write {path} with the sections {wanted}, and commit it"
    if data is None:
        raise EvidenceRefused(f"{path}: is missing: a card needs words of a person", todo)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvidenceRefused(f"{path}: is not UTF-8", todo) from error
    placeholder_cards.check({path: data})
    front: Any = {}
    if match := _FRONT.match(text):
        try:
            front = plain_yaml.load(match[1]) or {}
        except (ValueError, yaml.YAMLError) as error:
            raise EvidenceRefused(
                f"{path}: {str(error).splitlines()[0]}", "fix its front matter"
            ) from error
        text = text[match.end() :]
    known = _SAYS[path]
    if not isinstance(front, dict) or (others := sorted(map(str, front.keys() - set(known)))):
        keys = ", ".join(others) if isinstance(front, dict) else "no mapping"
        raise EvidenceRefused(
            f"{path}: its front matter has {keys}",
            f"keep {', '.join(known)}: the rest comes from the record",
        )
    for section in SECTIONS[path]:
        body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        if body is None or not body[1].strip():
            raise EvidenceRefused(f"{path}: has no section `## {section}` with text", todo)
    return Prose(front, text.strip())


def carbon_of(front: Mapping[str, Any], path: Path, energy: Energy | None) -> Carbon | None:
    """Return the emissions; None if nobody says how electricity was made, or energy was not measured.

    Raises EvidenceRefused if the front matter of ``path`` says it in another form.
    """
    if CARBON not in front:
        return None
    try:
        stated = _Stated.model_validate(front[CARBON], strict=True)
    except ValidationError:
        raise EvidenceRefused(
            f"{path}: {CARBON} is {str(front[CARBON])[:100]!r}",
            f"write {CARBON}: {{g_per_kwh: NUMBER, source: where that number comes from}}, or leave it out",
        ) from None
    hours = energy.watt_hours if energy else None
    if hours is None:
        return None
    return Carbon(stated.g_per_kwh, stated.source, hours / 1000 * stated.g_per_kwh)
