"""upgrade: moves a repository to another version of Lockstep: the pin, the generated files and code.lock.

The pin is changed first. Then the launcher runs this verb again in the new version, which knows its own files.
"""

import contextlib
import difflib
import re
from pathlib import Path
from typing import NamedTuple

from checks.code import lock
from checks.config import params_file, params_migration
from checks.config.params import Params
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


def repin(top: Path, version: str | None, workflows: str | None = None) -> Pin:
    """Pin a version of Lockstep, the newest if None, and return the pin. ``workflows``: as for ``upgrade``.

    Its own packages that an extra installs, such as lockstep-lake, are pinned at the same version.
    Writes nothing if the called workflows are not there in this version. Raises as ``pin.of``, ``pin.read`` and
    ``workflow_pin.of``.
    """
    path = top / pin.PATH
    old = pinned(top)
    text = path.read_text(encoding="utf-8") if old else ""
    new = pin.of(version, old.extras if old else pin.EXTRAS, pin.hashes(text))
    _workflows(workflows, _called(top), new.version, write=True)
    files.write_text(path, pin.replaced(text, new) if old else pin.written(new))
    return new


def upgrade(top: Path, workflows: str | None, replace: frozenset[str], *, write: bool) -> Upgraded:
    """Write the files and code.lock of the version that runs, or only say what would be written.

    ``workflows``: the repository of called workflows, with or without a commit; None: the one that is called now.
    ``replace``: files that are written although a person changed them. Raises ParamsRefused if another version is
    pinned, and as ``workflow_pin.of``.
    """
    version = distribution.version()
    _refuse_other_pin(top, version)
    called = _workflows(workflows, _called(top), version, write=write)
    roots = projects(top)
    generated = places(
        top, roots, thin_files.generated(called), adds_workflows=workflows is not None
    )
    plain = thin_files.without_stamp
    there = {name: _read(top / name) for name in generated}
    other = {
        name: data
        for name, data in generated.items()
        if (old := there[name]) is None or plain(old) != plain(data)
    }
    kept = [
        name
        for name in other
        if name not in replace and (old := there[name]) is not None and thin_files.is_edited(old)
    ]
    new = {name: data for name, data in other.items() if name not in kept}
    new |= thin_files.completed(top) | _signers(top, roots, called) | _params(top, roots)
    diffs = {name: _diff(name, _read(top / name), data) for name, data in new.items()}
    for name, data in new.items() if write else ():
        _write(top / name, data)
    stale, problems = _all_stale(top, roots, new, write=write)
    differences = {name: _diff(name, _read(top / name), other[name]) for name in kept}
    return Upgraded(version, diffs, differences, stale, problems)


def _refuse_other_pin(top: Path, version: str) -> None:
    wanted = pinned(top)
    if wanted is None or wanted.version != version:
        there = "nothing" if wanted is None else wanted.version
        raise ParamsRefused(
            f"{pin.PATH}: pins {there}, and this is Lockstep {version}",
            "run it by the launcher, ./lockstep, which runs the pinned version; or pin one: `lockstep upgrade VERSION`",
        )


def _signers(top: Path, roots: list[Path], called: str | None) -> dict[str, bytes]:
    """Return the files of signers that get the commit of the called workflows, by path. One that is not valid stays."""
    new = dict[str, bytes]()
    repository, _, commit = (called or "").partition("@")
    for path in dict.fromkeys(root / layout.SIGNERS for root in (top, *roots) if called):
        with contextlib.suppress(Refusal, UnicodeDecodeError, FileNotFoundError):
            old = path.read_text(encoding="utf-8")
            if (text := signers.with_commit(old, repository, commit)) != old:
                new[path.relative_to(top).as_posix()] = text.encode()
    return new


def _params(top: Path, roots: list[Path]) -> dict[str, bytes]:
    """Return each params.yaml of an earlier version as this one takes it, by path."""
    new = dict[str, bytes]()
    for path in (root / layout.PARAMS for root in roots):
        old = path.read_bytes()
        # What cannot be read is a problem once its stages are asked for.
        with contextlib.suppress(UnicodeDecodeError, Refusal):
            if (data := params_migration.migrated(old.decode()).encode()) != old:
                new[path.relative_to(top).as_posix()] = data
    return new


def _all_stale(
    top: Path, roots: list[Path], new: dict[str, bytes], *, write: bool
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the stages that run again, by the folder of their project, and what the new params.yaml cannot say."""
    stale, problems = dict[str, list[str]](), list[str]()
    for root in roots:
        folder, path = root.relative_to(top).as_posix(), root / layout.PARAMS
        data = new.get(path.relative_to(top).as_posix())
        try:
            params = params_file.parse(data.decode(), str(path)) if data else params_file.load(path)
            stale[folder] = _stale(root, params, write=write)
        except Refusal as refused:
            problems += [f"{folder}: {line}" for line in (str(refused), *refused.others)]
    return stale, tuple(problems)


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


def _stale(root: Path, params: Params, *, write: bool) -> list[str]:
    """Return the stages whose code is another one in this version; writes code.lock. Raises as ``lock.of``.

    The stage ``code`` is among them if the policy's defaults in code.lock are others. Where nothing ran yet, as after
    ``init``, the first run writes code.lock, and nothing runs again.
    """
    new, defaults = lock.of(params, lock.at(root)), policy.defaults(params)
    old, recorded = dict[str, str](), None
    with contextlib.suppress(Refusal):
        committed = lock.read(root)
        old, recorded = committed.stages, committed.defaults
    if write:
        lock.write(root, params, defaults)
    if not old and not (root / layout.LOCK).exists():
        return []
    first = [] if recorded == defaults else [lock.STAGE]
    return first + [stage for stage, digest in new.items() if old.get(stage) != digest]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as stream:
        stream.write(data)
    if path.name == thin_files.LAUNCHER:
        path.chmod(0o755)


def _diff(name: str, old: bytes | None, new: bytes) -> str:
    before = (old or b"").decode(errors="replace").splitlines(keepends=True)
    after = new.decode(errors="replace").splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, name, name, n=1))
