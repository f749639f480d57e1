"""sweep: trains with each combination of given values, and compares the models on the valid split."""

from collections.abc import Sequence
from pathlib import Path

from checks.config import sweeps
from checks.storage import files, layout
from release.adapters import dvc
from release.adapters.listening import Listener


def sweep(
    root: Path,
    specs: Sequence[str],
    seeds: Sequence[int],
    most: int,
    listener: Listener | None = None,
) -> sweeps.SweepReport:
    """Run ``python -m stages.sweep`` in ``root``, after the stages up to validate, and read its report.

    What DVC and the stages print is given to ``listener``; without one it is printed on standard error.

    Raises as ``dvc.python`` does, and ParamsRefused for values that cannot be tried, before anything runs.
    """
    sweeps.value_lists(specs)

    def python(step: str, arguments: list[str], name: str) -> None:
        dvc.python(root, arguments, name, aside=True, listener=listener, step=step)

    python("sources", ["-m", "stages.still_pinned"], "the look at local sources")
    python("", [*dvc.MODULE, "repro", "validate"], "dvc repro")
    seeded = [f"--seed={seed}" for seed in seeds]
    python("sweep", ["-m", "stages.sweep", f"--most={most}", *seeded, "--", *specs], "sweep")
    return files.read_json(root / layout.SWEEP_REPORT, sweeps.SweepReport)
