"""Reads the energy counters of this machine: NVIDIA's of each GPU, and RAPL's of each processor on Linux.

NVML counts a GPU's board in millijoules (nvmlDeviceGetTotalEnergyConsumption, from Volta on). RAPL counts a socket in
microjoules below /sys/class/powercap (https://docs.kernel.org/power/powercap/powercap.html); since CVE-2020-8694 only
root may read it. A package contains its cores and its graphics; its memory (``dram``) is counted beside it. ``psys``
and ``intel-rapl-mmio`` would count the package once more. So packages and memory are added, and nothing else.

RAPL's counters return to 0 at the end of their range, after minutes on a busy server. So a thread reads them every ten
seconds.

Nothing is estimated from a processor's name or its load: without a counter there is no figure.
"""

import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from checks.formats.energy import MEMORY, Counted, Energy, Kind

POWERCAP = Path("/sys/class/powercap")
ALL = ("all",)  # GPUs
_WHAT: dict[Kind, str] = {"nvml": "GPUs", "rapl": "processors and memory"}
_EVERY = 10.0  # seconds between two readings
# Watts: none draws more, so whatever says so started again unseen, or was set back.
_MOST: dict[Kind, float] = {"nvml": 10_000.0, "rapl": 2000.0}
_INSTALL = "pip install -c constraints.txt -e '.[energy]'"


class _Unmeasured(Exception):  # noqa: N818 - a result, which is recorded
    """Why a counter does not count."""


class _Meter:
    """One counter. ``look``: its joules now. ``span``: where it starts again at 0; None: it never does."""

    def __init__(self, kind: Kind, device: str, look: Callable[[], float], span: float | None = None) -> None:
        self.kind, self.device = kind, device
        self._look, self._span = look, span
        self._last, self._joules = look(), 0.0

    def update(self, elapsed: float) -> None:
        """Add what was counted in ``elapsed`` seconds. Raises _Unmeasured where that is not known."""
        now = self._look()
        more = now - self._last
        most = _MOST[self.kind]
        if self._span is not None:
            if elapsed * most > self._span:
                raise _Unmeasured(f"{self.device}: was not read for {elapsed:.0f} s, and may have started again unseen")
            more += self._span if more < 0 else 0
        if more < 0:
            raise _Unmeasured(f"{self.device}: counts backwards")
        if more > most * max(elapsed, 1.0):
            raise _Unmeasured(f"{self.device}: was set back meanwhile, or jumped")
        self._last, self._joules = now, self._joules + more

    def counted(self) -> Counted:
        """What it counted so far. Raises _Unmeasured if it does not move."""
        if self._joules <= 0:
            raise _Unmeasured(f"{self.device}: the counter does not move")
        return Counted(kind=self.kind, device=self.device, joules=round(self._joules, 3))


class Meters:
    """Counts energy from now on.

    ``gpus``: the GPUs that do the work, as NVML names them (UUIDs, or numbers), or ``ALL``; empty: the processors do
    it. Each device that does the work must have a counter. Processors beside GPUs are counted if they have one.
    """

    def __init__(
        self, gpus: Sequence[str] = (), powercap: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._needed: Kind = "nvml" if gpus else "rapl"
        self._clock, self._at = clock, clock()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._why: dict[Kind, str] = {}
        self._meters: list[_Meter] = []
        kinds: tuple[tuple[Kind, Callable[[], list[_Meter]]], ...] = (
            ("nvml", lambda: _gpus(gpus)),
            ("rapl", lambda: _processors(powercap or POWERCAP)),
        )
        for kind, find in kinds if gpus else kinds[1:]:
            try:
                self._meters += find()
            except _Unmeasured as why:
                self._why[kind] = str(why)
        if self.can:
            threading.Thread(target=self._watch, daemon=True).start()

    @property
    def can(self) -> bool:
        """Whether what does the work is counted."""
        return self._needed not in self._why

    def read(self) -> Energy:
        """What was counted so far."""
        self._update()
        with self._lock:
            why, left_out, found = dict(self._why), [], list[Counted]()
            for meter in self._meters:
                try:
                    found.append(meter.counted())
                except _Unmeasured as reason:
                    if meter.device.endswith(MEMORY):
                        left_out.append(str(reason))
                    else:
                        why.setdefault(meter.kind, str(reason))
        counted = [each for each in found if each.kind not in why] if self._needed not in why else []
        if any(each.kind == "rapl" for each in counted) and not any(
            each.device.endswith(MEMORY) for each in self._meters
        ):
            left_out.append("memory: RAPL has no counter of it here")
        missing = [*left_out, *(f"{_WHAT[kind]}: {reason}" for kind, reason in why.items())]
        return Energy(counted=tuple(counted), missing=tuple(missing))

    def stop(self) -> None:
        """End the thread that reads."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self._update()

    def _update(self) -> None:
        with self._lock:
            now = self._clock()
            for meter in self._meters:
                if meter.kind not in self._why:
                    try:
                        meter.update(now - self._at)
                    except _Unmeasured as why:
                        self._why[meter.kind] = str(why)
            self._at = now


def machine(gpus: Sequence[str] = ()) -> str | None:
    """The class of this machine, such as ``2 x NVIDIA L4`` or ``AMD EPYC 9354 32-Core Processor, 64 CPUs``.

    ``gpus`` as for Meters. None where it does not say.
    """
    if gpus:
        try:
            nvml = _nvml()
            names = Counter(_text(_asked(nvml, nvml.nvmlDeviceGetName, each)) for each in _handles(nvml, gpus))
        except _Unmeasured:
            return None
        return ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name}, {os.cpu_count()} CPUs" if name else None


def _processors(powercap: Path) -> list[_Meter]:
    """A counter of each package and of its memory. Raises _Unmeasured if there is none, or one cannot be read."""
    names = {zone.name: _line(zone / "name") for zone in sorted(powercap.glob("intel-rapl:*"))}
    packages = {zone: name for zone, name in names.items() if name.startswith("package-")}
    if not packages:
        raise _Unmeasured(f"no counter below {powercap}; virtual machines have none")
    found = []
    for zone, name in names.items():
        above = packages.get(zone.rpartition(":")[0])
        if zone in packages or (name == "dram" and above):
            place = powercap / zone
            span = _joules(place / "max_energy_range_uj")
            title = name if zone in packages else f"{above}{MEMORY}"
            found.append(_Meter("rapl", title, functools.partial(_joules, place / "energy_uj"), span))
    return found


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _joules(path: Path) -> float:
    try:
        return int(path.read_text()) / 1e6
    except PermissionError as error:
        raise _Unmeasured(f"no permission to read {path}") from error
    except (OSError, ValueError) as error:
        raise _Unmeasured(f"{path}: {error}") from error


def _gpus(wanted: Sequence[str]) -> list[_Meter]:
    """A counter of each GPU. Raises _Unmeasured if one has none."""
    nvml = _nvml()
    found = []
    for number, handle in enumerate(_handles(nvml, wanted)):
        if _in_parts(nvml, handle):
            raise _Unmeasured(f"GPU {number}: is divided (MIG), and its counter is of all parts")
        name = _text(_asked(nvml, nvml.nvmlDeviceGetName, handle))

        def look(handle: Any = handle) -> float:
            return int(_asked(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)) / 1e3

        found.append(_Meter("nvml", f"{number}: {name}", look))
    return found


def _nvml() -> Any:
    """NVIDIA's library, ready. It stays loaded until the process ends."""
    try:
        import pynvml
    except ImportError as error:
        raise _Unmeasured(f"nvidia-ml-py is not installed: {_INSTALL}") from error
    _asked(pynvml, pynvml.nvmlInit)
    return pynvml


def _handles(nvml: Any, wanted: Sequence[str]) -> list[Any]:
    if tuple(wanted) == ALL:
        wanted = [str(number) for number in range(_asked(nvml, nvml.nvmlDeviceGetCount))]
    if not wanted:
        raise _Unmeasured("there is none")
    return [
        _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, int(each))
        if each.isdigit()
        else _asked(nvml, nvml.nvmlDeviceGetHandleByUUID, each)
        for each in wanted
    ]


def _in_parts(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError_NotSupported:  # a GPU that cannot be divided
        return False
    except nvml.NVMLError as error:
        raise _Unmeasured(f"NVML: {error}") from error


def _asked(nvml: Any, ask: Callable[..., Any], *given: Any) -> Any:
    try:
        return ask(*given)
    except nvml.NVMLError as error:
        raise _Unmeasured(f"NVML: {error}") from error


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
