"""The pipeline's own overhead: everything but download, training and generation, as a share of a run.

    python -m benchmarks.overhead

Clones this repository's last commit into a scratch folder, brings the sources there first, so that
downloading does not count, then runs the default pipeline and, once more, with nothing changed and with
a changed gate. Training is the trainer's loop, generation the rows divided by their rate; the rest is ours:
imports, loading, conversion, hashing, expectations, merging, parity, plots, DVC.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import layout
from release.adapters.dvc import environment

ROOT = Path(__file__).resolve().parent.parent


def repro(folder: Path, *args: str) -> float:
    """Seconds of one ``dvc repro``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", *args], cwd=folder, env=environment(), check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a Markdown table."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        folder = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        if (ROOT / layout.DOWNLOADS).is_dir():
            shutil.copytree(ROOT / layout.DOWNLOADS, folder / layout.DOWNLOADS)
        else:
            repro(folder, "fetch")
        total = repro(folder, "--force")
        train = json.loads((folder / layout.TRAIN_MEASURED).read_text())["seconds"]
        evaluation = json.loads((folder / layout.EVALUATION).read_text())
        measured = json.loads((folder / layout.EVALUATE_MEASURED).read_text())
        rates = [each["examples_per_second"] for each in measured["models"].values()]
        generation = sum(evaluation["rows"] / rate for rate in rates)
        unchanged = repro(folder)
        params = folder / layout.PARAMS
        params.write_text(params.read_text().replace("at_least: 0.35", "at_least: 0.36"))
        gate = repro(folder)
    own = total - train - generation
    print("| part of a run | seconds | share |\n| --- | --- | --- |")
    for name, seconds in (("training", train), ("generation", generation), ("own overhead", own), ("whole run", total)):
        print(f"| {name} | {seconds:.1f} | {seconds / total:.1%} |")
    print(f"| run with nothing changed | {unchanged:.1f} | {unchanged / total:.1%} |")
    print(f"| run with a changed gate bound | {gate:.1f} | {gate / total:.1%} |")


if __name__ == "__main__":
    main()
