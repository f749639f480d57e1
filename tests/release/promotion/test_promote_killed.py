"""Killed at any call of git or of a registry, an environment is old or new, never between; running again finishes.

SIGKILL comes before and after calls of git (a shim counts them), and when a request reaches the registry (a proxy
counts those).
"""

import functools
import hashlib
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release.ledger import disagreements
from release.promotion import context, environment
from release.promotion.checklist import CheckResult
from release.verbs import rollback as rollbacks
from tests import ledger_tree
from tests import promotion_tree as tree
from tests.effort import EXHAUSTIVE
from tests.faulty_proxy import FaultyProxy
from tests.killed import shimmed, watched
from tests.ledger_tree import git, refs
from tests.promotion_tree import move
from tests.registry_service import registry

pytestmark = pytest.mark.slow

alone = tree.alone
Verb = Callable[[Path], object]


VERBS: dict[str, tuple[Verb, str]] = {
    "promote": (lambda root: move(root, "production"), "production"),
    "rollback": (lambda root: rollbacks.rollback(root, "staging", why="answers in French"), "staging"),
}  # fmt: skip


def world(folder: Path, push: str | None = None) -> Path:
    """A clone and its bare remote: two releases went to staging, none to production."""
    root = folder / "work"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.make(root, push=push)
        move(root, "staging")
        tree.next_model(root, 12, push)
        move(root, "staging")
    ledger_tree.packed(root)
    ledger_tree.bare(folder / "origin.git", root)
    return folder


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("team"))


@pytest.fixture(scope="module")
def laptop(team: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laptop")
    shutil.copytree(team / "work", folder / "work", symlinks=True)
    git(folder / "work", "remote", "remove", "origin")
    return folder


def ledger_of(folder: Path) -> Path:
    return folder / "origin.git" if (folder / "origin.git").exists() else folder / "work"


def consistent(folder: Path, name: str, before: dict[str, str]) -> bool:
    """The environment is whole, and so are its tags; whether it has moved."""
    where = context.find(folder / "work")
    present, result = environment.look(where, name), CheckResult()
    environment.intact(where, name, present, result)
    assert result.failures == []
    if present.pointer:
        environment.stated(present, name)
    assert disagreements(where.name, where.ledger.tags(), where.moves()) == []
    now = refs(ledger_of(folder))
    gone = {key for key in before if key not in now}
    assert not gone
    moved = now["refs/heads/main"] != before["refs/heads/main"]
    new = {key for key in now.keys() - before.keys() if not key.startswith("refs/lockstep/")}
    assert len(new) == (1 if moved else 0), "the branch and the tag of the move came together"
    return moved


def left_by_kill(folder: Path) -> str:
    """The digest of all that lies below ``folder`` but objects of git, wherever that is.

    Of git's index it is what that lists, not when and where. Objects are left out since git adds them whole and under
    their own digest: as long as no reference leads to them they decide nothing.
    """
    found, home = hashlib.sha256(), os.fsencode(folder)
    for place, folders, names in os.walk(folder):
        folders[:] = sorted({*folders} - {"objects", "shim"})
        for name in sorted({*folders, *names} - {"count"}):
            path = f"{place}/{name}"
            mode, data = os.lstat(path).st_mode, b""
            if stat.S_ISLNK(mode):
                data = bytes(Path(path).readlink())
            elif stat.S_ISREG(mode) and path.endswith("/.git/index"):
                data = _listed(Path(place).parent, Path(path).read_bytes())
            elif stat.S_ISREG(mode) and not path.endswith("/.git/index.lock"):
                data = Path(path).read_bytes()
            found.update(repr((path[len(str(folder)) :], mode, data.replace(home, b"."))).encode())
    return found.hexdigest()


@functools.lru_cache(maxsize=4)
def _listed(root: Path, _index: bytes) -> bytes:
    """What the index of ``root`` with these bytes lists."""
    return git(root, "ls-files", "--stage").encode()


def kill_around_git(source: Path, scratch: Path, name: str) -> int:
    """Kill around calls of git; how many calls there were.

    What a kill leaves on the disk decides all that comes after it. So one run is watched before and after every call,
    and moments that differ at most by objects without a reference are one state. Other runs are killed at the first or
    the last moment of each state by turns: with the fewest or the most of such objects. LOCKSTEP_EXHAUSTIVE kills at all.
    """
    verb, of = VERBS[name]
    first, states = tree.copy(source, scratch / "first"), dict[str, list[tuple[int, str]]]()
    calls = watched(
        first,
        lambda: verb(first / "work"),
        lambda point, when: states.setdefault(left_by_kill(first), []).append((point, when)),
    )
    wanted, moved = environment.look(context.find(first / "work"), of).pointer, set[bool]()
    for number, moments in enumerate(states.values()):
        for point, when in moments if EXHAUSTIVE else [moments[-(number % 2)]]:
            folder = tree.copy(source, scratch / f"{point}{when}")
            before = refs(ledger_of(folder))
            assert shimmed(folder, functools.partial(verb, folder / "work"), point, when) == -9
            moved.add(consistent(folder, of, before))
            verb(folder / "work")
            assert consistent(folder, of, before)
            found = environment.look(context.find(folder / "work"), of).pointer
            assert (found and found.digest) == (wanted and wanted.digest)
            assert git(folder / "work", "status", "--porcelain", "--", "release") == ""
            shutil.rmtree(folder)
    assert moved == {True, False}
    print(f"{name}: {calls} calls of git, which pass through {len(states)} states")
    return calls


# A rollback makes its commit and pushes it as a promotion does: tests/release/ledger/test_ledger_atomic.py.
CASES = ["promote", pytest.param("rollback", marks=pytest.mark.exhaustive)]


@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_call_of_git_the_environment_is_old_or_new(team: Path, tmp_path: Path, name: str) -> None:
    assert kill_around_git(team, tmp_path, name) > 35


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", VERBS)
def test_killed_at_every_call_of_git_on_a_laptop_too(laptop: Path, tmp_path: Path, name: str) -> None:
    assert kill_around_git(laptop, tmp_path, name) > 30


# Requests to the registry


class Killing(FaultyProxy):
    """Ends the process ``victim`` when its ``kill``-th request comes, or calls ``look`` with the number of each."""

    victim, kill, count_of = 0, 0, 0
    look: Callable[[int], object] | None = None

    def fault(self, asked: str, headers: dict[str, str]) -> Any:
        self.count_of += 1
        if self.look:
            self.look(self.count_of)
        if self.victim and self.count_of == self.kill:
            os.kill(self.victim, signal.SIGKILL)
        return super().fault(asked, headers)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Killing, Path]]:
    """A proxy before a registry, and a world whose images lie there."""
    with registry(tmp_path_factory.mktemp("registry")) as upstream, Killing(upstream.host) as proxy:
        yield proxy, world(tmp_path_factory.mktemp("proxied"), f"{proxy.host}/team/router")


def kill_at_requests(proxy: Killing, source: Path, folder: Path, name: str) -> int:
    """Kill at requests; how many there were. As with git, one run is watched, and each state that it passes is killed in.

    Kills come at the first and the last request of a state. LOCKSTEP_EXHAUSTIVE kills at all.
    """
    (verb, of), states = VERBS[name], dict[str, list[int]]()
    first = tree.copy(source, folder / "first")
    proxy.count_of = proxy.kill = 0
    proxy.asked.clear()
    proxy.look = lambda point: states.setdefault(left_by_kill(first), []).append(point)
    verb(first / "work")
    proxy.look, points = None, proxy.count_of
    assert {asked.split(" ")[0] for asked in proxy.asked} <= {"GET", "HEAD"}, "so the registry is as it was"
    for requests in states.values():
        for point in requests if EXHAUSTIVE else sorted({requests[0], requests[-1]}):
            copied = tree.copy(source, folder / f"{point}")
            before = refs(ledger_of(copied))
            reading, writing = os.pipe()

            def do(copied: Path = copied, reading: int = reading) -> None:
                os.read(reading, 1)  # the proxy knows whom to end
                verb(copied / "work")

            child = os.fork()
            if not child:
                try:
                    signal.alarm(120)
                    do()
                finally:
                    os._exit(1)
            proxy.count_of, proxy.kill, proxy.victim = 0, point, child
            os.write(writing, b"x")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
            proxy.victim = 0
            for end in (reading, writing):
                os.close(end)
            assert refs(ledger_of(copied)) == before
            assert not consistent(copied, of, before), "it asks the registry before it moves anything"
            verb(copied / "work")
            assert consistent(copied, of, before)
            shutil.rmtree(copied)
    print(f"{name}: {points} requests, which pass through {len(states)} states")
    return points


@pytest.mark.parametrize("name", CASES)
def test_killed_at_requests_to_the_registry_nothing_has_moved(
    proxied: tuple[Killing, Path], tmp_path: Path, name: str
) -> None:
    assert kill_at_requests(*proxied, tmp_path, name) >= 8
