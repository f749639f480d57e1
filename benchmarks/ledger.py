"""How long does the ledger take? Reading a long history, and one move, against bare remotes on this machine.

    python -m benchmarks.ledger [--releases 1000] [--runs 5]

Prints Markdown tables: the median over the runs. A release is two moves (staging, then production) and three tags.
``status`` is what `lockstep status` asks of git: the branch's tip, and of each environment its pointer, since when, and
the tags that differ. Each run is a fresh ``Ledger``. The time of Python's start is not in it.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from checks.formats import pointer
from release.ledger import Ledger, compose, disagreements
from tests import ledger_tree as tree
from tests.git_service import Service
from tests.ledger_tree import PROMOTE, at, git

START = 1_600_000_000
OTHERS = (0, 20_000)  # commits between the releases that move nothing


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="How long does the ledger take?")
    parser.add_argument("--releases", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    os.environ.update(tree.CLEAN)
    lines = []
    for others in OTHERS:
        with tempfile.TemporaryDirectory() as scratch:
            lines += _measure(Path(scratch), options.releases, others, options.runs)
    print("| releases | other commits | remote | what | seconds |\n| ---: | ---: | --- | --- | ---: |")
    print("\n".join(lines))


def _measure(folder: Path, releases: int, others: int, runs: int) -> list[str]:
    (folder / "remotes").mkdir()
    remote = folder / "remotes" / "origin.git"
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    subprocess.run(
        ["git", "-C", str(remote), "fast-import", "--quiet"], input=b"".join(_stream(releases, others)), check=True
    )
    work = tree.clone(folder / "work", str(remote), "Ada")
    lines = []
    with Service(remote.parent) as service:
        for way, url in (("file", str(remote)), ("HTTP", service.address("origin.git"))):
            git(work, "remote", "set-url", "origin", url)
            asked: dict[str, Callable[[], object]] = {
                "tip": lambda: Ledger.open(work, PROMOTE).tip(),
                "status": lambda: _status(work),
                "history": lambda: _moves(work),
                "a move": lambda: tree.promote(work, "staging", f"{time.monotonic_ns()}"),
            }
            for what, ask in asked.items():
                seconds = median(_seconds(ask) for _ in range(runs))
                lines.append(f"| {releases:,} | {others:,} | {way} | {what} | {seconds:.3f} |")
    return lines


def _seconds(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started


def _moves(work: Path) -> object:
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    return [ledger.moves(tip, name) for name in PROMOTE.environments]


def _status(work: Path) -> object:
    ledger = Ledger.open(work, PROMOTE)
    tip = ledger.tip()
    runs = [(ledger.pointer(tip, name), ledger.since(tip, name)) for name in PROMOTE.environments]
    moves = [move for name in PROMOTE.environments for move in ledger.moves(tip, name)]
    return runs, ledger.quarantine(tip), disagreements("router", ledger.tags(), moves)


def _stream(releases: int, others: int) -> Iterator[bytes]:
    """A history for ``git fast-import``: one commit to begin, then the releases, the others spread between them."""
    who = "Ada <ada@example.org>"
    yield b"blob\nmark :1\ndata 2\nx\n\n"
    mark, when, each = 1, START, others // releases
    previous: dict[str, pointer.Pointer] = {}

    def commit(message: str, files: str) -> bytes:
        nonlocal mark, when
        mark, when = mark + 1, when + 60
        text = message.encode()
        return (
            f"commit refs/heads/main\nmark :{mark}\ncommitter {who} {when} +0000\ndata {len(text)}\n".encode()
            + text
            + f"\n{files}\n".encode()
        )

    def tag(name: str, target: int) -> bytes:
        return f"tag {name}\nfrom :{target}\ntagger {who} {when} +0000\ndata {len(name)}\n{name}\n".encode()

    yield commit("begin", "M 100644 :1 params.yaml")
    for number in range(1, releases + 1):
        for other in range(each):
            yield commit("other", f"M 100644 :1 src/{other % 20}/{number % 50}/{number}")
        after = tree.target(str(number), "1" * 40, f"v0.{number}.0")
        version = 0
        for environment in ("staging", "production"):
            text = pointer.write(after).decode()
            message = compose(environment, number, "promote", previous.get(environment), after, "it is better")
            yield commit(message, f"M 100644 inline {at(environment)}\ndata {len(text)}\n{text}")
            previous[environment] = after
            if not version:
                version = mark
                yield tag(f"router@{after.version}", version)
            yield tag(f"router#{environment}#{number}", version)


if __name__ == "__main__":
    main()
