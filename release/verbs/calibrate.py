"""calibrate: how far evaluations of the unchanged merged model differ, measured and written down."""

from pathlib import Path

from checks import files, layout
from checks.evidence import NoiseReport
from release.adapters import dvc


def calibrate(root: Path) -> NoiseReport:
    """Run ``python -m stages.calibrate`` in ``root`` and read reports/noise.json, which it writes.

    Raises StageRefused with the stage's exit code, or MachineRefused when it cannot run or breaks off.
    """
    dvc.python(root, ["-m", "stages.calibrate"], "calibrate")
    return files.read_json(root / layout.NOISE, NoiseReport)
