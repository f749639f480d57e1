"""Starts a server of a folder of weights as a process, with the packages of this Python environment; or its gateway.

It listens on 127.0.0.1, sees no environment variables but PATH and LANG, and writes below a folder of its own. Its
network and file system are not restricted: ``isolated`` and ``sealed`` are None.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from checks.config.release_params import Serve
from checks.machine import disk
from checks.process.errors import MachineRefused, ServingRefused
from checks.storage import layout
from release import runtimes
from release.runtimes import Runtime
from release.serving import logs, owners
from release.serving.server import Server

HOST = "127.0.0.1"
_PREFIX, _SCRATCH = "lockstep-serve-", "lockstep-drill-"
_PASSED_ON = ("PATH", "LANG")
_LOG, _OWNER, _SERVER = "log", "owner", "server"


class Process(Server):
    """A server in a process with a session of its own."""

    how = "process"

    def __init__(
        self, process: "subprocess.Popen[bytes]", url: str, model: str, folder: Path
    ) -> None:
        super().__init__(url, model)
        self._process, self._folder = process, folder

    def code(self) -> int | None:
        """Return its exit code as a shell and Docker report it: 128 plus the signal that ended it; None: it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def log(self) -> bytes:
        """Return the end of its log."""
        try:
            with (self._folder / _LOG).open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - logs.KEPT))
                return stream.read()
        except OSError:
            return b""

    def stop(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def close(self) -> None:
        """Kill it and its children, and remove its folder."""
        if self._process.poll() is None:
            _kill(self._process.pid)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start(
    runtime: Runtime,
    serve: Serve,
    folder: Path,
    root: Path | None = None,
    python: Path | None = None,
) -> Process:
    """Serve the weights in ``folder`` and return at once; ``server.wait_until`` waits for it.

    ``root``: the repository, in which the runtime's own environment is; None: the working directory. ``python``: as
    ``program`` takes it.

    Raises MachineRefused if the server is not installed, ServingRefused if the runtime cannot run as a process or the
    folder does not exist.
    """
    remove_leftovers()
    if not folder.is_dir():
        raise ServingRefused(
            f"{folder}: is not a folder of weights", "run `./lockstep run`, or name another"
        )
    file = runtime.identity.file if runtime.identity else None
    if file and not (folder / file).is_file():
        raise ServingRefused(
            f"{folder}: has no {file}, which {runtime.name} serves",
            "set merge.export, and run `./lockstep run`",
        )
    command = program(runtime, root or Path(), python)
    port = free_port()
    model = str(folder.resolve())
    filled = runtimes.fill(runtime.model_copy(update={"port": port}), serve, model, HOST)
    return launch(
        [str(command), *(filled.entrypoint or ())[1:], *filled.command],
        f"http://{HOST}:{port}",
        model,
        lambda home: private(runtime, filled.environment, home),
    )


def launch(
    command: Sequence[str], url: str, model: str, environment: Callable[[Path], Mapping[str, str]]
) -> Process:
    """Start a command that will answer at ``url``, and return at once.

    ``environment``: the variables of the process, by its temporary folder.

    What a killed run leaves is ended by ``remove_leftovers``. Raises MachineRefused if it does not start.
    """
    home = _home(_PREFIX)
    process = None
    try:
        here = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with (home / _LOG).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={**here, **environment(home)},
                start_new_session=True,
            )
        (home / _SERVER).write_text(owners.of(process.pid))
    except BaseException as error:
        if process is not None:
            _kill(process.pid)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)
        if isinstance(error, OSError):
            raise MachineRefused(
                f"{command[0]}: does not start: {error.strerror or error}", "fix the machine"
            ) from error
        raise
    return Process(process, url, model, home)


def private(runtime: Runtime, environment: dict[str, str], home: Path) -> dict[str, str]:
    """The environment of a process that writes only below ``home``.

    In a container the writable paths belong to the container. Here others could write there, or guess the name of code
    that a server compiles and loads. So a variable with a path below one of them gets a path below ``home``.
    """
    variables = dict(environment)
    for name, value in environment.items():
        for room in map(PurePosixPath, runtime.writable):
            if PurePosixPath(value).is_relative_to(room):
                variables[name] = str(home / PurePosixPath(value).relative_to(room))
    # Where nothing says otherwise, caches lie below one of these.
    return variables | {"HOME": str(home), "TMPDIR": str(home)}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for the block. If this process is killed, ``remove_leftovers`` removes it later.

    Raises MachineRefused if none can be made.
    """
    home = _home(_SCRATCH)
    try:
        remove_leftovers()
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _home(prefix: str) -> Path:
    """A new folder that says whose it is."""
    home = None
    try:
        home = Path(tempfile.mkdtemp(prefix=prefix))
        (home / _OWNER).write_text(owners.self())
    except OSError as error:
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
        raise disk.full(error, []) or MachineRefused(
            f"no temporary folder can be made: {error.strerror or error}",
            "set TMPDIR to a folder that you may write in",
        ) from error
    return home


def remove_leftovers() -> int:
    """End the servers and remove the folders of this user's killed runs; return their number."""
    count, folder = 0, Path(tempfile.gettempdir())
    for home in (*folder.glob(f"{_PREFIX}*"), *folder.glob(f"{_SCRATCH}*")):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if (
                home.is_symlink()
                or home.stat().st_uid != os.getuid()
                or owners.lives((home / _OWNER).read_text())
            ):
                continue
            server = (home / _SERVER).read_text() if (home / _SERVER).exists() else ""
            if server and owners.lives(server):
                _kill(int(server.split(" ")[2]))
            shutil.rmtree(home, ignore_errors=True)
            count += 1
    return count


def program(runtime: Runtime, root: Path, python: Path | None = None) -> Path:
    """Return the runtime's command: beside ``python``, else in its own environment, else in this one.

    Raises MachineRefused if it is not installed, ServingRefused if the runtime cannot run as a process.
    """
    if runtime.package is None or not runtime.entrypoint:
        raise ServingRefused(
            f"{runtime.name}: runs in its image alone", "verify the image, or use another runtime"
        )
    if python is not None:
        command = python.absolute().parent / runtime.entrypoint[0]
        if not command.exists():
            raise MachineRefused(
                f"{python}: has no {command.name} beside it", f"install {runtime.package} for it"
            )
        return command
    own = runtime.own_environment
    if own is not None:
        own_python = os.environ.get(own.variable) or str(
            root.resolve() / layout.STATE / own.folder / "bin" / "python"
        )
        command = Path(own_python).parent / runtime.entrypoint[0]
        if not command.exists():
            raise MachineRefused(
                f"{runtime.package} is not installed: {command} absent",
                f"run `{own.make}`, or set {own.variable} to a Python that has it",
            )
        return command
    missing = absent(runtime.package)
    command = Path(sys.executable).parent / runtime.entrypoint[0]
    if missing or not command.exists():
        what = ", ".join(missing) or str(command)
        raise MachineRefused(
            f"{runtime.package} is not installed: {what} absent", f"pip install '{runtime.package}'"
        )
    return command


def installed(runtime: Runtime, python: Path) -> str:
    """Return the name and version of the runtime's package that ``python`` has.

    Raises MachineRefused if it has none.
    """
    name = Requirement(runtime.package or "").name
    asked = f"from importlib.metadata import version; print(version({name!r}))"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", asked], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineRefused(f"{python}: has no {name}", f"install {name} for it") from error
    return f"{name} {answer.stdout.strip()}"


def absent(package: str) -> list[str]:
    """The missing parts of a package and its extras."""
    wanted = Requirement(package)
    try:
        needed = [Requirement(text) for text in metadata.requires(wanted.name) or []]
    except metadata.PackageNotFoundError:
        return [wanted.name]
    missing = []
    for requirement in needed:
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
        ):
            try:
                metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                missing.append(requirement.name)
    return missing


def free_port() -> int:
    """A port of ``HOST`` that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _kill(pid: int) -> None:
    """Kill the process and its session's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
