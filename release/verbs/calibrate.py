"""calibrate: measures how far evaluations of the unchanged merged model differ."""

from pathlib import Path

from checks import files, layout
from checks.formats.evaluation_reports import NoiseReport
from release.adapters import dvc


def calibrate(root: Path) -> NoiseReport:
    """Run ``python -m stages.calibrate`` in ``root`` and read the reports/noise.json that it writes.

    Raises StageRefused with the stage's exit code, or MachineRefused if it cannot run or is interrupted.
    """
    dvc.python(root, ["-m", "stages.calibrate"], "calibrate")
    return files.read_json(root / layout.NOISE, NoiseReport)
