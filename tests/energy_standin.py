"""Counters of energy that a test turns: a powercap tree on disk as Linux has it, and a module in place of pynvml."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checks.machine import meters

SPAN = 65_532_610_987  # microjoules: max_energy_range_uj of a server's package
# Zones of a machine with two sockets, as /sys/class/powercap lists them: flat.
SERVER = {
    "intel-rapl": None, "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1", "intel-rapl:1:0": "core", "intel-rapl:1:1": "dram",
}  # fmt: skip
# Of a laptop, with two zones that would count its package once more.
LAPTOP = {
    "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "uncore", "intel-rapl:1": "psys",
    "intel-rapl-mmio:0": "package-0",
}  # fmt: skip


class Powercap:
    """The tree in ``folder``: ``zones`` are its folders, with the name of each domain."""

    def __init__(self, folder: Path, zones: Mapping[str, str | None]) -> None:
        self.folder = folder
        for zone, name in zones.items():
            (folder / zone).mkdir(parents=True)
            if name is not None:
                (folder / zone / "name").write_text(f"{name}\n")
                (folder / zone / "max_energy_range_uj").write_text(f"{SPAN}\n")
                self.set(zone, 1000.0)

    def set(self, zone: str, joules: float) -> None:
        """Let a zone's counter show ``joules``."""
        (self.folder / zone / "energy_uj").write_text(f"{int(joules * 1e6)}\n")

    def add(self, **joules: float) -> None:
        """Let counters go on; ``_0_1`` is intel-rapl:0:1."""
        for name, more in joules.items():
            path = self.folder / f"intel-rapl:{name.removeprefix('_').replace('_', ':')}" / "energy_uj"
            path.write_text(f"{(int(path.read_text()) + int(more * 1e6)) % SPAN}\n")


class NVMLError(Exception):
    """As pynvml's: its text is NVML's own."""

    text = "Unknown Error"

    def __str__(self) -> str:
        return self.text


TEXTS = {  # of the errors that pynvml raises as subclasses, by the end of their names
    "NotSupported": "Not Supported",
    "NoPermission": "Insufficient Permissions",
    "NotFound": "Not Found",
    "LibraryNotFound": "NVML Shared Library Not Found",
}
ERRORS: dict[str, type[NVMLError]] = {
    name: type(f"NVMLError_{name}", (NVMLError,), {"text": text}) for name, text in TEXTS.items()
}


@dataclass
class Gpu:
    """One GPU. ``energy`` and ``mig`` may be what NVML refuses with."""

    uuid: str
    name: str = "NVIDIA L4"
    energy: int | NVMLError = 5_000_000  # millijoules since the driver was loaded
    mig: int | NVMLError = field(default_factory=lambda: ERRORS["NotSupported"]())


def nvml(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, init: NVMLError | None = None) -> None:
    """Put a module in place of pynvml that has ``gpus``."""

    def found(value: Any) -> Any:
        if isinstance(value, NVMLError):
            raise value
        return value

    def by_uuid(uuid: str) -> Gpu:
        return next((gpu for gpu in gpus if gpu.uuid == uuid), None) or found(ERRORS["NotFound"]())

    module: Any = ModuleType("pynvml")
    module.NVMLError = NVMLError
    for name, error in ERRORS.items():
        setattr(module, f"NVMLError_{name}", error)
    module.nvmlInit = lambda: found(init)
    module.nvmlDeviceGetCount = lambda: len(gpus)
    module.nvmlDeviceGetHandleByIndex = lambda number: gpus[number]
    module.nvmlDeviceGetHandleByUUID = by_uuid
    module.nvmlDeviceGetName = lambda gpu: gpu.name
    module.nvmlDeviceGetMigMode = lambda gpu: [found(gpu.mig), 0]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: found(gpu.energy)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def powercap(monkeypatch: pytest.MonkeyPatch, folder: Path, zones: Mapping[str, str | None] = SERVER) -> Powercap:
    """Put a tree in place of the machine's."""
    monkeypatch.setattr(meters, "POWERCAP", folder)
    return Powercap(folder, zones)


def running(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A tree in place of the machine's, whose package counts a joule each time it is read."""
    tree = powercap(monkeypatch, folder, {"intel-rapl:0": "package-0"})
    read = meters._joules

    def more(path: Path) -> float:
        if path.name == "energy_uj":
            tree.add(_0=1)
        return read(path)

    monkeypatch.setattr(meters, "_joules", more)
