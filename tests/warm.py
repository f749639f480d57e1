"""A virtual environment whose ``python`` forks stages, verbs and DVC from a process that has loaded their libraries.
Its ``transformers`` forks servers of models.

A stage on a tiny model spends most of its time on importing torch and what is built on it, and a command of DVC spends it
on importing DVC. ``python(environment)`` makes the virtual environment. Its ``python`` is the process that others start,
wait for and kill. If it is told to run one of ``MODULES``, that runs in a forked process, with the same arguments,
environment, folder, standard streams and umask. That process imports this project's modules itself. Signals are passed on
to it, it is killed when the first process is, and the first one ends as it ends.

``python`` is a new interpreter as usual for all else, and where the environment differs from the one given in a variable
that is read once, when an interpreter starts or a library is loaded. Ranks of a training are forked too.

Forked processes have one seed of hashes. So tests that compare bytes made by several processes fork some of them from a
second process, whose environment has ``other_hashes()``, or start new ones.
"""

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

# Not fetch and prepare, which load little: another seed of hashes each time shows where their bytes depend on it.
STAGES = ("validate", "train", "merge", "score", "evaluate", "suites", "probe", "gate", "calibrate")
MODULES = (
    *(
        f"stages.{name}"
        for name in (
            *STAGES,
            "code",
            "hand_over",
            "still_pinned",
            "sweep",
            "tracking.verdict",
            "training.step",
            "unchanged",
        )
    ),
    "release.cli",
    "release.mirrors.worker",
    "dvc",
    "stages.tools.guarded_dvc",
    "transformers.cli.transformers",
    "tests.script",
    "ends",  # of tests/stages/training/test_ranks.py
)
LIBRARIES = (
    "torch", "transformers.models.llama.modeling_llama", "transformers.trainer", "peft", "trl.trainer.sft_trainer",
    "datasets", "mlflow.store.tracking.sqlalchemy_store", "great_expectations",
    "cryptography.hazmat.primitives.asymmetric.ed25519", "git", "jinja2.sandbox", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "requests", "securesystemslib.signer",
    "configobj", "dulwich.ignore", "networkx", "ruamel.yaml",
    "dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud", "dvc.dvcfile", "dvc.lock", "dvc.output", "dvc.repo.graph",
    "dvc.repo.index", "dvc.repo.metrics", "dvc.repo.plots", "dvc.repo.reproduce", "dvc.repo.trie", "dvc.repo.worktree",
    "dvc.rwlock", "dvc.scm", "dvc.stage.cache", "dvc_data.hashfile.status", "dvc_data.index.checkout",
    "dvc_data.index.fetch", "dvc_data.index.push", "fsspec.implementations.memory", "rich.progress",
    "aiohttp.web", "prometheus_client",
)  # fmt: skip
SERVER_LIBRARIES = (
    "transformers.cli.chat", "transformers.cli.serve", "transformers.cli.serving.chat_completion",
    "transformers.cli.serving.completion", "transformers.cli.serving.response", "transformers.cli.serving.server",
    "transformers.cli.serving.systemone", "transformers.cli.serving.transcription", "transformers.generation.streamers",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.processing_auto", "transformers.models.auto.tokenization_auto", "uvicorn.protocols.http.auto",
)  # fmt: skip
ONCE = (
    "ATEN_", "CUDA", "HF_", "HOME", "LANG", "LC_", "LD_", "MKL", "MLFLOW_CONFIGURE_LOGGING", "MLFLOW_DISABLE_TELEMETRY",
    "NPY_", "OMP", "ONEDNN_", "OPENBLAS_", "PYTHON", "TORCH", "TRANSFORMERS", "TZ", "XDG",
)  # fmt: skip
USERS = "users"  # a pipe, beside what workers share
# Read again for each: they lead to this project's modules.
PATHS, SAFE = "PYTHONPATH", "PYTHONSAFEPATH"
# What a rank of a training is told, and what torch sets as it compiles: nothing reads them when torch is loaded.
LATER = ("TORCHELASTIC_", "TORCH_NCCL_", "TORCHINDUCTOR_CACHE_DIR")
# What a stage sets before it loads the libraries: stages.entry, stages.tracking.store, stages.quality.expectations.
# A test that calls a stage in its own process leaves it set there; it is no other environment.
SET = {"OMP_WAIT_POLICY": "PASSIVE", "MLFLOW_DISABLE_TELEMETRY": "true", "GX_ANALYTICS_ENABLED": "false"}
# As stages.cpu_arithmetic.settle and checks.machine.arithmetic.settle, which this file cannot import.
if sys.platform == "linux" and "avx2" in Path("/proc/cpuinfo").read_text().split():
    SET |= {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4",
        "OPENBLAS_CORETYPE": "Haswell",
    }  # fmt: skip
INTERPRETER = sys.executable  # of now: a test may put ``python()`` in its place
BASE = Path(sys.executable).resolve()  # without a virtual environment
# Where servers look for caches, which they read once. Nothing is there, and nothing can be written.
NOWHERE = {"HOME": "/nonexistent", "HF_HOME": "/nonexistent/hf", "LANG": "C.UTF-8"}
_TRANSFORMERS = """#!/bin/sh
exec env {nowhere} {python} -m transformers.cli.transformers "$@"
"""
_PROGRAM = """#!{interpreter} -IS
import os, sys
safe = sys.argv[1:2] == ["-P"]
option, *words = sys.argv[1 + safe:] or [""]
if option == "-m" and words and words[0] in {modules!r}:
    import array, json, signal, socket, struct
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect({address!r})
    except OSError:
        answer = b""
    else:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        os.umask(mask := os.umask(0))
        told = json.dumps([words, dict(os.environ), os.getcwd(), mask, safe]).encode()
        server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
        server.sendall(struct.pack("i", len(told)) + told)
        answer = server.recv(4)
    if answer:
        (code,) = struct.unpack("i", answer)
        if code < 0:
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)
os.execv({base!r}, [{program!r}, *sys.argv[1:]])
"""


def python(environment: Mapping[str, str]) -> Path:
    """The program, for processes with this environment. It stands for this interpreter."""
    return _environment(frozenset(_once(environment).items()), LIBRARIES)


def other_hashes() -> dict[str, str]:
    """Hashes have this seed in one run of pytest, and another in the next, which shows where bytes depend on it."""
    return {"PYTHONHASHSEED": str(zlib.crc32(_run_of_pytest().encode()))}


def serving() -> Path:
    """The program, beside a ``transformers`` whose servers are forked: for `transformers serve` as `lockstep verify` does it."""
    from release import runtimes  # not where this file is the program

    environment = runtimes.load("transformers").environment | NOWHERE
    return _environment(frozenset(_once(environment).items()), SERVER_LIBRARIES)


def _run_of_pytest() -> str:
    return os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone{os.getpid()}")


def _once(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what the libraries are loaded with anyway: a stage hands that on to what it starts."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(ONCE) and not name.startswith(LATER) and name not in (PATHS, SAFE) and SET.get(name) != value
    }


@functools.cache
def _environment(once: frozenset[tuple[str, str]], libraries: tuple[str, ...]) -> Path:
    """One for all workers of a run of pytest. It ends with the last of them: each holds a pipe open."""
    name = hashlib.sha256(repr((_run_of_pytest(), sorted(once), libraries)).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"warm-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    program, users = folder / "bin" / "python", folder / USERS
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first = not users.exists()
        if first:
            os.mkfifo(users)
        os.open(users, os.O_RDWR)  # until this process ends
        if first:
            (folder / "pyvenv.cfg").write_text(f"home = {BASE.parent}\ninclude-system-site-packages = false\n")
            (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
            (folder / "bin").mkdir()
            nowhere = " ".join(f"{name}={value}" for name, value in NOWHERE.items())
            program.with_name("transformers").write_text(_TRANSFORMERS.format(nowhere=nowhere, python=program))
            program.with_name("transformers").chmod(0o755)
            with users.open("rb") as reading:
                _started(program, dict(once), reading.fileno(), libraries)
    return program


def start(program: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Make ``python`` of a virtual environment, and start what it forks from, until the tests end."""
    server = _started(program, environment, subprocess.PIPE, LIBRARIES)
    atexit.register(server.wait)
    atexit.register(server.kill)
    return server


def _started(
    program: Path, environment: Mapping[str, str], users: int, libraries: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """The process that ``program`` asks, which ends when ``users`` does."""
    address = str(program.with_name("socket"))
    values = {"interpreter": INTERPRETER, "base": str(BASE), "program": str(program), "address": address}
    program.write_text(_PROGRAM.format(modules=MODULES, **values))
    program.chmod(0o755)
    server = subprocess.Popen(
        [program, __file__, address, *libraries],
        env=_once(environment) | {"PATH": os.environ["PATH"]},
        cwd=program.parent, stdin=users, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline() == b"loaded\n"
    return server


def _serve(address: str, libraries: list[str]) -> None:
    """Load ``libraries``, and fork a process for each program that asks."""
    once = _once(os.environ)
    os.environ.update(SET)
    for name in libraries:
        importlib.import_module(name)
    assert threading.active_count() == 1
    # Torch would take its operators apart one by one at the end of every forked process, which takes up to 0.1 s.
    for end in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        end.atexit = False
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[socket.socket, int]] = {}  # by the handle of a process: what asked for it, and its number
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        Path(address).unlink(missing_ok=True)
        listening.bind(address)
        listening.listen()
        print("loaded", flush=True)
        while True:
            ready = _readable(0, listening.fileno(), *running, *(asking.fileno() for asking, _ in running.values()))
            if 0 in ready:  # whoever started this has ended
                for _, pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                if (home := Path(address).parents[1]).joinpath(USERS).exists():
                    shutil.rmtree(home)
                sys.exit()
            _pass_on(running, ready)
            if listening.fileno() in ready and (asked := _asked(listening, once)):
                asking, streams, told = asked
                if (pid := os.fork()) == 0:
                    break
                running[os.pidfd_open(pid)] = asking, pid
                for handle in streams:
                    os.close(handle)
    for ended, (other, _) in running.items():
        os.close(ended)
        other.close()
    _run(asking, streams, *told)


def _run(
    asking: socket.socket,
    streams: list[int],
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    mask: int,
    safe: bool,
) -> NoReturn:
    """Be the process that was asked for. ``safe``: it does not import from its folder, by ``-P``."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: killed when the server has ended
    program, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    asking.close()
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
        os.close(handle)
    os.setpgid(0, 0)
    os.umask(mask)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.getppid = functools.partial(_parent, program)
    tempfile.tempdir = None
    importlib.import_module("numpy").random.seed()
    sys.argv = ["-m", *arguments[1:]]
    current = () if safe or environment.get(SAFE) else (folder,)
    sys.path[:1] = [*current, *filter(None, environment.get(PATHS, "").split(os.pathsep))]
    try:
        runpy._run_module_as_main(arguments[0])  # type: ignore[attr-defined] # what ``python -m`` calls
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        _exit(end.code or 0)
    _exit(0)


def _parent(program: int) -> int:
    """Of the process that others started: a rank of a training ends when its stage, which started it, is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])
    return 1  # it has ended, and this process is killed


def _exit(code: int) -> NoReturn:
    """End as an interpreter does, but leave out to take apart all that is loaded, which takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for the others, as an interpreter that ends does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def _readable(*handles: int) -> list[int]:
    return select.select(handles, [], [])[0]


def _asked(listening: socket.socket, once: dict[str, str]) -> tuple[socket.socket, list[int], list[Any]] | None:
    """Who asks, its standard streams, and what it is to run; None if it has ended, or if the libraries are not for it."""
    asking, _ = listening.accept()
    streams: list[int] = []
    try:
        _, streams, _, _ = socket.recv_fds(asking, 1, 3)
        with asking.makefile("rb") as stream:
            (size,) = struct.unpack("i", stream.read(4))
            told = json.loads(stream.read(size))
        if len(streams) == 3 and _once(told[1]) == once:
            return asking, streams, told
    except (OSError, struct.error, ValueError):  # it was killed
        pass
    asking.close()
    for handle in streams:
        os.close(handle)
    return None


def _pass_on(running: dict[int, tuple[socket.socket, int]], ready: list[int]) -> None:
    """Tell each program how its process ended, and each process the program's signals; kill it if the program has ended."""
    for ended, (asking, pid) in list(running.items()):
        if ended in ready:
            with contextlib.suppress(OSError):
                asking.sendall(struct.pack("i", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            asking.close()
            os.close(ended)
            del running[ended]
        elif asking.fileno() in ready:
            numbers = b""
            with contextlib.suppress(ConnectionResetError):
                numbers = asking.recv(64)
            for number in numbers or [signal.SIGKILL]:
                os.kill(pid, number)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
