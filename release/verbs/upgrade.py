"""upgrade: moves a repository to another version of Lockstep: the pin, the generated files and code.lock.

The pin is changed first. Then the launcher runs this verb again in the new version, which knows its own files.
"""

import contextlib
import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.code import lock
from checks.config import params_file, params_migration
from checks.config.params import Params
from checks.decision import policy
from checks.formats import signers
from checks.process import distribution
from checks.process.errors import ParamsRefused, Refusal
from checks.storage import files, layout
from release.adapters import pin, thin_files, workflow_pin


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


def pinned(top: Path) -> pin.Pin | None:
    """Return the pin of a repository; None if it has none. Raises ParamsRefused as ``pin.read``."""
    data = _read(top / pin.PATH)
    return None if data is None else pin.read(data.decode(errors="replace"))


def repin(top: Path, version: str | None, workflows: str | None = None) -> pin.Pin:
    """Pin a version of Lockstep, the newest if None, and return the pin. ``workflows``: as for ``upgrade``.

    Its own packages that an extra installs, such as lockstep-lake, are pinned at the same version.
    Writes nothing if the called workflows are not there in this version. Raises as ``pin.of``, ``pin.read`` and
    ``workflow_pin.of``.
    """
    path = top / pin.PATH
    old = pinned(top)
    text = path.read_text(encoding="utf-8") if old else ""
    new = pin.of(version, old.extras if old else pin.EXTRAS, pin.hashes(text))
    workflow_pin.chosen(top, workflows, new.version, write=True)
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
    called = workflow_pin.chosen(top, workflows, version, write=write)
    roots = thin_files.projects(top)
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
    new |= thin_files.completed(top)
    if called:
        repository, _, commit = called.partition("@")
        with_commit = functools.partial(signers.with_commit, repository=repository, commit=commit)
        new |= _rewritten(top, [root / layout.SIGNERS for root in (top, *roots)], with_commit)
    new |= _rewritten(top, [root / layout.PARAMS for root in roots], params_migration.migrated)
    diffs = {name: _diff(name, _read(top / name), data) for name, data in new.items()}
    for name, data in new.items() if write else ():
        _write(top / name, data)
    stale, problems = _stale_stages(top, roots, new, write=write)
    differences = {name: _diff(name, _read(top / name), other[name]) for name in kept}
    return Upgraded(version, diffs, differences, stale, problems)


def _refuse_other_pin(top: Path, version: str) -> None:
    wanted = pinned(top)
    there = wanted.version if wanted else "nothing"
    if there != version:
        raise ParamsRefused(
            f"{pin.PATH}: pins {there}, and this is Lockstep {version}",
            "run it by the launcher, ./lockstep, which runs the pinned version; or pin one: `lockstep upgrade VERSION`",
        )


def _rewritten(top: Path, paths: Sequence[Path], rewrite: Callable[[str], str]) -> dict[str, bytes]:
    """Return each file that ``rewrite`` changes, by path below ``top``. A missing or invalid file stays."""
    new = dict[str, bytes]()
    for path in paths:
        with contextlib.suppress(Refusal, UnicodeDecodeError, FileNotFoundError):
            old = path.read_bytes()
            if (data := rewrite(old.decode()).encode()) != old:
                new[path.relative_to(top).as_posix()] = data
    return new


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


def _stale_stages(
    top: Path, roots: list[Path], new: dict[str, bytes], *, write: bool
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the stages that run again, by the folder of their project, and what the new params.yaml cannot say.

    ``new``: the files that an upgrade writes, by path below ``top``. Writes code.lock with ``write``.
    """
    stages, problems = dict[str, list[str]](), list[str]()
    for root in roots:
        folder, path = root.relative_to(top).as_posix(), root / layout.PARAMS
        data = new.get(path.relative_to(top).as_posix())
        try:
            params = params_file.parse(data.decode(), str(path)) if data else params_file.load(path)
            stages[folder] = _stale(root, params, write=write)
        except Refusal as refused:
            problems += [f"{folder}: {line}" for line in (str(refused), *refused.others)]
    return stages, tuple(problems)


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
