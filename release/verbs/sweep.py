"""sweep: trains with each combination of given values, and compares the models on the valid split."""

from collections.abc import Sequence
from pathlib import Path

from checks import files, layout
from checks.config import sweeps
from checks.config.sweeps import SweepReport, Values
from release.adapters import dvc
from release.adapters.listening import Listener


def sweep(
    root: Path, specs: Sequence[str], seeds: Sequence[int], most: int, trials: int | None = None,
    listener: Listener | None = None,
) -> SweepReport:  # fmt: skip
    """Run ``python -m stages.sweep`` in ``root``, after the stages up to validate, and read its report.

    What DVC and the stages print is given to ``listener``; without one it is printed on standard error.

    Raises as ``dvc.python`` does, and ParamsRefused for values that cannot be tried, before anything runs.
    """
    sweeps.asked(specs)

    def python(step: str, arguments: list[str], name: str) -> None:
        dvc.python(root, arguments, name, aside=True, listener=listener, step=step)

    python("sources", ["-m", "stages.still_pinned"], "the look at local sources")
    python("", [*dvc.MODULE, "repro", "validate"], "dvc repro")
    seeded = [f"--seed={seed}" for seed in seeds]
    searched = [] if trials is None else [f"--trials={trials}"]
    python("sweep", ["-m", "stages.sweep", f"--most={most}", *searched, *seeded, "--", *specs], "sweep")
    return files.read_json(root / layout.SWEEP_REPORT, SweepReport)


def apply(root: Path, values: Values) -> None:
    """Write ``values`` into params.yaml. Comments and order stay. Raises ParamsRefused as ``sweeps.written``."""
    path = root / layout.PARAMS
    files.write_text(path, sweeps.written(path.read_text(encoding="utf-8"), values))
