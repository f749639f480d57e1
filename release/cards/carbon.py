"""Emissions of a training: its measured energy times the carbon intensity that people state, with its source.

No record knows where the electricity came from, so the front matter of docs/cards/model.md may say it:
``carbon: {g_per_kwh: 55, source: grid operator, mean of 2025}``. Without it, or without measured energy, nothing is
claimed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.errors import EvidenceRefused
from checks.formats.energy import Energy

KEY = "carbon"


class Carbon(NamedTuple):
    """``g_per_kwh``: grams of CO2 equivalents for a kilowatt-hour, by ``source``. ``grams``: those of the training."""

    g_per_kwh: float
    source: str
    grams: float


def of(front: Mapping[str, Any], where: Path, energy: Energy | None) -> Carbon | None:
    """What was emitted; None if nobody says how electricity was made, or energy was not measured.

    Raises EvidenceRefused if the front matter of ``where`` says it in another form.
    """
    if KEY not in front:
        return None
    said = front[KEY]
    each, source = (said.get("g_per_kwh"), said.get("source")) if isinstance(said, dict) else (None, None)
    is_number = isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) and each >= 0
    if not is_number or not isinstance(source, str) or not source.strip() or set(said) != {"g_per_kwh", "source"}:
        raise EvidenceRefused(
            f"{where}: {KEY} is {str(said)[:100]!r}",
            f"write {KEY}: {{g_per_kwh: NUMBER, source: where that number comes from}}, or leave it out",
        )
    hours = energy.watt_hours if energy else None
    intensity = float(each or 0)
    return None if hours is None else Carbon(intensity, source.strip(), hours / 1000 * intensity)
