"""How long do `status` and `history` take, with a long history of releases behind them?

    python -m benchmarks.status [--releases 1000] [--runs 7]

Prints a Markdown table: the median over the runs, of whole processes from their start, against a bare remote on this
machine. A release is two moves and three tags, as in `benchmarks.ledger`; what runs now was really built and signed, so
that everything is compared. ``--help`` is what any verb takes before it does anything.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import ledger as long
from checks import layout
from tests import mirrors_tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import CLEAN, bare, git, keep

_VERB = """
import sys
from pathlib import Path
from release.cli import environment_tables
from release.verbs import {0}
print(environment_tables.{0}({0}.{0}(Path(sys.argv[1]))))
"""
ASKED = {
    "--help": ["-m", "release.cli", "--help"],
    "status": ["-c", _VERB.format("status")],
    "history": ["-c", _VERB.format("history")],
}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="How long do status and history take?")
    parser.add_argument("--releases", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    os.environ.update(CLEAN)
    print("| past releases | what | seconds |\n| ---: | --- | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        root = _world(Path(scratch), options.releases)
        seconds: dict[str, list[float]] = {what: [] for what in ASKED}
        for turn in range(options.runs + 1):
            for what, command in ASKED.items():
                taken = _run([*command, str(root)] if what != "--help" else command)
                if turn:  # the first turn warms the page cache
                    seconds[what].append(taken)
    for what, times in seconds.items():
        print(f"| {options.releases:,} | {what} | {median(times):.3f} |")


def _world(folder: Path, releases: int) -> Path:
    """A clone whose remote has a long history, and two releases that run."""
    root = mirrors_tree.make(folder / "root")
    first = mirrors_tree.release(root, 1)
    past = folder / "past"
    git(folder, "init", "--quiet", "--initial-branch=main", str(past))
    subprocess.run(
        ["git", "-C", str(past), "fast-import", "--quiet"], input=b"".join(long._stream(releases, 0)), check=True
    )
    # The releases behind the record: one history, whose last tree is the record's.
    git(root, "fetch", "--quiet", "--tags", str(past), "main")
    git(root, "merge", "--quiet", "--allow-unrelated-histories", "-s", "ours", "-m", "the past", "FETCH_HEAD")
    git(root, "checkout", "--quiet", "FETCH_HEAD", "--", str(layout.ENVIRONMENTS))
    keep(root, "what ran before")
    for name in ("staging", "production"):
        mirrors_tree.move(root, name, first)
    bare(folder / "origin.git", root)
    return root


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
