"""`lockstep verify` as a real process that is told to end while its requests are in flight, and what it prints."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from checks.storage import layout
from release.serving import owners
from release.verbs.build import BuildOptions, build
from tests import build_tree
from tests.conftest import REPOSITORY, scaled_down
from tests.ports import unused_port
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

# Answers the check `start` and the only probe, and keeps whatever is asked later, the test rows, waiting.
SERVER = """
import itertools, json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = itertools.count(1)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if next(asked) > 2:
            time.sleep(600)
        choice = {"message": {"content": "vm"}, "finish_reason": "length"}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.send_error(404)
    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# `lockstep verify`, with lines sooner than every twelve seconds, and a server that belongs to no package.
VERIFY = """
import signal, sys
from pathlib import Path
from release import runtimes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started to ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from release.serving import progress
progress.SECONDS = 0.3
folder, *arguments = sys.argv[1:]
if folder != "-":
    sys.executable = str(Path(folder) / "python")
    load = runtimes.load
    runtimes.load = lambda name: load(name).model_copy(
        update={"entrypoint": ("server",), "command": ("{port}",), "package": "docker"}
    )
from release.cli import main
main(arguments, prog_name="lockstep")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that passes, its probes, and its weights as an image without a base."""
    root = tmp_path_factory.mktemp("interrupted") / "run"
    document = scaled_down()
    document["serve"]["runtime"] = "transformers"
    probed(root, build_tree.make(root, document=document))
    build_tree.commit(root, "probes")
    build(root, BuildOptions())
    return root


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The folder of a command ``server``."""
    command = tmp_path / "server"
    command.write_text(f"#!{sys.executable}\n{SERVER}")
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def url(program: Path) -> Iterator[str]:
    """A server that runs already."""
    port = unused_port()
    with subprocess.Popen([str(program / "server"), str(port)], stdout=subprocess.DEVNULL) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()


def started(root: Path, folder: Path | str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", VERIFY, str(folder), "-C", str(root), "verify", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)


def lines_until(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """What it prints, up to the line that holds ``word``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"it ended: {''.join(lines)}")


@pytest.mark.parametrize(("how", "number"), [("process", signal.SIGTERM), ("url", signal.SIGINT)])
def test_it_says_what_it_does_and_ends_within_seconds_of_a_signal_with_its_server(
    how: str, number: signal.Signals, finished: Path, program: Path, url: str
) -> None:
    folder, arguments = (program, ("--runtime", "transformers")) if how == "process" else ("-", ("--url", url))
    with started(finished, folder, *arguments) as process:
        assert process.stderr is not None
        with closing(process.stderr):
            lines_until(process, "test rows: 0 of 40 rows, 0.00 rows/s")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            servers = [child for child in children if Path(f"/proc/{child}/comm").read_text() != "git\n"]
            assert len(servers) == (how == "process")
            began = time.monotonic()
            process.send_signal(number)
            code = process.wait(30)
            seconds = time.monotonic() - began
            rest = process.stderr.read()
    assert code == 130, rest
    assert seconds < 20  # the server alone would take 30
    assert rest.splitlines()[-1] == "lockstep: interrupted"
    assert not any(owners.of(int(child)) for child in children)
    assert not (finished / layout.SERVING_REPORT).exists()
    assert not list((finished / layout.STATE).glob("serving-*"))
