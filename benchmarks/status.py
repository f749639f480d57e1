"""How much of a processor do verbs take, with a long history of releases behind them, and beside `dvc --version`?

    python -m benchmarks.status [--releases 1000] [--runs 7]

Prints the median processor time of whole processes and of the git that they start, against a bare remote on this
machine, and of one move in this process. A release is two moves and three tags; what runs now was really built and
signed, so that everything is compared. ``--help`` is what any verb takes before it does anything. `gate` and
`promote --dry-run` ask another repository, with the record of one model.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import tables
from checks.formats import pointer
from checks.storage import layout
from release.ledger import compose
from tests import ledger_tree, mirrors_tree, promotion_tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import at, git

START = 1_600_000_000
_VERB = """
import sys
from pathlib import Path
from release.cli import environment_tables
from release.verbs import {0}
print(environment_tables.{0}({0}.{0}(Path(sys.argv[1]))))
"""


def main() -> None:
    """Make the history, measure, print."""
    options = tables.numbers(__doc__, releases=1000, runs=7)
    os.environ.update(ledger_tree.CLEAN)
    # A user's processes find the bytecode of the last ones.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as scratch:
        root = _world(Path(scratch), options.releases)
        recorded = Path(scratch, "recorded", "work")
        recorded.parent.mkdir()
        promotion_tree.make(recorded)
        lockstep = ["-m", "release.cli", "-C", str(recorded)]
        commands = {
            "dvc --version": ["-m", "dvc", "--version"],
            "--help": [*lockstep, "--help"],
            "status": ["-c", _VERB.format("status"), str(root)],
            "history": ["-c", _VERB.format("history"), str(root)],
            "gate": [*lockstep, "gate"],
            "promote --dry-run": [*lockstep, "promote", "staging", "--dry-run"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*commands, "one move")}
        for turn in range(options.runs + 1):
            for name, command in commands.items():
                started = _processor()
                subprocess.run(
                    [sys.executable, *command],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    cwd=REPOSITORY,
                )
                if turn:  # The first turn warms the page cache.
                    seconds[name].append(_processor() - started)
        for _ in range(options.runs):
            started = _processor()
            ledger_tree.promote(root, "staging", f"{time.monotonic_ns()}")
            seconds["one move"].append(_processor() - started)
    ruler = median(seconds["dvc --version"])
    rows = (
        (f"{options.releases:,}", name, f"{median(times):.3f}", f"{median(times) / ruler:.2f}")
        for name, times in seconds.items()
    )
    tables.show(
        "The ledger", ("past releases", "what", "processor seconds", "times `dvc --version`"), rows
    )


def _processor() -> float:
    """Return the seconds of a processor that this process and the ended ones below it have taken."""
    return sum(os.times()[:4])


def _world(folder: Path, releases: int) -> Path:
    """Make a clone with a long history at its remote, in which two releases run."""
    root = mirrors_tree.make(folder / "root")
    first = mirrors_tree.release(root, 1)
    past = folder / "past"
    git(folder, "init", "--quiet", "--initial-branch=main", str(past))
    history = b"".join(_history(releases))
    subprocess.run(["git", "-C", str(past), "fast-import", "--quiet"], input=history, check=True)
    # The releases behind the record: one history, whose last tree is the record's.
    git(root, "fetch", "--quiet", "--tags", str(past), "main")
    git(
        root,
        "merge",
        "--quiet",
        "--allow-unrelated-histories",
        "-s",
        "ours",
        "-m",
        "the past",
        "FETCH_HEAD",
    )
    git(root, "checkout", "--quiet", "FETCH_HEAD", "--", str(layout.ENVIRONMENTS))
    ledger_tree.keep(root, "what ran before")
    for name in ("staging", "production"):
        mirrors_tree.move(root, name, first)
    ledger_tree.bare(folder / "origin.git", root)
    return root


def _history(releases: int) -> Iterator[bytes]:
    """Write a history for ``git fast-import``: one commit to begin, then the releases."""
    who = "Ada <ada@example.org>"
    yield b"blob\nmark :1\ndata 2\nx\n\n"
    mark, when = 1, START
    previous: dict[str, pointer.Pointer] = {}

    def commit(message: str, files: str) -> bytes:
        nonlocal mark, when
        mark, when = mark + 1, when + 60
        size = len(message.encode())
        head = f"commit refs/heads/main\nmark :{mark}\ncommitter {who} {when} +0000\ndata {size}\n"
        return f"{head}{message}\n{files}\n".encode()

    def tag(name: str, target: int) -> bytes:
        return f"tag {name}\nfrom :{target}\ntagger {who} {when} +0000\ndata {len(name)}\n{name}\n".encode()

    yield commit("begin", "M 100644 :1 params.yaml")
    for number in range(1, releases + 1):
        after = ledger_tree.target(str(number), "1" * 40, f"v0.{number}.0")
        version = mark + 1
        for environment in ("staging", "production"):
            text = pointer.write(after).decode()
            message = compose(
                environment, number, "promote", previous.get(environment), after, "it is better"
            )
            yield commit(message, f"M 100644 inline {at(environment)}\ndata {len(text)}\n{text}")
            previous[environment] = after
            if mark == version:
                yield tag(f"router@{after.version}", version)
            yield tag(f"router#{environment}#{number}", version)


if __name__ == "__main__":
    main()
