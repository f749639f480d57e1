"""How long a command takes to say --help: lockstep beside DVC, MLflow and a bare interpreter.

    python -m benchmarks.startup [--runs 7]

The commands take turns, so that a drifting machine slows all alike. Prints medians and ratios to DVC's.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "lockstep --help": [str(BIN / "lockstep"), "--help"],
    "dvc --help": [str(BIN / "dvc"), "--help"],
    "mlflow --help": [str(BIN / "mlflow"), "--help"],
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(runs + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first turn warms the page cache
                seconds[name].append(time.perf_counter() - started)
    dvc = statistics.median(seconds["dvc --help"])
    print("| command | median s | min | max | to dvc |\n| --- | --- | --- | --- | --- |")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"| `{name}` | {middle:.3f} | {min(times):.3f} | {max(times):.3f} | {middle / dvc:.2f} |")


if __name__ == "__main__":
    main()
