"""Reads the splits as columns: many rows with a second process, since Python uses one core.

Each process takes every second batch of lines, and the columns are put together in the order of the file. So they do
not depend on the number of processes, or on which is faster.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count, islice, zip_longest
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from checks.process import imports, threads
from checks.process.errors import MachineRefused, Refusal
from checks.records.rows import Row
from checks.storage import files, layout
from stages import progress
from stages.quality import rows_frames
from stages.quality.rows_frames import Read, RowChecks

_BATCH = 4096  # lines that are read at once
_MORE_MEMORY = "free memory, and run the same command again"
# With fewer bytes of splits, a second process saves less time than its start takes.
_LEAST = 16 << 20


def read(root: Path, make: Callable[[], RowChecks]) -> tuple[RowChecks, dict[str, Read]]:
    """The checks, and each split as columns. ``make`` makes the checks, in each process; it is pickled.

    Raises EvidenceRefused or DataRefused for the first line at fault; MachineRefused if the second process is killed.
    """
    size = sum(_path(root, name).stat().st_size for name in layout.SPLIT_NAMES)
    with (
        imports.uncollected(),
        _second(size >= _LEAST and threads.cores() > 1, root, make) as others,
    ):
        checks = make()
        return checks, {name: _whole(root, name, checks, others) for name in layout.SPLIT_NAMES}


def _whole(
    root: Path, name: str, checks: RowChecks, others: Sequence[Iterator[Read | None]]
) -> Read:
    """Read a split: this process's batches and those of ``others`` in turn, up to the None that ends theirs."""
    frame = rows_frames.columns(name, [], checks)
    own = _parts(root, name, checks, _BATCH, 0, 1 + len(others))
    with progress.of_rows(f"read {name}", list[Read]()) as bar:
        for part in chain.from_iterable(
            zip_longest(own, *(iter(other.__next__, None) for other in others))
        ):
            if part is not None:
                frame.extend(part)
                bar.update(len(part.references))
    return frame


def _parts(
    root: Path, name: str, checks: RowChecks, batch: int, turn: int, of: int
) -> Iterator[Read]:
    """The columns of each batch of lines whose number is ``turn`` modulo ``of``."""

    def mine(line: int) -> bool:
        return (line - 1) // batch % of == turn

    rows = zip(
        filter(mine, count(1)), files.each_of_jsonl(_path(root, name), Row, mine), strict=False
    )
    while some := list(islice(rows, batch)):
        yield rows_frames.columns(name, some, checks)


def _path(root: Path, name: str) -> Path:
    return root / layout.SPLITS / f"{name}.jsonl"


@contextmanager
def _second(
    wanted: bool, root: Path, make: Callable[[], RowChecks]
) -> Iterator[list[Iterator[Read | None]]]:
    """Return what the second process sends, if it is ``wanted``: its parts of each split, and None behind them."""
    if not wanted:
        yield []
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, root, make, _BATCH), daemon=True)
    try:
        process.start()
    except OSError as error:
        raise MachineRefused(
            f"a second process cannot be started: {error.strerror}", _MORE_MEMORY
        ) from error
    sender.close()  # so that the pipe ends with the process
    try:
        yield [_received(receiver, process)]
    finally:
        process.terminate()
        process.join()


def _received(receiver: Connection, process: SpawnProcess) -> Iterator[Read | None]:
    while True:
        try:
            part = receiver.recv()
        except (EOFError, OSError) as error:
            process.join()
            if process.exitcode == 1:
                raise RuntimeError("the second process failed: its error is above") from error
            raise MachineRefused(
                "the second process was killed, as where memory is full", _MORE_MEMORY
            ) from error
        if isinstance(part, Refusal):
            raise part
        yield part


def _send(sender: Connection, root: Path, make: Callable[[], RowChecks], batch: int) -> None:
    """The second process. If the first one is killed, this one ends when it sends its next part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends it
    with suppress(BrokenPipeError), imports.uncollected():
        try:
            checks = make()
            for name in layout.SPLIT_NAMES:
                for part in chain(_parts(root, name, checks, batch, 1, 2), [None]):
                    sender.send(part)
        except Refusal as refusal:
            sender.send(refusal)
