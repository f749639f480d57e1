"""How long do promote and rollback take, and how much does verifying the weights cost beside `sha256sum`?

    python -m benchmarks.promote [--runs 5] [--mib 2048] [--dir FOLDER]

In:  nothing; a record of random weights (four shards, ``--mib`` in all) is made in a temporary directory, built into an
     OCI layout, served on paper and signed. About four times that much disk at --dir.
Out: Markdown tables: the median over the runs, of a process from its start to the pushed commit, with its parts. The
     remote is a bare repository on this machine, by path and by HTTP; the image is of a few kilobytes, in a layout. The
     mirror is one that does not answer. Then the seconds of the check ``weights``, which hashes every byte as part of
     its file and of its layer, beside `sha256sum` of the same shards in the same round; all of it in the page cache.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tqdm import tqdm

from checks import digest, files, layout
from checks.config import params_file
from checks.formats.training_reports import MergedFile, ParityReport
from release.verbs.promote import Options, promote
from tests import build_tree, ledger_tree
from tests import promotion_tree as tree
from tests.git_service import Service
from tests.ledger_tree import git, keep
from tests.test_verify_evidence import probed

SHARDS = 4
_BLOCK = 1 << 24
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
    done = promote.promote(root, name, promote.Options(why="a benchmark"))
else:
    done = rollback.rollback(root, name, rollback.Options(why="a benchmark", to=sys.argv[4]))
assert done.done == "moved", done.done
parts["checks"] = sum(check.seconds for check in done.checks)
print(json.dumps(parts))
"""
PARTS = ("imports", "rules, signers, tip", "checks", "commit and push", "mirrors")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=2048, help="of weights, in four shards")
    parser.add_argument("--dir", type=Path, help="where the temporary directory is made")
    options = parser.parse_args()
    os.environ.update({**ledger_tree.CLEAN, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    with tempfile.TemporaryDirectory(prefix="lockstep-promote-", dir=options.dir) as name:
        moves = _moves(Path(name) / "moves", options.runs)
        weights = _weights(Path(name) / "weights", options.runs, options.mib << 20)
    head = "| verb | remote | seconds | without the mirrors | " + " | ".join(PARTS) + " |"
    print("\n".join([head, "| --- | --- |" + " ---: |" * (2 + len(PARTS)), *moves]))
    print(f"\n| {options.mib} MiB | seconds | ratio |\n| --- | ---: | ---: |\n" + "\n".join(weights))


def _moves(folder: Path, runs: int) -> list[str]:
    """Promote to production and roll back, over and over, by each way to the remote."""
    folder.mkdir()
    root, remotes = folder / "work", folder / "remotes"
    tree.make(root)
    _move(root, "staging")
    _move(root, "production")
    remotes.mkdir()
    lines = []
    with Service(remotes) as service:
        for way in ("path", "HTTP"):
            found: dict[str, list[dict[str, float]]] = {"promote": [], "rollback": []}
            for number in tqdm(range(runs), desc=way, disable=None):
                copied = tree.copy(root.parent, folder / f"{way}{number}") / "work"
                tree.next_model(copied, 20)
                remote = remotes / f"{way}{number}.git"
                ledger_tree.bare(remote, copied)
                if way == "HTTP":
                    git(remote, "config", "http.receivepack", "true")
                    git(copied, "remote", "set-url", "origin", service.address(remote.name))
                found["promote"].append(_run(copied, "promote", "staging"))
                found["rollback"].append(_run(copied, "rollback", "staging", "v0.1.0"))
                shutil.rmtree(copied.parent)
            for verb, ran in found.items():
                each = {part: median(one.get(part, 0.0) for one in ran) for part in ("seconds", *PARTS)}
                rest = median(one["seconds"] - one.get("mirrors", 0.0) for one in ran)
                told = " | ".join(f"{each[part]:.2f}" for part in PARTS)
                lines.append(f"| {verb} | {way} | {each['seconds']:.2f} | {rest:.2f} | {told} |")
    return lines


def _move(root: Path, name: str) -> None:
    assert promote(root, name, Options(why="a benchmark")).done == "moved"


def _run(root: Path, *args: str) -> dict[str, float]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUNNER, str(root), *args], check=True, capture_output=True, text=True)
    parts: dict[str, float] = json.loads(done.stdout)
    return parts | {"seconds": time.perf_counter() - began}


def _weights(folder: Path, runs: int, size: int) -> list[str]:
    root = folder
    tree.prepare(root, lambda plain: plain["gates"].pop("fits_the_budget"))
    merged = root / layout.MERGED
    for shard in merged.glob("*.safetensors"):
        shard.unlink()
    shards = [merged / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors" for number in range(SHARDS)]
    for shard in shards:
        with shard.open("wb") as stream:
            for start in range(0, size // SHARDS, _BLOCK):
                stream.write(os.urandom(min(_BLOCK, size // SHARDS - start)))
    _record(root)
    tree.release(root)
    seconds: dict[str, list[float]] = {"`sha256sum`": [], "the check `weights`": [], "all of `promote --dry-run`": []}
    for _ in tqdm(range(runs), desc="weights", disable=None):
        for shard in shards:
            digest.of_file(shard)  # into the page cache
        began = time.perf_counter()
        subprocess.run(["sha256sum", *map(str, shards)], check=True, capture_output=True)
        seconds["`sha256sum`"].append(time.perf_counter() - began)
        began = time.perf_counter()
        planned = promote(root, "staging", Options(dry_run=True))
        seconds["all of `promote --dry-run`"].append(time.perf_counter() - began)
        assert not any(check.failures for check in planned.checks)
        seconds["the check `weights`"] += [one.seconds for one in planned.checks if one.about == "weights"]
    alone = seconds["`sha256sum`"]
    return [
        f"| {what} | {median(each):.2f} | {median(one / other for one, other in zip(each, alone, strict=True)):.2f} |"
        for what, each in seconds.items()
    ]


def _record(root: Path) -> None:
    """Make what lies in models/merged the model of the committed record."""

    found = digest.of_tree(root / layout.MERGED)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    described = {name: MergedFile(sha256=file.sha256, size=file.size) for name, file in found.files.items()}
    change = {"merged": found.digest, "files": described}
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update=change))
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params)
    probed(root, params)
    keep(root, "record")


if __name__ == "__main__":
    main()
