"""Reading splits with a second process: the same columns and the same refusal, and nothing is left running."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from checks.process import threads
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.rows import Message, Row
from checks.storage import files, layout
from stages.quality import reading
from stages.quality.chat_tokens import Lengths
from stages.quality.rows_frames import RowChecks
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

BATCH = 2
SIZES = {"train": 7, "valid": 0, "test": 4}  # more batches for the first process, none, and as many for each


def _lengths(rows: Sequence[Row]) -> list[Lengths]:
    return [Lengths(len(row.prompt), len(row.reference)) for row in rows]


def checks(whole: bool = False, fails: Callable[[], object] = int) -> RowChecks:
    """Without a tokenizer or rules. ``fails``: what the second process does then."""
    if multiprocessing.parent_process() is not None:
        fails()
    return RowChecks(_lengths, {}, {"": frozenset()}, ["more"], whole, (), lambda _: None)


def be_killed() -> None:
    """As where memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def err() -> None:
    """As a rule of a user's package."""
    raise ValueError("planted")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Splits that two processes read, with rows that do not fit into a pipe."""
    for name, size in SIZES.items():
        rows = [
            Row(
                id=f"{name} {number}", messages=(Message(role="user", content=f"{number} {'long ' * 20_000}"),),
                reference=f"answer {number}", group=f"{number}", slice="all", source=f"rows.jsonl:{number}",
                extra={"more": number}, document=number == 3,
            )
            for number in range(size)
        ]  # fmt: skip
        files.write_jsonl(tmp_path / layout.SPLITS / f"{name}.jsonl", rows)
    monkeypatch.setattr(reading, "_BATCH", BATCH)
    monkeypatch.setattr(reading, "_LEAST", 0)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    return tmp_path


def test_two_processes_read_what_one_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, two = reading.read(root, partial(checks, whole=True))
    monkeypatch.setattr(threads, "cores", lambda: 1)
    _, one = reading.read(root, partial(checks, whole=True))
    assert two == one
    assert [len(each.rows) for each in two.values()] == [6, 0, 3]  # without the documents
    assert two["train"].columns["where"][2:4] == ["data/splits/train.jsonl:3", "data/splits/train.jsonl:5"]


@pytest.mark.parametrize("lines", [(3, 5), (1, 4), (6, 7)], ids=str)  # lines 3, 4 and 7 are the second process's
def test_the_first_line_at_fault_is_refused_whichever_process_reads_it(root: Path, lines: tuple[int, int]) -> None:
    path = root / layout.SPLITS / "train.jsonl"
    rows = path.read_text().splitlines()
    for line in lines:
        rows[line - 1] = "{}"
    path.write_text("\n".join(rows))
    with pytest.raises(EvidenceRefused, match=rf"train\.jsonl:{lines[0]}: "):
        reading.read(root, checks)


@pytest.mark.parametrize(("fails", "error"), [(be_killed, MachineRefused), (err, RuntimeError)])
def test_a_second_process_that_ends_early_is_an_error(
    root: Path, fails: Callable[[], None], error: type[Exception]
) -> None:
    with pytest.raises(error, match="the second process"):
        reading.read(root, partial(checks, fails=fails))
    assert not multiprocessing.active_children()


def wait_between_parts(root: Path) -> None:
    """Read one part of the second process, while it sends the next one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    reading._BATCH = 1
    with reading._second(True, root, checks) as (others,):
        next(others)
        print("reading", flush=True)
        time.sleep(60)


@pytest.mark.parametrize(
    "end", [subprocess.Popen.kill, lambda first: os.killpg(first.pid, signal.SIGINT)], ids=["kill -9", "Ctrl-C"]
)
def test_the_second_process_ends_with_the_first(root: Path, end: Callable[[subprocess.Popen[str]], None]) -> None:
    code = f"from tests.stages.quality import test_reading; test_reading.wait_between_parts(test_reading.Path({str(root)!r}))"
    with subprocess.Popen(
        repository.script(code), cwd=REPOSITORY, env=repository.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == "reading\n"
        end(first)
        first.communicate(timeout=30)  # until no process can write any more
