"""The pin of a team's repository: the version of Lockstep, with its extras and the SHA-256 of its wheel.

The file lockstep-requirements.txt is one of pip's, so that Dependabot and Renovate can change the pin. Further lines
are packages with kinds of the team's.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from checks.process import distribution
from checks.process.errors import MachineRefused, ParamsRefused
from checks.process.text import redact

PATH = Path(distribution.PIN)
EXTRAS = "dvc,pipeline,http,serve"
# A line of the file, after lines that end in a backslash were joined. pip would take options, too.
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[(?P<extras>[\w,. -]*)\])?==(?P<version>[\w.!+-]+)"
    r"(?P<hashes>(?:[ \t]+--hash=sha256:[0-9a-f]{64})+)[ \t]*"
)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_JOINED = re.compile(r"[ \t]*\\\n[ \t]*")
_VERSION = re.compile(r"[0-9][\w.!+-]{0,50}")


class Pin(NamedTuple):
    """A version of Lockstep. ``extras``: as the file has them. ``hashes``: the SHA-256 of its wheel, among others."""

    extras: str
    version: str
    hashes: tuple[str, ...]

    def line(self) -> str:
        """Return the line of the file."""
        hashes = " ".join(f"--hash=sha256:{sha256}" for sha256 in self.hashes)
        return f"{distribution.NAME}[{self.extras}]=={self.version} {hashes}"


def written(pin: Pin) -> str:
    """Return a new file."""
    told = "# The version of Lockstep that ./lockstep sets up: `./lockstep upgrade` changes it.\n"
    return f"{told}{pin.line()}\n"


def read(text: str) -> Pin:
    """Return the pin in a file.

    Raises ParamsRefused for a line that is no package with a version and hashes, because pip might read more in it, and
    for any number of pins but one.
    """
    pins = [
        Pin(match["extras"] or "", match["version"], tuple(_HASH.findall(match["hashes"])))
        for match in _packages(text)
        if canonicalize_name(match["name"]) == distribution.NAME
    ]
    if len(pins) != 1:
        raise ParamsRefused(
            f"{PATH}: has {len(pins)} pins of {distribution.NAME}",
            f"write one line: {distribution.NAME}[{EXTRAS}]==VERSION --hash=sha256:…",
        )
    return pins[0]


def hashes(text: str) -> dict[str, frozenset[str]]:
    """Return the SHA-256 that a file names for each package, by its canonical name. Raises as ``read``."""
    return {
        canonicalize_name(match["name"]): frozenset(_HASH.findall(match["hashes"]))
        for match in _packages(text)
    }


def _packages(text: str) -> Iterator[re.Match[str]]:
    for line in _lines(text):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ParamsRefused(
                f"{PATH}: {redact(line, 80)!r}: is not a package with a version and its hash",
                "write NAME[EXTRAS]==VERSION --hash=sha256:…; options of pip belong in its variables",
            )
        yield match


def replaced(text: str, pin: Pin) -> str:
    """Return the file with another pin; its other lines stay. Raises as ``read``."""
    read(text)
    joined = _JOINED.sub(" ", text).splitlines()
    return "".join(f"{pin.line() if _is_pin(line) else line}\n" for line in joined)


def _is_pin(line: str) -> bool:
    match = _LINE.fullmatch(line.strip())
    return match is not None and canonicalize_name(match["name"]) == distribution.NAME


def _lines(text: str) -> Iterator[str]:
    """Yield the lines that pip reads: joined where one ends in a backslash, without comments."""
    for line in _JOINED.sub(" ", text).splitlines():
        if (content := line.strip()) and not content.startswith("#"):
            yield content


def of(version: str | None, extras: str = EXTRAS) -> Pin:
    """Ask pip's package index for the wheel of a version, the newest if None, and pin it.

    Raises ParamsRefused for what is no version, MachineRefused if pip brings no wheel.
    """
    if version is not None and not _VERSION.fullmatch(version):
        raise ParamsRefused(f"{version!r}: is not a version", "give one such as 0.2.0")
    requirement = distribution.NAME if version is None else f"{distribution.NAME}=={version}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
        command = [*_pip(folder), "download", *options, "-d", str(folder / "wheels"), requirement]
        # Nothing is imported from the current folder, and no index is asked for a pin that is not known yet.
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
        wheels = list((folder / "wheels").glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            why = redact(" ".join(lines[-1:]) or f"pip ended with {done.returncode}", 200)
            raise MachineRefused(
                f"{requirement}: pip brings no wheel: {why}",
                "name an index or a folder that has it: PIP_INDEX_URL, PIP_FIND_LINKS",
            )
        found = re.fullmatch(r"lockstep_llm-([^-]+)-py3-none-any\.whl", wheels[0].name)
        if found is None:
            raise MachineRefused(
                f"{wheels[0].name}: is not a wheel of {distribution.NAME}", "use another index"
            )
        return Pin(extras, found[1], (hashlib.sha256(wheels[0].read_bytes()).hexdigest(),))


def _pip(folder: Path) -> list[str]:
    """Return the command of this Python's pip, or of a new environment's: uv and pipx install none."""
    own = [sys.executable, "-P", "-m", "pip"]
    if not subprocess.run([*own, "--version"], check=False, capture_output=True).returncode:
        return own
    environment = folder / "venv"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "venv", str(environment)], check=False, capture_output=True
    )
    if done.returncode:
        raise MachineRefused("this Python has no pip, and venv makes none", "install python3-venv")
    return [str(environment / "bin" / "python"), "-P", "-m", "pip"]
