"""Damaged files of rows: each is read, or refused in one line, and no one takes long.

In:  `tests/damaged_files.py`, which makes them from a seed. Out: a Markdown table: how often the files of each format,
 read by `prepare` in three shapes and by the survey of `lockstep init`, gave rows or a refusal, and processor seconds.
 An exception that is no refusal ends the run with the number of the file.
Run: python -m benchmarks.hostile [--files 1000] [--seed 18]
"""

import argparse
import tempfile
import time
from pathlib import Path
from random import Random

from checks.errors import DataRefused
from stages.loaders.table import Table
from tests import damaged_files

HUGE = 50 << 20  # characters of a cell


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=1000, help="files of each format")
    parser.add_argument("--seed", type=int, default=18, help="of the faults")
    arguments = parser.parse_args()
    print("| format | files | read | refused | slowest, CPU s | a cell of 50 MiB, CPU s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for suffix in damaged_files.WRITERS:
        random, found, slowest = Random(arguments.seed), [], 0.0
        with tempfile.TemporaryDirectory(prefix="lockstep-hostile-") as name:
            for number in range(arguments.files):
                data = damaged_files.damaged(suffix, random)
                started = time.process_time()
                try:
                    said = list(damaged_files.outcomes(Path(name), suffix, data))
                except Exception as error:
                    raise SystemExit(f"{suffix}, seed {arguments.seed}, file {number}: {error!r}") from error
                slowest = max(slowest, time.process_time() - started)
                if wrong := [each for each in said if each is not None and not each.isprintable()]:
                    raise SystemExit(f"{suffix}, seed {arguments.seed}, file {number}: {wrong[0]!r}")
                found += said
        read = sum(each is None for each in found)
        print(
            f"| {suffix} | {arguments.files:,} | {read:,} | {len(found) - read:,} | {slowest:.2f} | "
            f"{_huge(suffix):.2f} |",
            flush=True,
        )


def _huge(suffix: str) -> float:
    columns = {"prompt": "prompt", "reference": "reference"}
    loader = Table.model_validate({"kind": "table", "files": f"*{suffix}", "columns": columns})
    with tempfile.TemporaryDirectory(prefix="lockstep-hostile-") as name:
        damaged_files.write_huge(Path(name) / f"rows{suffix}", HUGE)
        started = time.process_time()
        try:
            loader.load(Path(name))
        except DataRefused:
            return time.process_time() - started
    raise SystemExit(f"{suffix}: a cell of 50 MiB was not refused")


if __name__ == "__main__":
    main()
