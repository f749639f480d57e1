"""`lockstep drill ENV --incident`: real gateways and a real ledger, before stand-ins of servers and before real ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from checks.config import params_file
from checks.formats.thinking import Thinking
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from release.cli import main
from release.mirrors import mlflow
from release.monitoring import detection
from release.promotion import incident_report
from release.serving import processes
from tests import build_tree, evidence_tree, ledger_tree, tuned
from tests import promotion_tree as tree
from tests.conftest import REPOSITORY
from tests.http_standin import Handler, StandIn
from tests.ledger_tree import git, keep, refs
from tests.release.adapters.test_children import interruptible
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

alone, trio, root, releases = tree.alone, tree.trio, tree.root, tree.releases
FAST = ("--rate", "100", "--window", "0.3", "--label-delay", "0.5")
Answer = Callable[[int], str | int]


def right(number: int) -> str:
    return evidence_tree.LABELS[number % len(evidence_tree.LABELS)]


def wrong(number: int) -> str:
    return right(number + 1)


class Model(StandIn):
    """A model's server as ``processes.start`` returns it: it answers request N by ``answer``; a number is a status."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        super().__init__(_Handler)
        self.model, self.digest, self.answer, self.asked = str(folder), digest.of_tree(folder).digest, answer, 0
        self.start()

    def gone(self) -> str | None:
        return "exit code 137" if self.ending.is_set() else None

    def log(self) -> bytes:
        return b""

    def close(self) -> None:
        if not self.ending.is_set():
            self.stop()


class _Handler(Handler):
    server: Model

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": self.server.model}]})

    def do_POST(self) -> None:
        words = json.loads(self.body())["messages"][-1]["content"].split()
        answer: str | int = "hello"
        if "request" in words:
            self.server.asked += 1
            answer = self.server.answer(int(words[2]))
        if isinstance(answer, int):
            self.reply(answer, {"error": {"message": "out of memory"}})
            return
        message = {"role": "assistant", "content": answer}
        self.reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def lockstep(root: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(main, ["-C", str(root), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for temporary files, which a drill must leave empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer, Answer], list[Model]]:
    """Let stand-ins be the servers: production's, which is started first, and the worse one's."""

    def replaced(*answers: Answer) -> list[Model]:
        made = list[Model]()

        def start(_runtime: object, _serve: object, folder: Path, _root: Path) -> Model:
            made.append(Model(folder, answers[len(made)]))
            return made[-1]

        monkeypatch.setattr(processes, "start", start)
        return made

    return replaced


@contextmanager
def untouched(root: Path, *remotes: Path) -> Iterator[None]:
    """Nothing changes in the block: no file of the clone, none of its refs or settings, none of a remote."""

    def all_of_it() -> object:
        files = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != ".git"]
        listed = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
        settings = [(folder / "config").read_bytes() for folder in (root / ".git", *remotes)]
        return listed, settings, [refs(folder) for folder in (root, *remotes)], git(root, "status", "--porcelain")

    before = all_of_it()
    yield
    assert all_of_it() == before


@pytest.mark.parametrize(
    ("answer", "why", "signs"),
    [(wrong, "quality: 0.000 against 1.000", False), (lambda _: 500, "answered: 0.0", True)],
)
def test_a_worse_model_is_found_and_rolled_back_and_nothing_but_scratch_is_touched(
    root: Path, releases: Sequence[tree.Release], serve: Callable[..., list[Model]], answer: Answer, why: str,
    signs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ledger_tree.bare(tmp_path / "origin.git", root)
    if signs:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
        signing = {"gpg.format": "ssh", "user.signingKey": f"{tmp_path}/key.pub", "commit.gpgSign": "true"}
        for name, value in signing.items():
            git(root, "config", name, value)
    made = serve(right, answer)
    monkeypatch.setattr(mlflow, "ask", lambda *_: pytest.fail("a drill updates no mirror"))
    with untouched(root, tmp_path / "origin.git"):
        done = lockstep(root, "drill", "production", "--incident", *FAST, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    # Another model was built since: production's weights are those of its image.
    assert [each.digest for each in made] == [releases[1].report.model, found["worse"]]
    assert found["worse"] == digest.of_tree(root / layout.BASE).digest
    assert found["production"]["version"] == found["back"]["to"]["version"] == "v0.2.0"
    assert why in found["why"]
    detected = found["detected"]
    assert detected == found["looks"][-1] | {"decision": "roll back"}
    assert 0 < detected["requests"] <= found["requests"] <= 40
    assert 0 < detected["seconds"] < found["rolled_back_after"]
    assert found["worse_requests"] == found["lost"] >= 12  # none of its answers was right, all of production's are
    assert made[1].asked >= found["worse_requests"]
    assert (found["false_rollbacks"], found["back"]["signed"]) == (0.05, signs)
    expected = {each["loss"]: each for each in found["expected"]}
    assert list(expected) == [0.01, 0.03, 0.05, 0.1]
    assert expected[0.1]["found"] > 0.95 > 0.05 > expected[0.03]["found"]
    assert expected[0.1]["requests"] == 2 * expected[0.1]["pairs"]


def test_a_model_that_is_no_worse_is_not_detected_and_that_has_a_code_of_its_own(
    root: Path, serve: Callable[..., list[Model]]
) -> None:
    serve(right, right)
    with untouched(root):
        done = lockstep(root, "drill", "production", "--incident", *FAST, "--requests", "30", "--labelled", "0.5")
    assert done.exit_code == 11, done.output
    assert "not detected in 30 requests" in done.stdout
    assert "the worse model was not detected within 30 requests; replay more (--requests)" in done.stderr
    assert " requests, " in done.stderr
    assert "    1 point    0.0%  monitor.margin allows it" in done.stdout
    assert "not real in this drill:\n  the worse model was promoted without checks" in done.stdout


def test_a_server_that_dies_ends_the_drill_and_is_not_held_against_a_model(
    root: Path, serve: Callable[..., list[Model]]
) -> None:
    def dies(number: int) -> str:
        made[0].ending.set()
        return right(number)

    made = serve(dies, right)
    done = lockstep(root, "drill", "production", "--incident", *FAST)
    made[0].stop()
    assert done.exit_code == 14, done.output
    assert "ended: exit code 137; fix what its log says" in done.stderr


def _no_gateway(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "release.monitoring.gateway.run", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)


def _nothing(_root: Path, _: pytest.MonkeyPatch) -> None:
    pass


def _no_rows(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / layout.SPLITS / "test.jsonl").unlink()


def _no_temporary_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root / "absent"))


def _a_tool(root: Path, _: pytest.MonkeyPatch) -> None:
    path = root / layout.SPLITS / "test.jsonl"
    first, *rest = path.read_text().splitlines()
    tool = {"type": "function", "function": {"name": "usage"}}
    path.write_text("\n".join([json.dumps({**json.loads(first), "tools": [tool]}), *rest, ""]))


def _no_row(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / layout.SPLITS / "test.jsonl").write_text("")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, value) for option in ("--rate", "--share", "--labelled", "--window") for value in ("nan", "inf", "-1", "x")),
        *(("--share", value) for value in ("0", "1")), ("--rate", "0"), ("--rate", "1e-300"), ("--window", "0"),
        ("--window", "1e300"), ("--requests", "0"), ("--requests", "1.5"),
    ],
)  # fmt: skip
def test_a_number_that_no_drill_can_have_is_refused_before_anything_is_read(
    tmp_path: Path, option: str, value: str
) -> None:
    done = lockstep(tmp_path, "drill", "production", "--incident", option, value)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: Invalid value for '{option}': " in done.stderr


@pytest.mark.parametrize(
    ("edit", "arguments", "code", "said"),
    [
        (_no_gateway, ("production",), 9, "aiohttp is not installed; pip install -c constraints.txt -e '.[gateway]'"),
        (_nothing, ("production", "--runtime", "tgi"), 14, "tgi runs in its image alone; use --runtime transformers"),
        (_nothing, ("production", "--runtime", "none"), 2, "'none' is not a runtime"),
        (_nothing, ("nowhere",), 8, "names no such one; use one of"),
        (_nothing, ("production", "--requests", "41"), 8, "the test split has 40 different prompts"),
        (_nothing, ("production", "--worse", "absent"), 8, "absent: not a directory"),
        (_nothing, ("staging", "--worse", "models/merged"), 8, "models/merged: is the model that already runs, v0.3.0"),
        (_no_rows, ("production",), 8, "test.jsonl"),
        (
            _no_temporary_folder,
            ("production",),
            9,
            "no temporary folder can be made: No such file or directory; set TMPDIR",
        ),
        (_no_row, ("production",), 8, "test.jsonl: has no rows to replay"),
        (_a_tool, ("production",), 8, "test.jsonl: 1 rows have tools, "),
    ],
)
def test_what_cannot_be_drilled_is_refused_in_one_line_before_anything_starts(
    root: Path, edit: Callable[[Path, pytest.MonkeyPatch], None], arguments: tuple[str, ...], code: int, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    edit(root, monkeypatch)
    monkeypatch.setattr(processes, "start", lambda *_: pytest.fail("a server was started"))
    monkeypatch.chdir(root)
    done = lockstep(root, "drill", *arguments, "--incident")
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.output
    assert said in done.stderr


def test_options_of_an_incident_are_refused_without_one(root: Path) -> None:
    done = lockstep(root, "drill", "production", "--rate", "3")
    assert (done.exit_code, done.stderr) == (15, "lockstep: --rate works only with --incident; add --incident\n")


@pytest.mark.parametrize(("share", "variance"), [(0.5, 2.0), (0.1, 1 + 1 / 9), (0.9, 1 + 1 / 9)])
def test_a_pair_of_many_requests_varies_less_and_means_the_same(share: float, variance: float) -> None:
    drawn = detection.differences(0.8, 0.0, share, (400, 1000), np.random.default_rng(5))
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.003)
    assert float(drawn.var()) == pytest.approx(0.8 * 0.2 * variance, rel=0.02)
    assert float(detection.differences(0.8, 0.1, share, (400, 1000), np.random.default_rng(5)).mean()) == pytest.approx(
        0.1, abs=0.003
    )


def test_a_smaller_loss_takes_longer_to_find_and_one_within_the_margin_is_hardly_ever_found() -> None:
    found = detection.expected(0.8, 0.05, 0.0125, 0.5, (0.05, 0.1, 0.2, 0.4))
    assert found[0].found <= 0.0125 + 0.02
    pairs = [each.pairs or 0 for each in found[1:]]
    assert pairs == sorted(pairs, reverse=True)
    assert found[3].found == 1.0
    assert [each.loss for each in detection.expected(0.04, 0.05, 0.0125, 0.5)] == [0.01, 0.03]  # no room for more


def test_the_label_for_a_model_that_thinks_is_the_answer_alone(tmp_path: Path) -> None:
    asked = (Message(role="user", content="Sam has 26 masks and lends 8."),)
    row = Row(id="1", messages=asked, reference="<think>26-8=18</think>18", group="1", slice="all", source="a:1")
    files.write_jsonl(tmp_path / layout.SPLITS / "test.jsonl", [row])
    (drawn,) = incident_report.draw_requests(tmp_path, incident_report.IncidentOptions())
    assert drawn.reference == row.reference
    (tmp_path / layout.MERGED).mkdir(parents=True)
    files.write_json(tmp_path / layout.MERGED / layout.THINKING, Thinking(mode="always"))
    (drawn,) = incident_report.draw_requests(tmp_path, incident_report.IncidentOptions())
    assert drawn.reference == "18"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A laptop on which production runs a small model that knows its task, and models/base is the one without it."""
    root = tmp_path_factory.mktemp("incident") / "work"
    knows = root.with_name("knows")
    # After 300 steps it is right in two thirds of the rows, which are too few to tell the models apart in 40 requests.
    tuned.tune(tiny_base, knows, steps=450)
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.prepare(root, lambda plain: plain["serve"].update(dtype="fp32"))
        params = params_file.load(root / layout.PARAMS)
        files = [path for path in knows.rglob("*") if path.is_file()]
        build_tree.weigh(root, {path.relative_to(knows).as_posix(): path.read_bytes() for path in files})
        build_tree.judge(root, params)
        probed(root, params)
        keep(root, "a real model")
        tree.release(root)
        tree.move(root, "staging")
        tree.move(root, "production")
    shutil.rmtree(root / layout.BASE)  # the record's base is a stand-in
    shutil.copytree(tiny_base, root / layout.BASE)
    return root


@pytest.mark.usefixtures("forked_servers")
def test_real_servers_of_real_models_are_drilled_and_the_screen_says_how_long_it_took(real: Path) -> None:
    with untouched(real):
        done = lockstep(real, "drill", "production", "--incident", "--rate", "20", "--window", "1")
    assert done.exit_code == 0, done.output
    assert "rolled back to v0.1.0 after" in done.stdout
    assert "the worse model answered" in done.stdout
    assert "quality: 0.0" in done.stdout
    assert done.stderr.count("roll back") == 1


def test_a_signal_ends_every_process_and_removes_the_scratch_folder(real: Path, temporary: Path) -> None:
    command = [sys.executable, "-m", "release.cli", "-C", str(real), "drill", "production", "--incident"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, cwd=real, env=environment, text=True, preexec_fn=interruptible
    )
    assert process.stderr
    for line in process.stderr:
        if "two servers start" in line:
            break
    started = [int((home / "server").read_text().split(" ")[2]) for home in temporary.glob("lockstep-serve-*")]
    assert len(started) == 4
    assert list(temporary.glob("lockstep-drill-*"))
    process.send_signal(signal.SIGTERM)
    said = process.stderr.read()
    assert (process.wait(60), "interrupted" in said) == (130, True), said
    until = time.monotonic() + 10
    while any(Path(f"/proc/{each}").exists() for each in started) and time.monotonic() < until:
        time.sleep(0.05)
    assert [each for each in started if Path(f"/proc/{each}").exists()] == []
