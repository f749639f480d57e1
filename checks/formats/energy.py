"""Energy that counters of the hardware measured: how it is recorded and added.

``checks.machine.meters`` reads the counters. Nothing here is an estimate. Where a counter is missing, the record says
which one, and why.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from checks.rows import Record, Sparse

Kind = Literal["nvml", "rapl"]  # of a GPU's board; of a processor's package or its memory
MEMORY = " dram"  # ends the name of a memory's counter, after that of its package
SAYS: dict[Kind, str] = {"nvml": "GPU", "rapl": "processor"}
_JOULES = 3600.0  # of a watt-hour


class Counted(Record):
    """What one counter counted: of a whole GPU, or of a whole socket, with all that ran there."""

    kind: Kind
    device: str
    joules: Annotated[float, Field(gt=0)]


class Energy(Sparse):
    """The energy that counters counted; without a counter it was not measured. ``missing``: what lacks, and why."""

    sparse: ClassVar[frozenset[str]] = frozenset({"counted", "missing"})

    counted: tuple[Counted, ...] = ()
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_why_nothing_was_counted(self) -> "Energy":
        if not self.counted and not self.missing:
            raise ValueError("counted nothing, and does not say why")
        return self

    @property
    def joules(self) -> float | None:
        """The sum of all counters; None: not measured."""
        return math.fsum(counter.joules for counter in self.counted) if self.counted else None

    @property
    def watt_hours(self) -> float | None:
        """The same in watt-hours."""
        return None if self.joules is None else self.joules / _JOULES

    @property
    def of(self) -> str:
        """What it is the energy of, such as ``2 GPUs, 1 processor``; empty: not measured."""
        devices = {kind: [counter for counter in self.counted if counter.kind == kind] for kind in SAYS}
        # A socket's memory has a counter of its own, and is no processor.
        counts = {
            kind: sum(not counter.device.endswith(MEMORY) for counter in counters) for kind, counters in devices.items()
        }
        named = [f"{count} {SAYS[kind]}{'s' * (count != 1)}" for kind, count in counts.items() if count]
        if any(counter.device.endswith(MEMORY) for counter in self.counted):
            named.append("its memory" if counts["rapl"] == 1 else "their memory")
        return ", ".join(named)


def total(parts: Sequence[Energy]) -> Energy:
    """The energy of several parts of one work, such as a training and its continuation. All parts must be measured.

    A kind of counter that did not count in every part is left out.
    """
    everywhere = set.intersection(*({counter.kind for counter in part.counted} for part in parts)) if parts else set()
    joules: dict[tuple[Kind, str], list[float]] = {}
    for part in parts:
        for counter in part.counted:
            if counter.kind in everywhere:
                joules.setdefault((counter.kind, counter.device), []).append(counter.joules)
    counted = tuple(Counted(kind=kind, device=name, joules=math.fsum(of)) for (kind, name), of in joules.items())
    blamed = parts if counted else [part for part in parts if not part.counted]
    missing = tuple(dict.fromkeys(why for part in blamed for why in part.missing))
    return Energy(
        counted=counted, missing=missing if counted or missing else ("no kind of counter counted in every part",)
    )


def said(energy: Energy | None) -> str:
    """The energy for people, such as ``12.3 Wh (1 GPU)``; empty: not measured."""
    hours = energy.watt_hours if energy else None
    if energy is None or hours is None:
        return ""
    return f"{watt_hours(hours)} ({energy.of})"


def after(energy: Energy | None) -> str:
    """What a sentence about the work ends with: its energy, if that was measured."""
    return f", {text}" if (text := said(energy)) else ""


def watt_hours(hours: float) -> str:
    """Watt-hours in a unit that a person reads."""
    value, unit = (hours / 1000, "kWh") if hours >= 1000 else (hours, "Wh")
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
