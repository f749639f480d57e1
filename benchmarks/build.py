"""`lockstep build --push` against `docker build` + `docker push`, and against `cp` and `sha256sum`.

In:  nothing; a record of random weights (2 GiB in four shards) is made in a temporary directory, with a verdict that
     passes. Needs `docker-registry`, and a Docker engine for its rows (left out, and said, where none answers).
     About 12 GB of disk at --dir.
Out: a Markdown table: seconds (all rounds in brackets), the ratio to `cp` + `sha256sum` of the same round, bytes that
     the registry took, peak resident memory of the process, sampled every 20 ms. All sides take turns; each push goes
     to a registry that was just started with an empty folder, but for the two that ask what is sent the second time.
     "A bare pass" is the least that such a push can be: each shard is read, hashed once and uploaded, four at a time,
     with nothing checked, nothing resumed and no image made.
     The weights are in the page cache. Docker's layers are pruned between rounds.
Run: python -m benchmarks.build [--rounds 3] [--mib 2048] [--dir FOLDER]
"""

import argparse
import hashlib
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from checks import digest, files, layout
from checks.config.params import Params
from checks.formats.training_reports import MergedFile, ParityReport
from tests import build_tree
from tests.conftest import scaled_down
from tests.registry_service import registry

SHARDS = 4
_BLOCK = 1 << 24


class Measured(NamedTuple):
    """One run: seconds, bytes that a registry took, peak resident bytes; None where there is no such thing."""

    seconds: float
    sent: int | None = None
    peak: int | None = None


def main() -> None:
    """Make the record, measure every side in turn, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=2048, help="of weights, in four shards")
    parser.add_argument("--dir", type=Path, help="where the temporary directory is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-build-", dir=options.dir) as name:
        table = measure(Path(name), options.rounds, options.mib << 20)
    print(table)


def measure(folder: Path, rounds: int, size: int) -> str:
    """All sides, ``rounds`` times in turn; returns the table."""
    root = folder / "record"
    document = scaled_down()
    del document["gates"]["fits_the_budget"]
    params = build_tree.make(root, document=document)
    for shard in (root / layout.MERGED).glob("*.safetensors"):
        shard.unlink()
    for number in range(SHARDS):
        _random(_shard(root, number), size // SHARDS)
    _record(root, params)
    docker = subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
    found: dict[str, list[Measured]] = {}

    def keep(side: str, measured: Measured) -> None:
        found.setdefault(side, []).append(measured)

    for _ in tqdm(range(rounds), desc="rounds"):
        for path in (root / layout.MERGED).iterdir():
            digest.of_file(path)  # into the page cache
        keep("cp", _timed(["cp", "--recursive", "--reflink=never", str(root / layout.MERGED), str(folder / "copy")]))
        shutil.rmtree(folder / "copy")
        keep("sha256sum", _timed(["sha256sum", *(str(_shard(root, n)) for n in range(SHARDS))]))
        with registry(_fresh(folder / "bare")) as place:
            keep("a bare pass", _bare(root, place.host))
        with registry(_fresh(folder / "ours")) as place:
            (root / layout.LAYERS).unlink(missing_ok=True)
            image = f"{place.host}/bench/router"
            keep("lockstep build --push", _pushed(root, image, place.folder))
            keep("… again, nothing changed", _pushed(root, image, place.folder))
            _random(_shard(root, 1), size // SHARDS)
            _record(root, params)
            keep("… one shard of four changed", _pushed(root, image, place.folder))
        if docker:
            with registry(_fresh(folder / "docker")) as place:
                build, push = _docker(root, f"{place.host}/bench/router:1", place.folder)
                keep("docker build", build)
                keep("docker push", push)
    return _table(found, docker)


def _shard(root: Path, number: int) -> Path:
    return root / layout.MERGED / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"


def _random(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        for start in range(0, size, _BLOCK):
            stream.write(os.urandom(min(_BLOCK, size - start)))


def _record(root: Path, params: Params) -> None:
    """Make what lies in models/merged the model that the committed verdict passes."""
    tree = digest.of_tree(root / layout.MERGED)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    described = {name: MergedFile(sha256=file.sha256, size=file.size) for name, file in tree.files.items()}
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"merged": tree.digest, "files": described}))
    build_tree.judge(root, params)
    build_tree.commit(root, "record")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _pushed(root: Path, image: str, storage: Path) -> Measured:
    command = [sys.executable, "-m", "release.cli", "-C", str(root), "build", "--push", image]
    before = _held(storage)
    run = _timed(command)
    return run._replace(sent=_held(storage) - before)


def _bare(root: Path, host: str) -> Measured:
    """Hash and upload the shards as they are, in one request each."""
    started = time.perf_counter()
    with ThreadPoolExecutor(SHARDS) as pool:
        sizes = list(pool.map(lambda number: _uploaded(_shard(root, number), host), range(SHARDS)))
    return Measured(time.perf_counter() - started, sum(sizes))


def _uploaded(path: Path, host: str) -> int:
    """One file as a blob; its size."""
    connection, hasher, size = http.client.HTTPConnection(host), hashlib.sha256(), path.stat().st_size

    def blocks() -> Iterator[bytes]:
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 20):
                hasher.update(block)
                yield block

    def ask(method: str, url: str, body: Iterator[bytes] | None = None, length: int = 0) -> str:
        connection.request(
            method, url, body, {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        )
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (201, 202), answer.status
        return urlsplit(answer.headers["Location"])._replace(scheme="", netloc="").geturl()

    where = ask("PATCH", ask("POST", "/v2/bench/bare/blobs/uploads/"), blocks(), size)
    ask("PUT", f"{where}{'&' if '?' in where else '?'}digest=sha256:{hasher.hexdigest()}")
    return size


def _docker(root: Path, image: str, storage: Path) -> tuple[Measured, Measured]:
    (root / layout.MERGED / "Dockerfile").write_text(
        "FROM scratch\nCOPY *.safetensors /models/router/\nCOPY *.json /models/router/\n"
    )
    try:
        build = _timed(["docker", "build", "--quiet", "--tag", image, str(root / layout.MERGED)])
        push = _timed(["docker", "push", "--quiet", image])
        return build._replace(peak=None), push._replace(sent=_held(storage), peak=None)
    finally:
        (root / layout.MERGED / "Dockerfile").unlink()
        for command in (["rmi", "--force", image], ["builder", "prune", "--all", "--force"]):
            subprocess.run(["docker", *command], capture_output=True, check=False)


def _held(storage: Path) -> int:
    """Bytes of the blobs and manifests that a registry keeps below ``storage``."""
    return sum(path.stat().st_size for path in storage.glob("data/docker/registry/v2/blobs/sha256/*/*/data"))


def _timed(command: list[str]) -> Measured:
    """One process: its seconds, and the most memory that it held."""
    peak = 0
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            peak = max(peak, _most_held(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            words = said.read().decode()[-2000:]
            raise SystemExit(f"{' '.join(command[:6])} … ended with {process.returncode}: {words}")
    return Measured(seconds, None, peak or None)


def _most_held(pid: int) -> int:
    """The most memory that a process held so far, bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _table(found: dict[str, list[Measured]], docker: bool) -> str:
    reference = [cp.seconds + sums.seconds for cp, sums in zip(found["cp"], found["sha256sum"], strict=True)]
    rows: dict[str, list[Measured]] = {
        "cp + sha256sum": [Measured(seconds) for seconds in reference],
        **{side: runs for side, runs in found.items() if side not in ("docker build", "docker push")},
    }
    if docker:
        both = zip(found["docker build"], found["docker push"], strict=True)
        rows["docker build + docker push"] = [Measured(b.seconds + p.seconds, p.sent) for b, p in both]
    median: Callable[[list[float]], float] = statistics.median
    lines = ["| | seconds | to cp + sha256sum | MB sent | peak MB |", "| --- | --- | --- | --- | --- |"]
    for side, runs in rows.items():
        seconds = [run.seconds for run in runs]
        ratio = median([one / base for one, base in zip(seconds, reference, strict=True)])
        every = ", ".join(f"{one:.1f}" for one in seconds)
        sent = "" if runs[0].sent is None else f"{max(run.sent or 0 for run in runs) / 1e6:.1f}"
        peak = "" if runs[0].peak is None else f"{max(run.peak or 0 for run in runs) / 1e6:.0f}"
        lines.append(f"| {side} | {median(seconds):.2f} ({every}) | {ratio:.2f} | {sent} | {peak} |")
    if not docker:
        lines.append("\nNo Docker engine answers here: its rows are left out.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
