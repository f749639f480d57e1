"""upgrade: moves a repository to another version of Lockstep: the pin, the generated files and code.lock.

The pin is changed first. Then the launcher runs this verb again in the new version, which knows its own files.
"""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from checks.code import lock
from checks.config import params_file
from checks.decision import policy
from checks.formats import signers
from checks.process import distribution
from checks.process.errors import ParamsRefused, Refusal, RemoteRefused
from checks.storage import files, layout
from release.adapters import pin, thin_files, workflow_pin
from release.adapters.pin import Pin

_CALLED = re.compile(rb"uses: ([\w.-]+/[\w.-]+)/\.github/workflows/[\w.-]+@([0-9a-f]{40})")


class Upgraded(NamedTuple):
    """Lists what an upgrade changes. Paths are those below the top of the repository.

    ``diffs``: of each file that is written. ``kept``: the same of files that a person changed, which stay. ``stale``:
    the stages that run again, by the folder of their project. ``problems``: what params.yaml says that this version
    does not take.
    """

    version: str
    diffs: dict[str, str]
    kept: dict[str, str]
    stale: dict[str, list[str]]
    problems: tuple[str, ...]


def pinned(top: Path) -> Pin | None:
    """Return the pin of a repository; None if it has none. Raises ParamsRefused as ``pin.read``."""
    data = _read(top / pin.PATH)
    return None if data is None else pin.read(data.decode(errors="replace"))


def repin(top: Path, version: str | None) -> Pin:
    """Pin a version of Lockstep, the newest if None, and return the pin. Raises as ``pin.of`` and ``pin.read``."""
    old = pinned(top)
    new = pin.of(version, old.extras if old else pin.EXTRAS)
    path = top / pin.PATH
    text = pin.replaced(path.read_text(encoding="utf-8"), new) if old else pin.written(new)
    files.write_text(path, text)
    return new


def upgrade(top: Path, workflows: str | None, replace: frozenset[str], *, write: bool) -> Upgraded:
    """Write the generated files and code.lock of the version that runs, or only say what would be written.

    ``workflows``: the repository of called workflows, with or without a commit; None: the one that is called now.
    ``replace``: files that are written although a person changed them. Raises ParamsRefused if another version is
    pinned, and as ``workflow_pin.of``.
    """
    version = distribution.version()
    wanted = pinned(top)
    if wanted is None or wanted.version != version:
        there = "nothing" if wanted is None else wanted.version
        raise ParamsRefused(
            f"{pin.PATH}: pins {there}, and this is Lockstep {version}",
            "run it by the launcher, ./lockstep, which runs the pinned version; or pin one: `lockstep upgrade VERSION`",
        )
    pinned_workflows = _workflows(workflows, _called(top), version, write=write)
    generated = thin_files.generated(pinned_workflows)
    roots = projects(top)
    diffs, kept = dict[str, str](), dict[str, str]()
    for name, data in places(top, roots, generated, adds_workflows=workflows is not None).items():
        old = _read(top / name)
        difference = _diff(name, old, data)
        if old is not None and thin_files.without_stamp(old) == thin_files.without_stamp(data):
            continue
        if old is not None and thin_files.is_edited(old) and name not in replace:
            kept[name] = difference
            continue
        diffs[name] = difference
        if write:
            _write(top / name, data)
    for path in dict.fromkeys(root / layout.SIGNERS for root in (top, *roots)):
        if pinned_workflows and path.is_file() and (new := _trusting(path, pinned_workflows)):
            name = path.relative_to(top).as_posix()
            diffs[name] = _diff(name, path.read_bytes(), new)
            if write:
                _write(path, new)
    stale, problems = dict[str, list[str]](), list[str]()
    for root in roots:
        folder = root.relative_to(top).as_posix()
        try:
            stale[folder] = _stale(root, write=write)
        except Refusal as refused:
            problems += [
                f"{folder}: {refused}",
                *(f"{folder}: {other}" for other in refused.others),
            ]
    return Upgraded(version, diffs, kept, stale, tuple(problems))


def _trusting(path: Path, workflows: str) -> bytes | None:
    """Return the file of signers with the commit of the called workflows; None if it has it or is not valid."""
    repository, _, commit = workflows.partition("@")
    try:
        text = path.read_text(encoding="utf-8")
        new = signers.with_commit(text, repository, commit)
    except (Refusal, UnicodeDecodeError):
        return None
    return new.encode() if new != text else None


def names() -> list[str]:
    """Return the names of the generated files, without their folders."""
    return sorted({Path(name).name for name in thin_files.generated("OWNER/lockstep@COMMIT")})


def projects(top: Path) -> list[Path]:
    """Return the folders of a repository that have a params.yaml: its top, and those of ``projects``."""
    folders = [top, *sorted((top / thin_files.PROJECTS).glob("*"))]
    return [folder for folder in folders if (folder / layout.PARAMS).is_file()]


def places(
    top: Path, roots: list[Path], generated: dict[str, bytes], *, adds_workflows: bool
) -> dict[str, bytes]:
    """Return the generated files by path below ``top``. A workflow that a team removed stays away."""
    places = dict[str, bytes]()
    for name, data in generated.items():
        if name == layout.PIPELINE.as_posix():
            places |= {(root / name).relative_to(top).as_posix(): data for root in roots}
        elif not name.startswith(".github/") or adds_workflows or (top / name).exists():
            places[name] = data
    return places


def _workflows(given: str | None, called: str | None, version: str, *, write: bool) -> str | None:
    """Return the pin of the called workflows: what was given, or the version's tag where they are called from now.

    Where nothing is written, and the git server does not answer, it is the pin of now.
    """
    if given is None and called is None:
        return None
    try:
        return workflow_pin.of(given or str(called).partition("@")[0], version)
    except RemoteRefused:
        if write or called is None:
            raise
        return called


def _called(top: Path) -> str | None:
    """Return where Lockstep's own workflows call, OWNER/NAME@COMMIT. Raises ParamsRefused for several repositories."""
    names = [name for name in thin_files.templates() if name.startswith(".github/workflows/")]
    contents = [data for name in names if (data := _read(top / name)) is not None]
    called = [match for data in contents for match in _CALLED.finditer(data)]
    repositories = sorted({match[1].decode() for match in called})
    if len(repositories) > 1:
        raise ParamsRefused(
            f".github/workflows: call workflows of {' and '.join(repositories)}",
            "give --workflows OWNER/lockstep, the one that all call from now on",
        )
    return f"{repositories[0]}@{called[0][2].decode()}" if called else None


def _stale(root: Path, *, write: bool) -> list[str]:
    """Return the stages whose code is another one in this version; writes code.lock. Raises as ``lock.of``."""
    params = params_file.load(root / layout.PARAMS)
    new = lock.of(params, lock.at(root))
    try:
        old = lock.read(root).stages
    except Refusal:
        old = {}
    if write:
        lock.write(root, params, policy.defaults(params))
    return [stage for stage, digest in new.items() if old.get(stage) != digest]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, data.decode())
    if path.name == thin_files.LAUNCHER:
        path.chmod(0o755)


def _diff(name: str, old: bytes | None, new: bytes) -> str:
    before = (old or b"").decode(errors="replace").splitlines(keepends=True)
    after = new.decode().splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, name, name, n=1))
