"""A server's log: the lines that say why it failed are found, wherever they stand."""

import json

import pytest

from release.serving import logs, server

WRAPPED = b"""
(APIServer pid=11) WARNING 11-25 23:34:40 [system_utils.py:255] This can cause fd limit errors like `OSError: [Errno 24]`
(VllmWorker-0 pid=13) WARNING 11-25 23:34:41 [x.py:1] ImportError: no flash attention here
(VllmWorker-0 pid=13) ERROR 11-25 23:35:03 [multiproc_executor.py:953] WorkerProc failed to start.
(VllmWorker-0 pid=13) ERROR 11-25 23:35:03 [multiproc_executor.py:953] Traceback (most recent call last):
(VllmWorker-0 pid=13) ERROR 11-25 23:35:03 [multiproc_executor.py:953]   File "/x/executor.py", line 920, in worker_main
(VllmWorker-0 pid=13) ERROR 11-25 23:35:03 [multiproc_executor.py:953]     raise ValueError(
(VllmWorker-0 pid=13) ERROR 11-25 23:35:03 [multiproc_executor.py:953] ValueError: Available memory is less than desired.
(EngineCore pid=12) INFO 11-25 23:35:03 [multiproc_executor.py:479] [shutdown] Executor: waiting for worker exit count=1
(EngineCore pid=12) ERROR 11-25 23:35:05 [core.py:1510] Exception: WorkerProc failed. See stack trace for root cause.
(APIServer pid=11) Traceback (most recent call last):
%b  File "/x/utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
""" % (b'  File "/x/y.py", line 1, in z\n    call()\n' * 120)
SHARD = """Shard complete standard error output:

Traceback (most recent call last):
  File "/x.py", line 3, in main
    f()
torch.cuda.OutOfMemoryError: CUDA out of memory.
"""
TGI = b"\n".join(
    json.dumps({"timestamp": "t", "level": level, "fields": {"message": message}, "target": "launcher"}).encode()
    for level, message in [
        ("INFO", "Starting shard rank=0"),
        ("ERROR", SHARD),
        ("ERROR", "Shard 0 failed to start"),
        ("INFO", "Shutting down shards"),
    ]
)
CASES = {
    "an exception above a wrapper": (WRAPPED, ("ValueError: Available memory is less than desired.",)),
    "a traceback in a line of JSON": (TGI, ("torch.cuda.OutOfMemoryError: CUDA out of memory.",)),
    "an exception and the one that it led to": (
        b"KeyError: 'a'\nThe above exception was the direct cause:\npkg.errors.LoadError: no model\nBye\n",
        ("KeyError: 'a'", "pkg.errors.LoadError: no model"),
    ),
    "a message of several lines": (
        b"pydantic_core._pydantic_core.ValidationError: 1 validation error for M\n  dtype\n    Input should be x\n",
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for M dtype Input should be x",),
    ),
    "a command line that is wrong": (
        b"usage: vllm serve [-h]\nvllm: error: unrecognized arguments: --x\n",
        ("vllm: error: unrecognized arguments: --x",),
    ),
    "a panic": (b"thread 'main' panicked at src/main.rs:3:5\nnote: run with x\n", ("thread 'main' panicked at src/main.rs:3:5",)),
    "the same twice": (b"OSError: a\nOSError: a\n", ("OSError: a",)),
    "the last three": (b"".join(b"OSError: %d\n" % n for n in range(9)), ("OSError: 6", "OSError: 7", "OSError: 8")),
    "colours": (b"\x1b[31mOSError: \x1b[1mred\x1b[0m\n", ("OSError: red",)),
    "nothing that failed": (b'INFO: Started\nlistening\n{]\n{}\n{"fields": 1}\n', ()),
    "nothing": (b"", ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_causes_of_a_failure_are_found(case: str) -> None:
    log, found = CASES[case]
    assert logs.causes(log) == found


def test_how_a_server_ended_is_said_by_its_causes_or_else_by_its_last_lines() -> None:
    assert server.ending(1, WRAPPED).startswith("exit code 1; its log says: ValueError: Available memory")
    assert server.ending(3, b"one\n\x1b[31mtwo\x1b[0m\n") == "exit code 3; its log ends: one / two"
    assert server.ending(137, b"") == "exit code 137; its log is empty"


def test_a_tail_is_printable_and_no_line_longer_than_a_person_reads() -> None:
    assert logs.tail(b"\n\xff\x00\rover\n" + b"x" * 1000, 9).split("\n") == ["\ufffd\ufffd", "over", "x" * 300]
