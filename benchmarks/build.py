"""`lockstep build --push` against one pass that hashes and uploads, and against `docker build` + `docker push`.

    python -m benchmarks.build [--rounds 3] [--mib 2048] [--docker 1]

In:  nothing; a record of random weights (2 GiB in four shards) is made in a temporary directory, with a verdict that
     passes. Needs `docker-registry` and, unless `--docker` is 0, a Docker engine. About 12 GB of disk.
Out: a Markdown table: seconds (all rounds in brackets), the ratio to `benchmarks.one_pass` of the same round, bytes
     that the registry took, peak resident memory. All sides take turns; each push goes to a registry that was just
     started with an empty folder, but for the two that ask what is sent the second time. The weights are in the page
     cache.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import processes, tables
from checks.config.params import Params
from checks.formats.training_reports import MergedFile, ParityReport
from checks.storage import digest, files, layout
from tests import build_tree
from tests.conftest import scaled_down
from tests.registry_service import registry

SHARDS = 4
_BLOCK = 1 << 24
_REFERENCE = "one pass that hashes and uploads"


class Push(NamedTuple):
    """Seconds, bytes that a registry took, and peak resident bytes; 0 where there is no such thing."""

    seconds: float
    sent: int = 0
    peak: int = 0


def main() -> None:
    """Make the record, measure every side in turn, print the table."""
    options = tables.numbers(__doc__, rounds=3, mib=2048, docker=1)
    sides: dict[str, list[Push]] = {}
    with tempfile.TemporaryDirectory(prefix="lockstep-build-") as name:
        root = Path(name) / "record"
        params = _make(root, options.mib << 20)
        for _ in tqdm(range(options.rounds), desc="rounds"):
            for side, push in _round(root, params, options).items():
                sides.setdefault(side, []).append(push)
    columns = ("", "seconds", "to one pass", "MB sent", "peak MB")
    tables.show("Build", columns, _rows(sides))


def _make(root: Path, size: int) -> Params:
    document = scaled_down()
    del document["gates"]["fits_the_budget"]
    params = build_tree.make(root, document=document)
    for shard in (root / layout.MERGED).glob("*.safetensors"):
        shard.unlink()
    for number in range(SHARDS):
        write_random(shard_of(root, number), size // SHARDS)
    record(root)
    build_tree.judge(root, params)
    build_tree.commit(root, "record")
    return params


def _round(root: Path, params: Params, options: argparse.Namespace) -> dict[str, Push]:
    """Measure every side once."""
    merged, sides = root / layout.MERGED, dict[str, Push]()
    for path in merged.iterdir():
        digest.of_file(path)  # This brings the file into the page cache.
    with registry(_fresh(root.parent / "reference")) as place:
        shards = [str(shard_of(root, number)) for number in range(SHARDS)]
        uploads = f"http://{place.host}/v2/bench/router/blobs/uploads/"
        command = [sys.executable, "-m", "benchmarks.one_pass", uploads, *shards]
        sides[_REFERENCE] = _pushed(place.folder, command)
    with registry(_fresh(root.parent / "ours")) as place:
        (root / layout.LAYERS).unlink(missing_ok=True)
        image = f"{place.host}/bench/router"
        command = [sys.executable, "-m", "release.cli", "-C", str(root), "build", "--push", image]
        sides["lockstep build --push"] = _pushed(place.folder, command)
        sides["… again, nothing changed"] = _pushed(place.folder, command)
        write_random(shard_of(root, 1), (options.mib << 20) // SHARDS)
        record(root)
        build_tree.judge(root, params)
        build_tree.commit(root, "record")
        sides["… one shard of four changed"] = _pushed(place.folder, command)
    if options.docker:
        with registry(_fresh(root.parent / "docker")) as place:
            image = f"{place.host}/bench/router:1"
            sides["docker build + docker push"] = _docker(merged, image, place.folder)
    return sides


def shard_of(root: Path, number: int) -> Path:
    """Return the path of a shard of the weights."""
    return root / layout.MERGED / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"


def write_random(path: Path, size: int) -> None:
    """Write so many random bytes."""
    with path.open("wb") as stream:
        for start in range(0, size, _BLOCK):
            stream.write(os.urandom(min(_BLOCK, size - start)))


def record(root: Path) -> None:
    """Make the weights of models/merged the model of the parity report."""
    tree = digest.of_tree(root / layout.MERGED)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    merged = {
        name: MergedFile(sha256=file.sha256, size=file.size) for name, file in tree.files.items()
    }
    files.write_json(
        root / layout.PARITY_REPORT,
        report.model_copy(update={"merged": tree.digest, "files": merged}),
    )


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _pushed(storage: Path, command: list[str]) -> Push:
    before = _stored(storage)
    took = processes.run(command)
    return Push(took.seconds, _stored(storage) - before, took.peak)


def _docker(merged: Path, image: str, storage: Path) -> Push:
    """Build and push with Docker, and remove its layers again."""
    dockerfile = merged / "Dockerfile"
    dockerfile.write_text(
        "FROM scratch\nCOPY *.safetensors /models/router/\nCOPY *.json /models/router/\n"
    )
    try:
        built = processes.run(["docker", "build", "--quiet", "--tag", image, str(merged)])
        pushed = processes.run(["docker", "push", "--quiet", image])
        return Push(built.seconds + pushed.seconds, _stored(storage))
    finally:
        dockerfile.unlink()
        for command in (["rmi", "--force", image], ["builder", "prune", "--all", "--force"]):
            subprocess.run(["docker", *command], capture_output=True, check=False)


def _stored(storage: Path) -> int:
    """Return the bytes of the blobs and manifests that a registry keeps."""
    return sum(
        path.stat().st_size
        for path in storage.glob("data/docker/registry/v2/blobs/sha256/*/*/data")
    )


def _rows(sides: dict[str, list[Push]]) -> Iterator[tuple[object, ...]]:
    reference = [push.seconds for push in sides[_REFERENCE]]
    for side, pushes in sides.items():
        seconds = [push.seconds for push in pushes]
        ratio = statistics.median(
            [one / base for one, base in zip(seconds, reference, strict=True)]
        )
        rounds = f"{statistics.median(seconds):.2f} ({', '.join(f'{one:.1f}' for one in seconds)})"
        sent, peak = (
            max(figures) / 1e6 for figures in ([p.sent for p in pushes], [p.peak for p in pushes])
        )
        yield side, rounds, f"{ratio:.2f}", f"{sent:.1f}", f"{peak:.0f}"


if __name__ == "__main__":
    main()
