"""Computes the emissions of a training: its measured energy times the carbon intensity that people state.

No record knows where the electricity came from, so the front matter of docs/cards/model.md may say it:
``carbon: {g_per_kwh: 55, source: grid operator, mean of 2025}``. Without it, or without measured energy, nothing is
claimed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.formats.energy import Energy
from checks.process.errors import EvidenceRefused

KEY = "carbon"


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
    stated = front[KEY]
    grams, source = (
        (stated.get("g_per_kwh"), stated.get("source"))
        if isinstance(stated, dict)
        else (None, None)
    )
    is_number = (
        isinstance(grams, int | float)
        and not isinstance(grams, bool)
        and math.isfinite(grams)
        and grams >= 0
    )
    if (
        not is_number
        or not isinstance(source, str)
        or not source.strip()
        or set(stated) != {"g_per_kwh", "source"}
    ):
        raise EvidenceRefused(
            f"{path}: {KEY} is {str(stated)[:100]!r}",
            f"write {KEY}: {{g_per_kwh: NUMBER, source: where that number comes from}}, or leave it out",
        )
    hours = energy.watt_hours if energy else None
    intensity = float(grams or 0)
    return None if hours is None else Carbon(intensity, source.strip(), hours / 1000 * intensity)
