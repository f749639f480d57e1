"""Objects come from one process of git for each repository, and from no other repository, whatever becomes of the process."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from release.adapters import git_objects
from release.adapters.git import Git
from tests import ledger_tree as tree
from tests.ledger_tree import git

pytestmark = pytest.mark.slow

BIG = bytes(range(256)) * 8192  # 2 MB: more than a pipe holds


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a small file, a large one, an empty one, and a folder and a link beside them."""
    tree.begin(tmp_path)
    (tmp_path / "folder ü").mkdir()
    for name, data in {"small": b"one\n", "large": BIG, "empty": b"", "folder ü/line\nbreak": b"deep"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to("folder ü")
    tree.keep(tmp_path, "files")
    return tmp_path


@pytest.fixture(autouse=True)
def _none_from_before() -> None:
    git_objects.close()


def _processes() -> list[int]:
    """The processes of git that stay."""
    pids = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # One that was ended a moment ago has no command line.
            pids += [child.pid] if "cat-file" in child.cmdline() else []
    return pids


def test_all_that_is_read_comes_from_one_process(root: Path) -> None:
    reads = Git(root, None)
    assert reads.named(["HEAD:small", "HEAD:large", "HEAD:empty", "HEAD:gone", "HEAD:folder ü", "HEAD:link"]) == [
        b"one\n", BIG, b"", None, None, "folder ü".encode(),
    ]  # fmt: skip
    listed = reads.tree("HEAD^{tree}")
    assert {name: (entry.mode, entry.kind) for name, entry in listed.items() if name != "params.yaml"} == {
        "small": ("100644", "blob"), "large": ("100644", "blob"), "empty": ("100644", "blob"),
        "folder ü": ("040000", "tree"), "link": ("120000", "blob"),
    }  # fmt: skip
    assert reads.objects([entry.name for name, entry in listed.items() if name == "large"]) == {
        listed["large"].name: BIG
    }
    assert set(reads.below("HEAD^{tree}")) == {"params.yaml", "small", "large", "empty", "folder ü/line\nbreak", "link"}
    assert set(reads.at("HEAD^{tree}", ["link/line\nbreak", "folder ü/line\nbreak", "small/x", "folder ü"])) == {
        "folder ü/line\nbreak", "folder ü",
    }  # fmt: skip
    (root / "small").write_bytes(b"two\n")
    tree.keep(root, "changed")
    assert reads.named(["HEAD:small", "HEAD~1:small"]) == [b"two\n", b"one\n"]
    assert len(_processes()) == 1


def test_more_questions_and_answers_than_pipes_hold_are_all_answered_in_order(root: Path) -> None:
    names = [*["HEAD:large", "HEAD:gone", "HEAD:small"] * 10, f"HEAD:{'long' * 20_000}", *["HEAD:small"] * 3_000]
    assert Git(root, 60.0).named(names) == [*[BIG, None, b"one\n"] * 10, None, *[b"one\n"] * 3_000]
    short = [*["HEAD:large", "HEAD:small"] * 20, *["HEAD:small"] * 3_000]
    assert Git(root, 60.0).named(short) == [*[BIG, b"one\n"] * 20, *[b"one\n"] * 3_000]


def test_what_is_packed_or_deleted_meanwhile_is_seen(root: Path) -> None:
    reads = Git(root, None)
    blob = git(root, "hash-object", "-w", "--stdin", given="loose")
    assert reads.objects([blob]) == {blob: b"loose"}
    git(root, "gc", "--quiet", "--prune=now")
    with pytest.raises(EvidenceRefused, match=f"object {blob[:12]}: is not in this clone"):
        reads.objects([blob])
    assert reads.named(["HEAD:small"]) == [b"one\n"]
    assert len(_processes()) == 1


def _stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(("end", "deadline"), [(_killed, None), (_killed, 60.0), (_stopped, 0.2)])
def test_a_process_that_was_ended_is_replaced_and_one_that_hangs_ends_at_the_deadline(
    root: Path, end: Callable[[int], None], deadline: float | None
) -> None:
    reads = Git(root, deadline)
    assert reads.named(["HEAD:small"]) == [b"one\n"]
    (first,) = _processes()
    end(first)
    if end is _stopped:
        with pytest.raises(EvidenceRefused, match="git cat-file: no answer before the deadline"):
            reads.named(["HEAD:small"])
    assert Git(root, 60.0).named(["HEAD:large", "HEAD:small"]) == [BIG, b"one\n"]
    assert first not in _processes()


def test_a_question_that_was_broken_off_answers_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a large object is read: the rest of it must not be taken for the next one."""
    reads = Git(root, None)
    assert reads.named(["HEAD:small"]) == [b"one\n"]
    real, calls = os.read, list[int]()

    def read(handle: int, most: int) -> bytes:
        calls.append(handle)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(handle, most)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        with pytest.raises(KeyboardInterrupt):
            reads.named(["HEAD:large"])
    assert reads.named(["HEAD:small", "HEAD:large"]) == [b"one\n", BIG]


def test_where_a_process_is_ended_while_threads_ask_each_gets_its_own_answer(root: Path) -> None:
    reads, wrong, names = (
        Git(root, 60.0),
        list[object](),
        {"HEAD:small": b"one\n", "HEAD:large": BIG, "HEAD:empty": b""},
    )

    def ask(name: str) -> None:
        for _ in range(20):
            try:
                if (found := reads.named([name])) != [names[name]]:
                    wrong.append((name, found))
            except EvidenceRefused:  # of the one that was asked when it ended, at the second time
                pass

    threads = [threading.Thread(target=ask, args=(name,)) for name in (*names, *names)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for pid in _processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert not wrong
    assert reads.named(["HEAD:small"]) == [b"one\n"]


def test_a_fetch_that_hangs_ends_at_the_deadline_with_all_that_it_started(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial clone fetches a file when it is read."""
    git(root, "config", "uploadpack.allowFilter", "true")
    part = tmp_path_factory.mktemp("part") / "clone"
    git(root, "clone", "--quiet", "--no-checkout", "--filter=blob:none", root.as_uri(), str(part))
    git(part, "remote", "set-url", "origin", "ssh://nowhere.invalid/x")
    monkeypatch.setenv("GIT_SSH_COMMAND", "sleep 60 #")
    began = time.monotonic()
    with pytest.raises(EvidenceRefused, match="no answer before the deadline"):
        Git(part, 0.5).named(["HEAD:small"])
    assert time.monotonic() - began < 30
    assert not [each for each in psutil.Process().children(recursive=True) if "sleep" in each.cmdline()]


def test_the_same_path_is_another_repository_after_a_move(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    tree.begin(other)
    (other / "small").write_text("other\n")
    tree.keep(other, "a file")
    monkeypatch.chdir(root)
    assert Git(Path(), None).named(["HEAD:./small"]) == [b"one\n"]
    monkeypatch.chdir(other)
    assert Git(Path(), None).named(["HEAD:./small"]) == [b"other\n"]
    inner = other / "inner"
    inner.mkdir()
    assert Git(inner, None).named(["HEAD:small"]) == [b"other\n"]
    tree.begin(inner)
    assert Git(inner, None).named(["HEAD:small"]) == [None]


def _tree(root: Path, *entries: tuple[bytes, bytes]) -> str:
    """A tree with these modes and names; each entry is the same blob."""
    blob = bytes.fromhex(git(root, "rev-parse", "HEAD:small"))
    data = b"".join(mode + b" " + name + b"\0" + blob for mode, name in entries)
    command = ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    return subprocess.run(command, cwd=root, input=data, capture_output=True, check=True).stdout.decode().strip()


def test_modes_are_what_git_takes_them_for(root: Path) -> None:
    modes = (
        b"100644",
        b"100664",
        b"100755",
        b"100711",
        b"100600",
        b"120000",
        b"120777",
        b"160000",
        b"40000",
        b"040000",
    )
    made = _tree(root, *((mode, b"name %02d \xff" % number) for number, mode in enumerate(modes)))
    listed = subprocess.run(["git", "ls-tree", "-z", made], cwd=root, capture_output=True, check=True).stdout
    lines = [line.partition("\t") for line in listed.decode(errors="surrogateescape").split("\0") if line]
    assert [(*entry, name) for name, entry in Git(root, None).tree(made).items()] == [
        (*fields.split(" "), name) for fields, _, name in lines
    ]


@pytest.mark.parametrize(
    "data", [b"100644 name", b"100644 name\0short", b"10x644 name\0" + b"h" * 20, b"100644 \0" + b"h" * 20]
)
def test_a_damaged_tree_is_refused(root: Path, data: bytes) -> None:
    command = ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    made = subprocess.run(command, cwd=root, input=data, capture_output=True, check=True).stdout.decode().strip()
    with pytest.raises(EvidenceRefused, match=f"tree {made[:12]}: is damaged"):
        Git(root, None).tree(made)


def test_threads_and_forks_get_their_own_answers(root: Path) -> None:
    reads, wrong = Git(root, None), list[str]()
    wanted = {"HEAD:small": b"one\n", "HEAD:large": BIG, "HEAD:empty": b""}

    def ask(name: str) -> None:
        for _ in range(30):
            if reads.named([name]) != [wanted[name]]:
                wrong.append(name)

    ask("HEAD:small")
    (mine,) = _processes()
    threads = [threading.Thread(target=ask, args=(name,)) for name in (*wanted, *wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    if (child := os.fork()) == 0:
        try:
            good = reads.named(["HEAD:large"]) == [BIG] and mine not in _processes()
            git_objects.close()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    ask("HEAD:large")
    assert os.waitpid(child, 0)[1] == 0
    assert not wrong
    assert _processes() == [mine]


def test_each_repository_and_environment_has_its_own_and_few_stay(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = []
    for number in range(6):
        others.append(other := tmp_path_factory.mktemp("other"))
        tree.begin(other)
        (other / "small").write_text(f"of {number}\n")
        tree.keep(other, "a file")
    for number, other in enumerate(others):
        assert Git(other, None).named(["HEAD:small"]) == [f"of {number}\n".encode()]
        assert Git(root, None).named(["HEAD:small"]) == [b"one\n"]
    few = len(_processes())
    assert few < len(others)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.bigFileThreshold")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "1k")
    before = _processes()
    assert Git(root, None).named(["HEAD:large"]) == [BIG]
    assert set(_processes()) - set(before)


@pytest.mark.parametrize(
    ("spoil", "refused", "said"),
    [
        (lambda root, _: (root / ".git" / "HEAD").unlink(), EvidenceRefused, "git cat-file: fatal: not a git repository"),
        (lambda _, patch: patch.setenv("PATH", "/nowhere"), MachineRefused, "install git"),
    ],
    ids=["no repository", "no git"],
)  # fmt: skip
def test_what_git_cannot_read_is_refused_in_its_words(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], refused: type[Refusal], said: str
) -> None:
    spoil(root, monkeypatch)
    with pytest.raises(refused, match=said):
        Git(root, None).named(["HEAD:small"])


@pytest.mark.parametrize("name", ["HEAD:folder ü/line\nbreak", "HEAD:small\r", "HEAD:small\0x"])
def test_no_name_asks_another_question(root: Path, name: str) -> None:
    with pytest.raises(EvidenceRefused, match="has a line break"):
        Git(root, None).named([name])


def test_a_part_of_a_hash_names_no_object(root: Path) -> None:
    with pytest.raises(EvidenceRefused, match="is not in this clone"):
        Git(root, None).objects([git(root, "rev-parse", "HEAD:small")[:12]])
