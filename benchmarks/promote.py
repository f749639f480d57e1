"""How long do promote and rollback take, and how much does verifying the weights cost beside `sha256sum`?

    python -m benchmarks.promote [--runs 5] [--mib 2048]

In:  nothing; a record of random weights (four shards, ``--mib`` in all) is made in a temporary directory, built into an
     OCI layout, served on paper and signed. About four times that much disk.
Out: Markdown tables: the median over the runs, of a process from its start to the pushed commit, with its parts. The
     remote is a bare repository on this machine, by HTTP; the image is of a few kilobytes, in a layout. The mirror is
     one that does not answer. Then the seconds of the check ``weights``, which hashes every byte as part of its file
     and of its layer, beside `sha256sum` of the same shards in the same round; all of it in the page cache.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tqdm import tqdm

from benchmarks import build, tables
from checks.config import params_file
from checks.storage import digest, layout
from release.verbs.promote import promote
from tests import build_tree, ledger_tree
from tests import promotion_tree as tree
from tests.git_service import Service
from tests.ledger_tree import git, keep
from tests.release.serving.test_verify_evidence import probed

# Times the parts of one run where they are called; prints them as JSON.
RUNNER = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from release.verbs import promote, rollback
from release.ledger import Ledger
from release.mirrors import update
from release.promotion import context
parts = {"imports": time.perf_counter() - began}

def timed(owner, name, part):
    inner = getattr(owner, name)
    def wrapped(*args, **more):
        start = time.perf_counter()
        try:
            return inner(*args, **more)
        finally:
            parts[part] = parts.get(part, 0) + time.perf_counter() - start
    setattr(owner, name, wrapped)

timed(context, "find", "rules, signers, tip")
timed(Ledger, "commit", "commit and push")
timed(update, "after_move", "mirrors")
root, verb, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if verb == "promote":
    done = promote.promote(root, name, why="a benchmark")
else:
    done = rollback.rollback(root, name, why="a benchmark", to=sys.argv[4])
assert done.done == "moved", done.done
parts["checks"] = sum(check.seconds for check in done.checks)
print(json.dumps(parts))
"""
PARTS = ("imports", "rules, signers, tip", "checks", "commit and push", "mirrors")


def main() -> None:
    """Measure and print."""
    options = tables.numbers(__doc__, runs=5, mib=2048)
    os.environ.update({**ledger_tree.CLEAN, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    with tempfile.TemporaryDirectory(prefix="lockstep-promote-") as name:
        home = Path(name)
        moves = ("verb", "seconds", "without the mirrors", *PARTS)
        tables.show("Moves", moves, _moves(home / "moves", options.runs))
        weights = (f"{options.mib} MiB", "seconds", "ratio")
        tables.show("Weights", weights, _weights(home / "weights", options.runs, options.mib << 20))


def _moves(folder: Path, runs: int) -> Iterator[tuple[object, ...]]:
    """Promote and roll back, over and over."""
    root, remotes = folder / "work", folder / "remotes"
    remotes.mkdir(parents=True)
    tree.make(root)
    _move(root, "staging")
    _move(root, "production")
    took: dict[str, list[dict[str, float]]] = {"promote": [], "rollback": []}
    with Service(remotes) as service:
        for number in tqdm(range(runs), disable=None):
            copied = tree.copy(root.parent, folder / f"{number}") / "work"
            tree.next_model(copied, 20)
            remote = remotes / f"{number}.git"
            ledger_tree.bare(remote, copied)
            git(remote, "config", "http.receivepack", "true")
            git(copied, "remote", "set-url", "origin", service.address(remote.name))
            took["promote"].append(_run(copied, "promote", "staging"))
            took["rollback"].append(_run(copied, "rollback", "staging", "v0.1.0"))
            shutil.rmtree(copied.parent)
    for verb, runs_of_verb in took.items():
        rest = median(one["seconds"] - one.get("mirrors", 0.0) for one in runs_of_verb)
        medians = {
            part: median(one.get(part, 0.0) for one in runs_of_verb) for part in ("seconds", *PARTS)
        }
        yield (
            verb,
            f"{medians['seconds']:.2f}",
            f"{rest:.2f}",
            *(f"{medians[part]:.2f}" for part in PARTS),
        )


def _move(root: Path, name: str) -> None:
    assert promote(root, name, why="a benchmark").done == "moved"


def _run(root: Path, *args: str) -> dict[str, float]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(root), *args], check=True, capture_output=True, text=True
    )
    parts: dict[str, float] = json.loads(done.stdout)
    return parts | {"seconds": time.perf_counter() - began}


def _weights(root: Path, runs: int, size: int) -> Iterator[tuple[object, ...]]:
    """Check the weights of a promotion, beside `sha256sum`."""
    tree.prepare(root, lambda plain: plain["gates"].pop("fits_the_budget"))
    for shard in (root / layout.MERGED).glob("*.safetensors"):
        shard.unlink()
    shards = [build.shard_of(root, number) for number in range(build.SHARDS)]
    for shard in shards:
        build.write_random(shard, size // build.SHARDS)
    build.record(root)
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params)
    probed(root, params)
    keep(root, "record")
    tree.release(root)
    seconds: dict[str, list[float]] = {
        "`sha256sum`": [],
        "the check `weights`": [],
        "all of `promote --dry-run`": [],
    }
    for _ in tqdm(range(runs), desc="weights", disable=None):
        for shard in shards:
            digest.of_file(shard)  # This brings the file into the page cache.
        began = time.perf_counter()
        subprocess.run(["sha256sum", *map(str, shards)], check=True, capture_output=True)
        seconds["`sha256sum`"].append(time.perf_counter() - began)
        began = time.perf_counter()
        planned = promote(root, "staging", dry_run=True)
        seconds["all of `promote --dry-run`"].append(time.perf_counter() - began)
        assert not any(check.failures for check in planned.checks)
        seconds["the check `weights`"] += [
            check.seconds for check in planned.checks if check.about == "weights"
        ]
    alone = seconds["`sha256sum`"]
    for name, times in seconds.items():
        ratio = median(one / other for one, other in zip(times, alone, strict=True))
        yield name, f"{median(times):.2f}", f"{ratio:.2f}"


if __name__ == "__main__":
    main()
