"""Energy is what counters of the hardware counted, once, or it was not measured, with the reason."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from checks.formats import energy
from checks.formats.energy import Counted, Energy
from checks.machine import meters
from tests import energy_standin
from tests.energy_standin import ERRORS, LAPTOP, SERVER, SPAN, Gpu, Powercap


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _devices(found: Energy) -> dict[str, float]:
    return {each.device: each.joules for each in found.counted}


def _one_socket(tree: Powercap) -> dict[str, float]:
    tree.add(_0=100, _0_0=80, _0_1=30)
    return {"package-0": 100, "package-0 dram": 30}


def _both(tree: Powercap) -> dict[str, float]:
    tree.add(_0=100, _0_0=80, _0_1=30, _1=50, _1_0=40, _1_1=20)
    return {"package-0": 100, "package-0 dram": 30, "package-1": 50, "package-1 dram": 20}


def _twice_the_same(tree: Powercap) -> dict[str, float]:
    tree.add(_0=100, _0_0=70, _0_1=5, _1=160)
    tree.set("intel-rapl-mmio:0", 1100)
    return {"package-0": 100}


def _dies(tree: Powercap) -> dict[str, float]:
    tree.add(_0=1, _1=2)
    return {"package-0-die-0": 1, "package-0-die-1": 2}


SOCKETS: dict[str, tuple[Mapping[str, str | None], Callable[[Powercap], dict[str, float]]]] = {
    "two sockets with their memory": (SERVER, _both),
    "cores are part of their package, its memory is not": (
        {zone: name for zone, name in SERVER.items() if not zone.startswith("intel-rapl:1")}, _one_socket,
    ),
    "psys and mmio count the package once more": (LAPTOP, _twice_the_same),
    "the two dies of a package": ({"intel-rapl:0": "package-0-die-0", "intel-rapl:1": "package-0-die-1"}, _dies),
}  # fmt: skip


@pytest.mark.parametrize("case", SOCKETS.values(), ids=SOCKETS)
def test_packages_and_their_memory_are_added_and_nothing_twice(
    tmp_path: Path, clock: Clock, case: tuple[Mapping[str, str | None], Callable[[Powercap], dict[str, float]]]
) -> None:
    zones, work = case
    tree = Powercap(tmp_path, zones)
    found = meters.Meters(powercap=tmp_path, clock=clock)
    clock.now = 1.0
    expected = work(tree)
    assert _devices(found.read()) == expected
    assert found.read().watt_hours == pytest.approx(sum(expected.values()) / 3600)
    without = [name for name in expected if not name.endswith(" dram") and f"{name} dram" not in expected]
    assert found.read().missing == tuple(f"{name} dram: RAPL does not count it here" for name in without)
    found.stop()


def test_a_counter_that_starts_again_at_its_range_goes_on(tmp_path: Path, clock: Clock) -> None:
    tree = Powercap(tmp_path, {"intel-rapl:0": "package-0"})
    tree.set("intel-rapl:0", SPAN / 1e6 - 40)
    found = meters.Meters(powercap=tmp_path, clock=clock)
    for _ in range(3):  # 180,000 J: nearly three times round
        for _ in range(10):
            clock.now += 10
            tree.add(_0=6000)
            found.read()
    assert found.read().watt_hours == pytest.approx(50, rel=1e-6)
    found.stop()


def test_the_thread_reads_while_nobody_asks(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "_SECONDS", 0.002)
    tree = Powercap(tmp_path, {"intel-rapl:0": "package-0"})
    read = meters._joules
    looked: list[Path] = []

    def look(path: Path) -> float:
        looked.append(path)
        return read(path)

    monkeypatch.setattr(meters, "_joules", look)
    found = meters.Meters(powercap=tmp_path, clock=clock)
    del looked[:]
    for _ in range(1000):
        if len(looked) > 3:
            break
        found._over.wait(0.005)
    assert len(looked) > 3
    found.stop()
    tree.add(_0=1)
    clock.now = 1
    assert _devices(found.read()) == {"package-0": 1}


def _late(tree: Powercap, clock: Clock) -> None:
    clock.now = 3600
    tree.add(_0=100)


def _set_back(tree: Powercap, clock: Clock) -> None:
    clock.now = 10
    tree.set("intel-rapl:0", 0)


def _still(tree: Powercap, clock: Clock) -> None:
    clock.now = 10


def _gone(tree: Powercap, clock: Clock) -> None:
    clock.now = 10
    (tree.folder / "intel-rapl:0" / "energy_uj").unlink()


def _no_number(tree: Powercap, clock: Clock) -> None:
    clock.now = 10
    (tree.folder / "intel-rapl:0" / "energy_uj").write_text("")


LOST = {
    "it was not read for an hour": (_late, "package-0: was not read for 3600 s, and may have started again unseen"),
    "somebody set it to 0": (_set_back, "package-0: was set back meanwhile"),
    "it stands still": (_still, "package-0: the counter does not move"),
    "it is gone": (_gone, "No such file"),
    "it shows no number": (_no_number, "invalid literal"),
}


@pytest.mark.parametrize("case", LOST.values(), ids=LOST)
def test_a_counter_that_cannot_be_trusted_counts_nothing(
    tmp_path: Path, clock: Clock, case: tuple[Callable[[Powercap, Clock], None], str]
) -> None:
    happens, why = case
    tree = Powercap(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1"})
    found = meters.Meters(powercap=tmp_path, clock=clock)
    tree.add(_1=50)
    happens(tree, clock)
    read = found.read()
    assert read.counted == ()
    assert read.watt_hours is None
    assert "processors and memory: " in read.missing[0]
    assert why in read.missing[0]
    found.stop()


def test_a_memory_whose_counter_stands_still_is_left_out_alone(tmp_path: Path, clock: Clock) -> None:
    tree = Powercap(tmp_path, SERVER)
    found = meters.Meters(powercap=tmp_path, clock=clock)
    clock.now = 1
    tree.add(_0=10, _1=20, _1_1=3)
    read = found.read()
    assert _devices(read) == {"package-0": 10, "package-1": 20, "package-1 dram": 3}
    assert read.missing == ("package-0 dram: RAPL does not count it here",)
    found.stop()


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Another user: root may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_counter_that_only_root_may_read_is_named() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        Powercap(folder, SERVER)
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        (folder / "intel-rapl:1" / "energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
        with _as_nobody():
            found = meters.Meters(powercap=folder)
        assert not found.can
        assert found.read() == Energy(
            missing=(f"processors and memory: {folder}/intel-rapl:1/energy_uj: Permission denied",)
        )
    finally:
        shutil.rmtree(folder)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    found = meters.Meters(powercap=tmp_path / "none")
    assert not found.can
    assert found.read().missing == (
        f"processors and memory: no counter below {tmp_path / 'none'}; virtual machines have none",
    )


def test_the_gpus_that_worked_are_counted_and_the_processors_beside_them(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu("GPU-a"), Gpu("GPU-b", name="NVIDIA H100"), Gpu("GPU-c")]
    energy_standin.nvml(monkeypatch, *gpus)
    tree = Powercap(tmp_path, {"intel-rapl:0": "package-0"})
    found = meters.Meters(["GPU-b", "GPU-a"], tmp_path, clock)
    clock.now = 3600  # NVML's counter does not start again, so nobody has to read it
    for gpu, more in zip(gpus, (7000, 3000, 9000), strict=True):
        assert isinstance(gpu.energy, int)
        gpu.energy += more
    tree.add(_0=5)
    read = found.read()
    assert _devices(read) == {"0: NVIDIA H100": 3, "1: NVIDIA L4": 7}
    assert read.missing == (
        "processors and memory: package-0: was not read for 3600 s, and may have started again unseen",
    )
    found.stop()
    assert meters.machine(["GPU-b", "GPU-a"]) == "1 x NVIDIA H100, 1 x NVIDIA L4"
    assert meters.machine(meters.ALL) == "1 x NVIDIA H100, 2 x NVIDIA L4"
    assert meters.machine(["2"]) == "1 x NVIDIA L4"


NO_GPU: dict[str, tuple[tuple[Gpu, ...], energy_standin.NVMLError | None, str]] = {
    "a GPU before Volta": ((Gpu("GPU-a", energy=ERRORS["NotSupported"]()),), None, "GPUs: NVML: Not Supported"),
    "a container that may not ask": (
        (Gpu("GPU-a", energy=ERRORS["NoPermission"]()),), None, "GPUs: NVML: Insufficient Permissions",
    ),
    "a part of a GPU, which has a UUID of its own": ((Gpu("GPU-b"),), None, "GPUs: NVML: Not Found"),
    "a GPU that is divided": ((Gpu("GPU-a", mig=1),), None, "GPUs: GPU 0: is divided (MIG), and its counter is of all parts"),
    "a GPU that does not say whether it is divided": (
        (Gpu("GPU-a", mig=ERRORS["NoPermission"]()),), None, "GPUs: NVML: Insufficient Permissions",
    ),
    "no driver": ((), ERRORS["LibraryNotFound"](), "GPUs: NVML: NVML Shared Library Not Found"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_GPU.values(), ids=NO_GPU)
def test_what_nvml_refuses_is_not_measured_although_the_processors_are(
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[tuple[Gpu, ...], energy_standin.NVMLError | None, str],
) -> None:
    gpus, init, why = case
    energy_standin.nvml(monkeypatch, *gpus, init=init)
    tree = Powercap(tmp_path, SERVER)
    found = meters.Meters(["GPU-a"], tmp_path, clock)
    tree.add(_0=5, _0_1=5, _1=5, _1_1=5)
    clock.now = 1
    assert not found.can
    assert found.read() == Energy(missing=(why,))


LOST_GPU: dict[str, tuple[int | energy_standin.NVMLError, str]] = {
    "its driver was loaded again": (-1, "0: NVIDIA L4: was set back meanwhile, or jumped"),
    "it jumps": (1 << 32, "0: NVIDIA L4: was set back meanwhile, or jumped"),
    "it fell off the bus": (ERRORS["NotFound"](), "NVML: Not Found"),
}


@pytest.mark.parametrize("case", LOST_GPU.values(), ids=LOST_GPU)
def test_a_gpus_counter_that_cannot_be_trusted_counts_nothing(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, case: tuple[int | energy_standin.NVMLError, str]
) -> None:
    shows, why = case
    one, other = Gpu("GPU-a"), Gpu("GPU-b")
    energy_standin.nvml(monkeypatch, one, other)
    found = meters.Meters(["GPU-a", "GPU-b"], tmp_path, clock)
    assert isinstance(one.energy, int)
    assert isinstance(other.energy, int)
    clock.now, other.energy = 10, other.energy + 7000
    one.energy = one.energy + shows if isinstance(shows, int) else shows
    read = found.read()
    assert (read.counted, f"GPUs: {why}" in read.missing) == ((), True), read.missing
    one.energy = 1 << 40
    assert found.read().counted == ()  # for good
    found.stop()


def test_without_nvidias_package_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = meters.Meters(meters.ALL).read()
    assert found.missing[0] == "GPUs: nvidia-ml-py is not installed: pip install -c constraints.txt -e '.[energy]'"
    assert meters.machine(meters.ALL) is None


def test_the_real_package_refuses_as_the_stand_in_does() -> None:
    pynvml = pytest.importorskip("pynvml")
    codes = {
        "NotSupported": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "NoPermission": pynvml.NVML_ERROR_NO_PERMISSION,
        "NotFound": pynvml.NVML_ERROR_NOT_FOUND,
        "LibraryNotFound": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    }
    for name, error in ERRORS.items():
        real = pynvml.NVMLError(codes[name])
        assert type(real).__name__ == error.__name__
        assert isinstance(real, pynvml.NVMLError)
        assert str(real) == str(error())
    assert all(callable(getattr(pynvml, name)) for name in (
        "nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetName",
        "nvmlDeviceGetMigMode", "nvmlDeviceGetTotalEnergyConsumption",
    ))  # fmt: skip


GPU, PACKAGE = Counted(kind="nvml", device="0: L4", joules=7200), Counted(kind="rapl", device="package-0", joules=3600)
BOTH, ONLY_GPU, NOTHING = Energy(counted=(GPU, PACKAGE)), Energy(counted=(GPU,), missing=("p",)), Energy(missing=("w",))
SUMS = {
    "what every part counted": ((BOTH, BOTH), 6.0, ()),
    "a kind that one part lacks is left out": ((BOTH, ONLY_GPU), 4.0, ("p",)),
    "a part that was not measured": ((BOTH, NOTHING), None, ("w",)),
    "of a part that was measured nothing is to blame": ((ONLY_GPU, NOTHING), None, ("w",)),
    "one part": ((BOTH,), 3.0, ()),
    "no part": ((), None, ("no kind of counter counted in every part",)),
    "no kind in common": (
        (Energy(counted=(GPU,)), Energy(counted=(PACKAGE,))),
        None,
        ("no kind of counter counted in every part",),
    ),
}


@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS)
def test_a_sum_is_measured_if_every_part_is(
    case: tuple[tuple[Energy, ...], float | None, tuple[str, ...]],
) -> None:
    parts, hours, missing = case
    found = energy.total(parts)
    assert found.watt_hours == hours
    assert found.missing == missing


def test_energy_is_said_in_words_and_units_of_people() -> None:
    assert energy.said(None) == energy.said(NOTHING) == ""
    assert energy.said(BOTH) == "3 Wh (1 GPU, 1 processor)"
    memory = Counted(kind="rapl", device="package-0 dram", joules=360)
    assert energy.said(Energy(counted=(PACKAGE, memory))) == "1.1 Wh (1 processor, its memory)"
    assert [energy.watt_hours(each) for each in (0.01234, 12.34, 999, 1000, 123456, 2e7)] == [
        "0.0123 Wh", "12.3 Wh", "999 Wh", "1 kWh", "123 kWh", "20,000 kWh",
    ]  # fmt: skip
    with pytest.raises(ValidationError, match="does not say why"):
        Energy()
