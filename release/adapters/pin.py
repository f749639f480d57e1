"""The pin of a team's repository: the version of Lockstep, with its extras and the SHA-256 of its wheel.

The file lockstep-requirements.txt is one of pip's, so that Dependabot and Renovate can change the pin. Further lines
are packages with kinds: Lockstep's own that an extra installs, and the team's.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
# The names of packages that Lockstep's own extras install begin so.
_OWN = "lockstep-"
_VERSION = re.compile(r"[0-9][\w.!+-]{0,50}")


class Pin(NamedTuple):
    """A version of Lockstep, or of a package of Lockstep's own that extras install, such as lockstep-lake.

    ``extras``: as the file has them. ``hashes``: the SHA-256 of its wheel, among others. ``packages``: those that the
    extras install; ``read`` leaves them out.
    """

    extras: str
    version: str
    hashes: tuple[str, ...]
    packages: "tuple[Pin, ...]" = ()
    name: str = distribution.NAME

    def line(self) -> str:
        """Return the line of the file."""
        extras = f"[{self.extras}]" if self.extras else ""
        options = " ".join(f"--hash=sha256:{sha256}" for sha256 in self.hashes)
        return f"{self.name}{extras}=={self.version} {options}"


def written(pin: Pin) -> str:
    """Return a new file."""
    header = "# The version of Lockstep that ./lockstep sets up: `./lockstep upgrade` changes it.\n"
    lines = [pin.line(), *(package.line() for package in pin.packages)]
    return header + "".join(f"{line}\n" for line in lines)


def read(text: str) -> Pin:
    """Return the pin in a file.

    Raises ParamsRefused for a line that is no package with a version and hashes, because pip might read more in it, and
    for any number of pins but one.
    """
    pins = [
        Pin(match["extras"] or "", match["version"], tuple(_HASH.findall(match["hashes"])))
        for match in _packages(text)
        if canonical(match["name"]) == distribution.NAME
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
        canonical(match["name"]): frozenset(_HASH.findall(match["hashes"]))
        for match in _packages(text)
    }


def _packages(text: str) -> Iterator[re.Match[str]]:
    """Yield the packages of the lines that pip reads: joined where one ends in a backslash, without comments."""
    lines = map(str.strip, _JOINED.sub(" ", text).splitlines())
    for line in (line for line in lines if line and not line.startswith("#")):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ParamsRefused(
                f"{PATH}: {redact(line, 80)!r}: is not a package with a version and its hash",
                "write NAME[EXTRAS]==VERSION --hash=sha256:…; options of pip belong in its variables",
            )
        yield match


def replaced(text: str, pin: Pin) -> str:
    """Return the file with another pin and its packages; its other lines stay. Raises as ``read``."""
    read(text)
    lines = {package.name: package.line() for package in pin.packages}
    kept = [line for line in _JOINED.sub(" ", text).splitlines() if _name(line) not in lines]
    own = "\n".join([pin.line(), *lines.values()])
    return "".join(f"{own if _name(line) == distribution.NAME else line}\n" for line in kept)


def canonical(name: str) -> str:
    """Return the name of a package as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _name(line: str) -> str | None:
    """Return the canonical name of the package in a line; None for another line."""
    match = _LINE.fullmatch(line.strip())
    return match and canonical(match["name"])


def of(version: str | None, extras: str = EXTRAS, named: Collection[str] = ()) -> Pin:
    """Ask pip's package index for the wheel of a version, the newest if None, and pin it.

    Pins Lockstep's own packages at the same version, if ``extras`` install them or they are among ``named``. Raises
    ParamsRefused for what is no version, MachineRefused if pip brings no wheel.
    """
    if version is not None and not _VERSION.fullmatch(version):
        raise ParamsRefused(f"{version!r}: is not a version", "give one such as 0.2.0")
    wheel, metadata = _wheel(distribution.NAME, version)
    version = metadata["version"]
    requirements = metadata.get("requires_dist", [])
    extra = own_packages(requirements, {part.strip() for part in extras.split(",")})
    wanted = sorted(extra | own_packages(requirements).intersection(named))
    packages = (Pin("", version, (_wheel(name, version)[0],), name=name) for name in wanted)
    return Pin(extras, version, (wheel,), tuple(packages))


def own_packages(requirements: Iterable[str], extras: Iterable[str] | None = None) -> set[str]:
    """Return the packages of Lockstep's own among its requirements; with ``extras``, those that these install."""
    from packaging.requirements import Requirement

    own = [
        requirement
        for requirement in map(Requirement, requirements)
        if canonical(requirement.name).startswith(_OWN)
    ]
    if extras is not None:
        known = [{"extra": extra} for extra in ("", *extras)]
        own = [one for one in own if one.marker is None or any(map(one.marker.evaluate, known))]
    return {canonical(requirement.name) for requirement in own}


def _wheel(name: str, version: str | None) -> tuple[str, dict[str, Any]]:
    """Return SHA-256 and metadata of the wheel that pip would install. Raises MachineRefused if pip brings none."""
    requirement = name if version is None else f"{name}=={version}"
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    report = ["--dry-run", "--ignore-installed", "--report", "-"]
    # Nothing is imported from the current folder, and no index is asked for a pin that is not known yet.
    with tempfile.TemporaryDirectory() as folder:
        command = [*_pip(Path(folder)), "install", *options, *report, requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = redact(" ".join(lines[-1:]) or f"pip ended with {done.returncode}", 200)
        raise MachineRefused(
            f"{requirement}: pip brings no wheel: {why}",
            "name an index or a folder that has it: PIP_INDEX_URL, PIP_FIND_LINKS",
        )
    (wheel,) = json.loads(done.stdout)["install"]
    source = wheel["download_info"]
    sha256 = source["archive_info"].get("hashes", {}).get("sha256")
    if not sha256 or not source["url"].endswith("-py3-none-any.whl"):
        raise MachineRefused(f"{requirement}: is not a wheel of {name}", "use another index")
    return sha256, wheel["metadata"]


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
