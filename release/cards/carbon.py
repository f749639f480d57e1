"""Computes the emissions of a training: its measured energy times the carbon intensity that people state.

No record knows where the electricity came from, so the front matter of docs/cards/model.md may say it:
``carbon: {g_per_kwh: 55, source: grid operator, mean of 2025}``. Without it, or without measured energy, nothing is
claimed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from checks.formats.energy import Energy
from checks.process.errors import EvidenceRefused

KEY = "carbon"


class _Stated(BaseModel, extra="forbid"):
    g_per_kwh: float = Field(ge=0, allow_inf_nan=False)
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Carbon(NamedTuple):
    """``g_per_kwh``: grams of CO2 equivalents for a kilowatt-hour, by ``source``. ``grams``: those of the training."""

    g_per_kwh: float
    source: str
    grams: float


def of(front: Mapping[str, Any], path: Path, energy: Energy | None) -> Carbon | None:
    """Return the emissions; None if nobody says how electricity was made, or energy was not measured.

    Raises EvidenceRefused if the front matter of ``path`` says it in another form.
    """
    if KEY not in front:
        return None
    try:
        stated = _Stated.model_validate(front[KEY], strict=True)
    except ValidationError:
        raise EvidenceRefused(
            f"{path}: {KEY} is {str(front[KEY])[:100]!r}",
            f"write {KEY}: {{g_per_kwh: NUMBER, source: where that number comes from}}, or leave it out",
        ) from None
    hours = energy.watt_hours if energy else None
    if hours is None:
        return None
    return Carbon(stated.g_per_kwh, stated.source, hours / 1000 * stated.g_per_kwh)
