"""How long does an installation of the core take from a local folder of wheels, and how large is it?

    python -m benchmarks.install [--runs 3]

Beside it: numpy and scipy alone, which Lockstep needs, from the same folder. The wheels are of what is installed here.
Nothing is compiled ahead, as in `./lockstep` and uv. The environments have their pip before the clock starts.
"""

import os
import subprocess
import tempfile
import time
import venv
from pathlib import Path
from statistics import median

from benchmarks import tables
from checks.process import distribution
from tests import wheel_folder

_ALONE = ["numpy", "scipy"]


def main() -> None:
    """Build the wheel, measure, print."""
    options = tables.numbers(__doc__, runs=3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheels = wheel_folder.built(folder).parent
        names = wheel_folder.needed([distribution.NAME])
        wheel_folder.pack(names - {distribution.NAME}, wheels)
        measured: dict[str, list[tuple[float, float]]] = {}
        for turn in range(options.runs + 1):
            for row in (_ALONE, [distribution.NAME]):
                seconds, size = _install(row, wheels, folder / f"{turn}-{row[0]}")
                if turn:  # The first turn warms the page cache.
                    measured.setdefault(" + ".join(row), []).append((seconds, size))
    alone, _ = measured.values()
    fastest, least = median(seconds for seconds, _ in alone), alone[0][1]
    rows = []
    for name, runs in measured.items():
        seconds = median(seconds for seconds, _ in runs)
        size = runs[0][1]
        rows.append(
            (
                name,
                f"{seconds:.1f}",
                f"{seconds / fastest:.2f}",
                f"{size:.0f}",
                f"{size - least:.0f}",
            )
        )
    columns = ["", "seconds", "to numpy + scipy", "MB on the disk", "MB beside numpy and scipy"]
    tables.show(f"Install the core: {len(names)} packages", columns, rows)


def _install(names: list[str], wheels: Path, environment: Path) -> tuple[float, float]:
    """Return the seconds of pip, and the megabytes of the packages that it installed."""
    venv.create(environment, with_pip=True)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    before = _size(packages)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    started = time.perf_counter()
    subprocess.run(
        [*pip, "--no-index", "--find-links", wheels, *names],
        check=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return time.perf_counter() - started, (_size(packages) - before) / 1e6


def _size(folder: Path) -> int:
    """Return the bytes of all files but bytecode."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()
