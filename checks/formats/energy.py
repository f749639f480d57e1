"""Energy that counters of the hardware measured: how it is recorded and added.

``checks.machine.meters`` reads the counters. If one is missing, the record names it, and says why.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.records.record import Consistent, Record, Sparse, problems

# NVML counts a GPU's board, RAPL a processor's package or its memory.
Kind = Literal["nvml", "rapl"]
MEMORY = " dram"  # The name of a memory's counter is that of its package and this.
SAYS: dict[Kind, str] = {"nvml": "GPU", "rapl": "processor"}


class Counted(Record):
    """The energy that one counter counted, of all that ran on a whole GPU or a whole socket."""

    kind: Kind
    device: str
    joules: Annotated[float, Field(gt=0)]


class Energy(Sparse, Consistent):
    """The energy that counters counted. ``missing``: the devices that were not measured, and why."""

    sparse: ClassVar[frozenset[str]] = frozenset({"counted", "missing"})

    counted: tuple[Counted, ...] = ()
    missing: tuple[str, ...] = ()

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        return problems(
            (not self.counted and not self.missing, "counted nothing, and does not say why")
        )

    @property
    def joules(self) -> float | None:
        """Return the sum of all counters. None if nothing was measured."""
        return math.fsum(counter.joules for counter in self.counted) if self.counted else None

    @property
    def watt_hours(self) -> float | None:
        """Return the sum in watt-hours."""
        return None if self.joules is None else self.joules / 3600

    @property
    def of(self) -> str:
        """Return the devices that were measured, such as ``2 GPUs, 1 processor``. Empty if none was."""
        counts = Counter(
            counter.kind for counter in self.counted if not counter.device.endswith(MEMORY)
        )
        names = [
            f"{counts[kind]} {name}{'s' * (counts[kind] != 1)}"
            for kind, name in SAYS.items()
            if counts[kind]
        ]
        if any(counter.device.endswith(MEMORY) for counter in self.counted):
            names.append("its memory" if counts["rapl"] == 1 else "their memory")
        return ", ".join(names)


def total(parts: Sequence[Energy]) -> Energy:
    """Add the energy of several parts of one work, such as a training and its continuation.

    A kind of counter that did not count in every part is left out.
    """
    kinds = [{counter.kind for counter in part.counted} for part in parts]
    everywhere = set.intersection(*kinds) if kinds else set[Kind]()
    joules: dict[tuple[Kind, str], list[float]] = {}
    for counter in (counter for part in parts for counter in part.counted):
        if counter.kind in everywhere:
            joules.setdefault((counter.kind, counter.device), []).append(counter.joules)
    counted = tuple(
        Counted(kind=kind, device=name, joules=math.fsum(of)) for (kind, name), of in joules.items()
    )
    unmeasured = parts if counted else [part for part in parts if not part.counted]
    missing = tuple(dict.fromkeys(reason for part in unmeasured for reason in part.missing))
    if not counted and not missing:
        missing = ("no kind of counter counted in every part",)
    return Energy(counted=counted, missing=missing)


def said(energy: Energy | None) -> str:
    """Write the energy for people, such as ``12.3 Wh (1 GPU)``. Empty if it was not measured."""
    if energy is None or energy.watt_hours is None:
        return ""
    return f"{watt_hours(energy.watt_hours)} ({energy.of})"


def after(energy: Energy | None) -> str:
    """Write the energy for the end of a sentence about the work. Empty if it was not measured."""
    text = said(energy)
    return f", {text}" if text else ""


def watt_hours(hours: float) -> str:
    """Write watt-hours in a unit for people."""
    value, unit = (hours / 1000, "kWh") if hours >= 1000 else (hours, "Wh")
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
