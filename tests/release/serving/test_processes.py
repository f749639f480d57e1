"""Servers as processes, and servers that run already: a real `transformers serve` with a tiny model."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from benchmarks import vllm
from checks.config.release_params import Serve
from checks.formats import engines
from checks.process.errors import MachineRefused, ServingRefused
from checks.storage import layout
from release import runtimes
from release.runtimes import Runtime
from release.serving import owners, processes, server
from release.serving.processes import Process
from tests import warm
from tests.conftest import REPOSITORY, as_params, scaled_down
from tests.release.serving.test_containers import body, healthy

RUNTIME = runtimes.load("transformers")


@pytest.fixture(scope="module")
def serve() -> Serve:
    document = scaled_down()
    document["serve"] |= {"dtype": "fp32"}
    return as_params(document).serve


@pytest.fixture(scope="module", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers have a folder of their own: in the shared one, other workers start servers and remove what killed runs left."""
    folder = str(tmp_path_factory.mktemp("servers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    before = left()
    yield
    if "serving" not in request.fixturenames:
        assert left() == before


@pytest.fixture(scope="module")
def serving(tiny_base: Path, serve: Serve) -> Iterator[Process]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCKSTEP_TEST_TOKEN", "hf_secret")
        with closing(processes.start(RUNTIME, serve, tiny_base)) as started:
            server.wait_until(started, lambda: healthy(started), 60)
            yield started


def left() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("lockstep-serve-*"))


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Runtime:
    """A runtime whose command is a script of this Python, in an environment of its own."""
    command = tmp_path / "bin" / "server"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{script}")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command.parent / "python"))
    return RUNTIME.model_copy(update={"entrypoint": ("server",), "command": ("{port}",), "package": "docker"})


@pytest.mark.slow
def test_it_answers_a_chat_from_the_folder(serving: Process, tiny_base: Path) -> None:
    reply = requests.post(f"{serving.url}/v1/chat/completions", json=body(5), timeout=60)
    assert reply.json()["usage"]["completion_tokens"] == 5
    assert requests.get(f"{serving.url}/v1/models", timeout=9).json()["data"][0]["id"] == str(tiny_base.resolve())
    assert (serving.model, serving.isolated, serving.sealed) == (str(tiny_base.resolve()), None, None)


@pytest.mark.slow
def test_it_sees_nothing_of_this_environment(serving: Process) -> None:
    seen = Path(f"/proc/{serving._process.pid}/environ").read_bytes().decode().split("\0")
    names = {entry.partition("=")[0] for entry in seen if entry}
    assert names <= set(RUNTIME.environment) | {"PATH", "LANG", "HOME", "TMPDIR", "HF_HOME"}
    assert "hf_secret" not in "".join(seen)


@pytest.mark.parametrize("name", runtimes.names())
def test_every_path_that_a_process_may_write_to_lies_below_its_own_folder(name: str, serve: Serve) -> None:
    runtime, home = runtimes.load(name), Path("/own/folder")
    filled = runtimes.fill(runtime, serve.model_copy(update={"dtype": "bf16"}), "/models/x")
    found = processes.private(runtime, filled.environment, home)
    outside = {
        key: value for key, value in found.items() if value.startswith("/") and not value.startswith("/own/folder")
    }
    assert set(outside.values()) <= {"/models/x"}, outside
    assert {"HOME", "TMPDIR"} <= set(found)


@pytest.mark.slow
def test_caches_that_nothing_names_lie_below_its_own_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    script = (
        "import os, sys, tempfile\nfrom torch._inductor.runtime.cache_dir_utils import cache_dir\n"
        "print(os.getcwd(), tempfile.gettempdir(), os.path.expanduser('~/.cache'), cache_dir(), os.environ['XDG_CACHE_HOME'])"
    )
    runtime = program(tmp_path, monkeypatch, script)
    runtime = runtime.model_copy(update={"environment": {"XDG_CACHE_HOME": "/tmp/cache"}})
    with closing(processes.start(runtime, serve, tmp_path)) as started:
        server.wait_until(started, lambda: started.log().endswith(b"\n"), 60)
        home, *paths = started.log().decode().split()
        assert Path(home).stat().st_mode & 0o777 == 0o700
        assert [path for path in paths if not Path(path).is_relative_to(home)] == []


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this test are forked from a process that has loaded their libraries (tests/warm.py)."""
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)  # the process is that of all files
        program = warm.serving()
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_sigterm_lets_a_request_in_flight_finish(tiny_base: Path, serve: Serve) -> None:
    with closing(processes.start(RUNTIME, serve, tiny_base)) as started:
        server.wait_until(started, lambda: healthy(started), 60)
        ended, lines = drained(started)
    assert ended.code == 143
    assert json.loads(lines[-1])["choices"][0]["finish_reason"] == "length"


def drained(started: server.Server) -> tuple[server.Ended, list[str]]:
    """End a server while it answers; returns how it ended, and the events of the answer."""
    lines: list[str] = []
    first = threading.Event()

    def ask() -> None:
        chat = f"{started.url}/v1/chat/completions"
        with requests.post(chat, json=body(600, stream=True), stream=True, timeout=60) as reply:
            for line in reply.iter_lines():
                if line:
                    lines.append(line.decode().removeprefix("data: "))
                    first.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert first.wait(60)
    ended = started.terminate(60)
    thread.join(60)
    assert ended is not None
    assert started.gone() is not None
    return ended, lines


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_folder_without_a_model_gives_the_servers_log(tmp_path: Path, serve: Serve) -> None:
    began = time.monotonic()
    with pytest.raises(ServingRefused) as refusal, closing(processes.start(RUNTIME, serve, tmp_path)) as started:
        server.wait_until(started, lambda: healthy(started), 600)
    assert time.monotonic() - began < 60
    assert "exit code 1" in str(refusal.value)
    assert 0 < len(refusal.value.others) <= 20


@pytest.mark.slow
def test_a_deadline_that_passes_refuses_with_the_logs_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    runtime = program(
        tmp_path, monkeypatch, "import time\nfor n in range(99): print('line', n, flush=True)\ntime.sleep(99)"
    )
    with closing(processes.start(runtime, serve, tmp_path)) as started:
        with pytest.raises(ServingRefused, match="not ready after 1 s") as refusal:
            server.wait_until(started, lambda: False, 1)
        assert refusal.value.others == tuple(f"line {n}" for n in range(79, 99))
        started.close()
        started.close()


@pytest.mark.slow
def test_a_log_is_made_printable_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    script = (
        r"import sys; sys.stdout.buffer.write(b'\x1b[31mred\x1b[0m\n\n\xff\x00\rover\n' + b'x' * 1000); sys.exit(7)"
    )
    runtime = program(tmp_path, monkeypatch, script)
    with (
        closing(processes.start(runtime, serve, tmp_path)) as started,
        pytest.raises(ServingRefused, match="exit code 7") as refusal,
    ):
        server.wait_until(started, lambda: False, 30)
    assert refusal.value.others == ("red", "\ufffd\ufffd", "over", "x" * 300)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_process_was_started_to_ignore_stays_ignored_and_a_second_signal_breaks_nothing(
    number: signal.Signals,
) -> None:
    script = """
import os, signal, sys, time
from release.serving import server
signal.signal(signal.SIGINT, signal.SIG_IGN)
number = int(sys.argv[1])
signal.signal(number, signal.SIG_DFL)  # whatever the tests were started to ignore
try:
    with server.unwinding():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            print("still here", flush=True)
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            print("cleaned up", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", script, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split("\n") == ["still here", "cleaned up", "interrupted", ""]


@pytest.mark.slow
def test_a_server_that_does_not_end_by_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    script = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(99)"
    )
    runtime = program(tmp_path, monkeypatch, script)
    with closing(processes.start(runtime, serve, tmp_path)) as started:
        server.wait_until(started, lambda: started.log().endswith(b"\n"), 30)
        child = int(started.log())
        assert started.terminate(0.3) is None
    assert ended(child)


def ended(pid: int) -> bool:
    """Whether a process is gone, or goes within ten seconds: being killed takes a moment."""
    deadline = time.monotonic() + 10
    while owners.of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not owners.of(pid)


PYTHON = sys.executable
OURS = """
import signal, sys, time
from contextlib import closing
from pathlib import Path
from checks.config import params_file
from release import runtimes
from release.serving import processes, server
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
folder = Path(sys.argv[1])
sys.executable = str(folder / "bin" / "python")
runtime = runtimes.load("transformers").model_copy(
    update={"entrypoint": ("server",), "command": (), "package": "docker"}
)
serve = params_file.load(Path("params.yaml")).serve
with server.unwinding(), closing(processes.start(runtime, serve, folder)) as started:
    print(started._process.pid, started._folder, flush=True)
    time.sleep(600)
"""


def ours(folder: Path) -> tuple["subprocess.Popen[str]", int, Path]:
    """A process of this tool that holds a server; the server's process and folder."""
    process = subprocess.Popen([PYTHON, "-c", OURS, str(folder)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    pid, home = process.stdout.readline().split()
    return process, int(pid), Path(home)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_ends_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    program(tmp_path, monkeypatch, "import time; time.sleep(99)")
    process, pid, home = ours(tmp_path)
    assert owners.of(pid)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not owners.of(pid)
    assert not home.exists()


@pytest.mark.slow
def test_what_a_killed_run_left_is_ended_at_the_next_start_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    runtime = program(tmp_path, monkeypatch, "import time; time.sleep(99)")
    killed, orphan, gone = ours(tmp_path)
    other, kept, stays = ours(tmp_path)
    killed.kill()
    killed.wait()
    try:
        assert owners.of(orphan)
        with closing(processes.start(runtime, serve, tmp_path)):
            assert ended(orphan)
            assert not gone.exists()
            assert owners.of(kept)
            assert stays.exists()
    finally:
        other.terminate()
        other.wait(30)


def test_another_users_leftovers_and_links_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "target").mkdir()
    (tmp_path / "lockstep-serve-link").symlink_to(tmp_path / "target")
    (tmp_path / "target" / "owner").write_text(dead())
    (tmp_path / "lockstep-serve-empty").mkdir()
    assert processes.remove_leftovers() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"target", "lockstep-serve-link", "lockstep-serve-empty"}


def test_the_scratch_folder_of_a_killed_drill_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "lockstep-drill-left"
    left.mkdir()
    (left / "owner").write_text(dead())
    with processes.scratch() as first, processes.scratch() as second:
        assert set(tmp_path.iterdir()) == {first, second}
    assert list(tmp_path.iterdir()) == []


def dead() -> str:
    """The owner that a process was."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        return owners.of(process.pid)


def test_an_owner_is_a_process_and_no_later_one_of_its_number() -> None:
    assert owners.lives(owners.self())
    assert owners.of(os.getpid()) == owners.self()
    assert not owners.lives(dead())
    host, space, pid, started = owners.self().split(" ", 3)
    assert not owners.lives(f"{host} {space} {pid} {started}0")
    assert not owners.lives(f"{host} {space} 4194305 {started}")


@pytest.mark.parametrize("words", ["", "x", "elsewhere - 1 1", "a b c d e", "\n"])
def test_an_owner_elsewhere_or_none_is_taken_to_live(words: str) -> None:
    assert owners.lives(words)


def test_a_runtime_that_is_only_an_image_is_no_process(tmp_path: Path, serve: Serve) -> None:
    with pytest.raises(ServingRefused, match="tgi: runs in its image alone"):
        processes.start(runtimes.load("tgi"), serve.model_copy(update={"dtype": "bf16"}), tmp_path)


@pytest.mark.parametrize(
    ("package", "absent"), [("lockstep-none[x]", "lockstep-none"), ("docker", "/transformers"), ("lockstep-llm[bench]", "lm-eval")]
)  # fmt: skip
def test_a_server_that_is_not_installed_is_refused(
    package: str, absent: str, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "docker":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MachineRefused, match=f"is not installed: .*{absent} absent; pip install"):
        processes.start(RUNTIME.model_copy(update={"package": package}), serve, tmp_path)


def test_vllm_is_found_in_its_own_environment_and_is_never_installed_over_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtimes.load("vllm")
    assert runtime.own_environment is not None
    assert layout.STATE / runtime.own_environment.folder == engines.ENVIRONMENT
    assert runtime.own_environment.variable == engines.PYTHON
    monkeypatch.delenv(engines.PYTHON, raising=False)
    with pytest.raises(MachineRefused) as refusal:
        processes.program(runtime, tmp_path)
    assert refusal.value.todo.startswith("run `python -m stages.tools.vllm 0.32.0`, or set LOCKSTEP_VLLM")
    for folder in (tmp_path / layout.STATE / "vllm/bin", tmp_path / "other/bin"):
        folder.mkdir(parents=True)
        (folder / "vllm").touch()
        assert processes.program(runtime, tmp_path) == folder / "vllm"
        monkeypatch.setenv(engines.PYTHON, str(tmp_path / "other/bin/python"))


def test_the_image_of_vllm_is_the_release_that_was_tested() -> None:
    runtime = runtimes.load("vllm")
    assert runtime.image.endswith(f":v{vllm.VERSION}")
    assert runtime.own_environment is not None
    assert vllm.VERSION in runtime.own_environment.make


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, serve: Serve) -> None:
    with pytest.raises(ServingRefused, match="is not a folder of weights"):
        processes.start(RUNTIME, serve, tmp_path / "absent")


def test_a_command_that_cannot_run_is_refused(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = program(tmp_path, monkeypatch, "")
    (tmp_path / "bin" / "server").write_text("#!/nowhere/python\n")
    with pytest.raises(MachineRefused, match="does not start"):
        processes.start(runtime, serve, tmp_path)


def test_a_server_that_runs_already_is_asked_and_left_alone() -> None:
    attached = server.attach("https://host:8080/", "/models/x")
    assert (attached.url, attached.model, attached.how) == ("https://host:8080", "/models/x", "url")
    assert (attached.gone(), attached.log(), attached.terminate(1)) == (None, b"", None)
    attached.close()


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host", "http://", "http://[::1", "http://h:99999", "http://h?a=b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ServingRefused, match="is not an address"):
        server.attach(url, "/m")


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ServingRefused, match="holds a password") as refusal:
        server.attach("http://user:hunter2@host", "/m")
    assert "hunter2" not in str(refusal.value)
