"""calibrate: measures how far evaluations of the unchanged merged model differ."""

from pathlib import Path

from checks.formats.evaluation_reports import NoiseReport
from checks.storage import files, layout
from release.adapters import dvc
from release.adapters.listening import Listener


def calibrate(root: Path, listener: Listener | None = None) -> NoiseReport:
    """Run ``python -m stages.calibrate`` in ``root`` and read the reports/noise.json that it writes.

    What the stage prints is given to ``listener``; without one it is printed on standard error.

    Raises StageRefused with the stage's exit code, or MachineRefused if it cannot run or is interrupted.
    """
    dvc.python(
        root,
        ["-m", "stages.calibrate"],
        "calibrate",
        aside=True,
        listener=listener,
        step="calibrate",
    )
    return files.read_json(root / layout.NOISE, NoiseReport)
