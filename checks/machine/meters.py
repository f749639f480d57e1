"""Reads the energy counters of this machine: NVIDIA's of each GPU, and RAPL's of each processor on Linux.

NVML counts a GPU's board in millijoules (nvmlDeviceGetTotalEnergyConsumption, from Volta on). RAPL counts a socket in
microjoules below /sys/class/powercap (https://docs.kernel.org/power/powercap/powercap.html); since CVE-2020-8694 only
root may read it. A package contains its cores and its graphics; its memory (``dram``) is counted beside it. ``psys``
and ``intel-rapl-mmio`` would count the package once more. So packages and memory are added, and nothing else.

RAPL's counters return to 0 at the end of their range, after minutes on a busy server. So a thread reads them every ten
seconds. Without a counter there is no figure.
"""

import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from checks.formats.energy import MEMORY, Counted, Energy, Kind
from checks.process import distribution

POWERCAP = Path("/sys/class/powercap")
ALL = ("all",)  # This selects every GPU.
_SECONDS = 10.0  # This is the time between two readings.


_DEVICES: dict[Kind, str] = {"nvml": "GPUs", "rapl": "processors and memory"}
# No device draws more watts, so a higher figure means that a counter was reset.
_MOST_WATTS: dict[Kind, float] = {"nvml": 10_000.0, "rapl": 2000.0}


class _Unmeasured(Exception):  # noqa: N818 - a result, which is recorded
    """The reason why a counter does not count."""


class _Meter:
    """One counter. ``read`` returns its joules now. ``span``: the joules at which it returns to 0, if it does."""

    def __init__(
        self, kind: Kind, device: str, read: Callable[[], float], span: float | None = None
    ) -> None:
        self.kind, self.device = kind, device
        self._read, self._span = read, span
        self._last, self.joules = read(), 0.0

    def update(self, seconds: float) -> None:
        """Add the joules of the last ``seconds``. Raises _Unmeasured if they are not known."""
        most = _MOST_WATTS[self.kind] * max(seconds, 1.0)
        if self._span is not None and most > self._span:
            raise _Unmeasured(
                f"{self.device}: was not read for {seconds:.0f} s, and may have started again unseen"
            )
        now = self._read()
        joules = now - self._last
        if joules < 0 and self._span is not None:
            joules += self._span
        if not 0 <= joules <= most:
            raise _Unmeasured(f"{self.device}: was set back meanwhile, or jumped")
        self._last = now
        self.joules += joules


class Meters:
    """Counts energy from now on.

    ``gpus``: the GPUs that do the work, as NVML names them (UUIDs, or numbers), or ``ALL``; empty: the processors do
    it. Each device that does the work must have a counter. Processors beside GPUs are counted if they have one.
    """

    def __init__(
        self,
        gpus: Sequence[str] = (),
        powercap: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._needed: Kind = "nvml" if gpus else "rapl"
        self._clock, self._at = clock, clock()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._failures: dict[Kind, str] = {}
        self._meters: list[_Meter] = []
        if gpus:
            self._add("nvml", lambda: _gpus(gpus))
        self._add("rapl", lambda: _processors(powercap or POWERCAP))
        if self.can:
            threading.Thread(target=self._watch, daemon=True).start()

    @property
    def can(self) -> bool:
        """Whether the devices that do the work are counted."""
        return self._needed not in self._failures

    def read(self) -> Energy:
        """Return the energy until now, and the reason for each device that is not counted."""
        self._update()
        with self._lock:
            failures = dict(self._failures)
            for meter in self._meters:
                if meter.joules == 0 and not meter.device.endswith(MEMORY):
                    failures.setdefault(meter.kind, f"{meter.device}: the counter does not move")
            counted = tuple(
                Counted(kind=meter.kind, device=meter.device, joules=round(meter.joules, 3))
                for meter in self._meters
                if meter.joules > 0 and meter.kind not in failures and self._needed not in failures
            )
        missing = [f"{_DEVICES[kind]}: {reason}" for kind, reason in failures.items()]
        devices = {counter.device for counter in counted if counter.kind == "rapl"}
        memories = {
            device if device.endswith(MEMORY) else f"{device}{MEMORY}" for device in devices
        }
        missing += [
            f"{memory}: RAPL does not count it here" for memory in sorted(memories - devices)
        ]
        return Energy(counted=counted, missing=tuple(missing))

    def stop(self) -> None:
        """End the thread that reads."""
        self._over.set()

    def _add(self, kind: Kind, find: Callable[[], list[_Meter]]) -> None:
        try:
            self._meters += find()
        except _Unmeasured as reason:
            self._failures[kind] = str(reason)

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS):
            self._update()

    def _update(self) -> None:
        with self._lock:
            now = self._clock()
            for meter in self._meters:
                if meter.kind not in self._failures:
                    try:
                        meter.update(now - self._at)
                    except _Unmeasured as reason:
                        self._failures[meter.kind] = str(reason)
            self._at = now


def machine(gpus: Sequence[str] = ()) -> str | None:
    """Return the class of this machine, such as ``2 x NVIDIA L4`` or ``AMD EPYC 9354 32-Core Processor, 64 CPUs``.

    ``gpus`` as for Meters. None if it cannot be read.
    """
    if gpus:
        try:
            with _nvml() as nvml:
                names = Counter(nvml.nvmlDeviceGetName(handle) for handle in _handles(nvml, gpus))
        except _Unmeasured:
            return None
        return ", ".join(f"{count} x {name}" for name, count in sorted(names.items()))
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    processor = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    return f"{processor}, {os.cpu_count()} CPUs" if processor else None


def _processors(powercap: Path) -> list[_Meter]:
    """Find a counter of each package and of its memory. Raises _Unmeasured if there is none, or one is unreadable."""
    packages: dict[str, str] = {}
    meters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name, package = _text(zone / "name"), packages.get(zone.name.rpartition(":")[0])
        if name.startswith("package-"):
            packages[zone.name] = name
        elif name == "dram" and package:
            name = f"{package}{MEMORY}"
        else:
            continue
        meters.append(
            _Meter(
                "rapl",
                name,
                functools.partial(_joules, zone / "energy_uj"),
                _joules(zone / "max_energy_range_uj"),
            )
        )
    if not meters:
        raise _Unmeasured(f"no counter below {powercap}; virtual machines have none")
    return meters


def _joules(path: Path) -> float:
    try:
        return int(_text(path)) / 1e6
    except ValueError as error:
        raise _Unmeasured(f"{path}: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise _Unmeasured(f"{path}: {error.strerror}") from error


def _gpus(wanted: Sequence[str]) -> list[_Meter]:
    """Find the counter of each GPU. Raises _Unmeasured if one has none."""
    meters = []
    with _nvml() as nvml:
        for number, handle in enumerate(_handles(nvml, wanted)):
            divided = False
            with suppress(nvml.NVMLError_NotSupported):  # Such a GPU cannot be divided.
                divided = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
            if divided:
                raise _Unmeasured(
                    f"GPU {number}: is divided (MIG), and its counter is of all parts"
                )
            name = nvml.nvmlDeviceGetName(handle)
            meters.append(
                _Meter("nvml", f"{number}: {name}", functools.partial(_gpu_joules, handle))
            )
    return meters


def _gpu_joules(handle: Any) -> float:
    with _nvml() as nvml:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _handles(nvml: Any, wanted: Sequence[str]) -> list[Any]:
    if tuple(wanted) == ALL:
        wanted = [str(number) for number in range(nvml.nvmlDeviceGetCount())]
    if not wanted:
        raise _Unmeasured("there is none")
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        if gpu.isdigit()
        else nvml.nvmlDeviceGetHandleByUUID(gpu)
        for gpu in wanted
    ]


@contextmanager
def _nvml() -> Iterator[Any]:
    """Yield NVIDIA's library, which stays loaded. Raises _Unmeasured if it is missing or refuses in the block."""
    try:
        import pynvml
    except ImportError as error:
        raise _Unmeasured(
            f"nvidia-ml-py is not installed: {distribution.install('energy')}"
        ) from error
    try:
        pynvml.nvmlInit()
        yield pynvml
    except pynvml.NVMLError as error:
        raise _Unmeasured(f"NVML: {error}") from error
