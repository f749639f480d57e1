"""What `lockstep run` and other verbs show of stages, DVC and libraries: one line for each stage, and the end of what fails."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from checks.formats.evaluation_reports import EvaluationReport
from checks.process.errors import MachineRefused
from checks.storage import files, layout
from release.adapters import dvc
from release.cli import tables
from release.cli.stage_lines import StageLines
from tests.conftest import REPOSITORY
from tests.terminal import on_terminal

PROGRAM = """
import sys
from pathlib import Path
from release.adapters.listening import listen
from release.cli.stage_lines import StageLines
shown = StageLines(Path(), every=0.3)
shown.step(sys.argv[1])
listen([sys.executable, "-c", sys.argv[2]], shown)
"""
TWO_STAGES = """
import sys, time
from tqdm import tqdm
tell = lambda line: print(line, file=sys.stderr, flush=True)
tell("Running stage 'train':\\n> python -m stages.train\\nlibrary: \\x1b[31mnoise\\x1b[0m")
for _ in tqdm(range(3), "Loading weights", mininterval=0): time.sleep(0.5)
tell("train: 9 rows\\ntrain: models/adapter: sha256:" + "0123456789abcdef" * 4 + ", loss 1.5; a second sentence")
tell("Updating lock file 'dvc.lock'\\nStage 'merge' didn't change, skipping\\nRunning stage 'gate':\\ngate: pass")
tell("Use `dvc push` to send your updates to remote storage.")
"""
REFUSES = """
print("Running stage 'train':\\nthe loss is \\x07odd\\ntrain: no row is left; lower it")
print("ERROR: failed to reproduce 'train': exited with 4")
raise SystemExit(255)
"""
SWEEP = """
print("sweep: 1 of 2: train.lora.r=4, seed 17\\nReproducing experiment 'sweep-1'\\nStage 'fetch' didn't change, skipping")
print("Running stage 'train':\\n> python -m stages.train\\ntrain: loss 1.5\\nRan experiment(s): sweep-1")
print("sweep: score 393 rows\\nsweep: 1 of 2: exact-match 0.5\\nsweep: 2 of 2: train.lora.r=4, seed 18")
print("Stage 'fetch' didn't change, skipping\\nRunning stage 'train':\\ntrain: the loss is nan; lower it")
print("ERROR: failed to reproduce 'train': exited with 5\\nsweep: 2 of 2: refused: the loss is nan")
print("sweep: the best of 1: train.lora.r=4, 0.5")
"""
LINES = [
    "> train", "> train  0:00  9 rows", "✓ train  0:00  models/adapter: sha256:0123456789ab, loss 1.5", "= merge  did not change",
    "> gate", "✓ gate  0:00  pass",
]  # fmt: skip
REFUSED = [
    "> train", "✗ train  0:00  failed", "the loss is \N{REPLACEMENT CHARACTER}odd", "train: no row is left; lower it",
    "all that was printed: .lockstep/run.log",
]  # fmt: skip
SWEPT = [
    "> sweep", "> sweep  0:00  1 of 2: train.lora.r=4, seed 17", "= fetch  did not change", "> train", "✓ train  0:00  loss 1.5",
    "> sweep  0:00  score 393 rows", "> sweep  0:00  1 of 2: exact-match 0.5", "> sweep  0:00  2 of 2: train.lora.r=4, seed 18",
    "✗ train  0:00  failed", "train: the loss is nan; lower it", "all that was printed: .lockstep/run.log",
    "> sweep  0:00  2 of 2: refused: the loss is nan", "✓ sweep  0:00  the best of 1: train.lora.r=4, 0.5",
]  # fmt: skip


def lines(screen: str) -> list[str]:
    """Without the width of columns, and with 0:00 for every time."""
    return [re.sub(r"\b\d:\d\d\b", "0:00", re.sub("  +", "  ", line.strip())) for line in screen.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "child", "wanted"),
    [
        ("", TWO_STAGES, LINES),
        ("", REFUSES, REFUSED),
        ("sweep", SWEEP, SWEPT),
        ("pull", "print('A  models\\n5 files fetched', end='')", ["> pull", "✓ pull  0:00  5 files fetched"]),
        ("", "print(\"Running stage 'gate':\\ngate: fail: is_good: 0.5\")", ["> gate", "✗ gate  0:00  fail: is_good: 0.5"]),
        ("", "print(\"Running stage 'gate':\\ngate: inconclusive: x\")", ["> gate", "? gate  0:00  inconclusive: x"]),
        ("push", "raise SystemExit('no such bucket')", ["> push", "✗ push  0:00  failed", "no such bucket", REFUSED[-1]]),
    ],
    ids=["two stages", "one that refuses", "a sweep of two trainings", "a command", "a verdict that fails", "one that is open", "one that fails"],
)  # fmt: skip
def test_a_log_gets_a_line_when_a_stage_begins_and_one_when_it_ends(
    tmp_path: Path, step: str, child: str, wanted: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, step, child], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.stdout == ""
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    found = list(dict.fromkeys(lines(done.stderr)))  # a stage that takes long repeats what it does
    waits = [line for line in found if re.match(r"> \w+  0:00", line) and line not in wanted]
    assert [line for line in found if line not in waits] == wanted
    assert any("Loading weights" in line for line in waits) is (child == TWO_STAGES)
    log = (tmp_path / ".lockstep/run.log").read_text()
    assert ("library: noise\n" in log and "Use `dvc push`" in log) is (child == TWO_STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_sees_the_running_stage_move_in_its_own_line(tmp_path: Path, term: str) -> None:
    screen = on_terminal([sys.executable, "-c", PROGRAM, "", TWO_STAGES], 48, tmp_path, TERM=term)
    written_again = [line for line in re.findall(r"\r\x1b\[K([^\r\n]*)", screen) if line]
    assert any("Loading weights 1 of 3" in line for line in written_again) is (term == "xterm")
    last = [click.unstyle(line.rpartition("\r")[2]) for line in screen.split("\n")]
    assert all(len(line) <= 48 for line in (*last, *written_again))
    shown = [line for line in LINES if not line.startswith(">") or term == "dumb"]  # a terminal keeps results alone
    assert " ".join(lines("\n".join(last))).strip().endswith(" ".join(shown[2 * (term == "dumb") :]))


@pytest.mark.slow
def test_a_job_that_has_a_terminal_gets_the_lines_of_a_log(tmp_path: Path) -> None:
    screen = on_terminal([sys.executable, "-c", PROGRAM, "", REFUSES], 40, tmp_path, CI="true")
    assert lines(click.unstyle(screen)) == REFUSED
    assert "\r" not in screen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("child", "shown", "logged"),
    [
        ("print('1' * 10_000_000, end='')", "✓ x  0:00  " + "1" * 1000, 10_000_000),
        ("print(\"Running stage '\\x1b]0;a\\x07\\x9b2J':\")", "✓ \ufffd]0;a\ufffd\ufffd2J  0:00", 26),
    ],
    ids=["a line that never ends", "codes in the name of a stage"],
)
def test_a_hostile_line_costs_little_and_is_escaped(tmp_path: Path, child: str, shown: str, logged: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "x", child], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}, timeout=60,
    )  # fmt: skip
    assert done.stderr.replace("\n", "").isprintable()
    assert lines(done.stderr)[-1] == shown
    assert len((tmp_path / ".lockstep/run.log").read_text().replace("\n", "")) == logged


def test_a_log_that_cannot_be_kept_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".lockstep").write_text("")
    with pytest.raises(MachineRefused, match="File exists; let this user write there"):
        StageLines(tmp_path)


def test_a_run_ends_with_its_figures_and_their_change_against_the_last_run() -> None:
    now = files.read_json(REPOSITORY / layout.EVALUATION, EvaluationReport)
    worse = {"candidate": now.models["base"].model_dump(), "base": now.models["base"].model_dump()}
    earlier = EvaluationReport.model_validate(now.model_dump() | {"merged": now.base, "models": worse})
    shown = dict(tables.figures_of_run(None, now))
    assert shown["last run"] == "none: this is the first"
    own = now.models["candidate"].metrics
    for scorer, figure in own.items():
        assert shown[scorer].startswith(
            f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] of {now.rows:,} rows; base "
        )
    assert tables.figures_of_run(now, now)[-1] == ("last run", "the same model")
    other = earlier.model_copy(update={"test": now.base})
    assert tables.figures_of_run(other, now)[-1][1].endswith("scored on other rows or otherwise")
    change = own["exact-match"].value - now.models["base"].metrics["exact-match"].value
    assert f": exact-match {change:+.3f}, " in tables.figures_of_run(earlier, now)[-1][1]
    assert tables.figures_of_run(earlier, None) == []


def test_what_a_verb_must_hear_is_returned_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = "import sys; print('pass'); print('sealed: 12 rows', file=sys.stderr)"
    shown = StageLines(tmp_path, "sealed")
    assert dvc.python(tmp_path, ["-c", child], "sealed", heard=True, listener=shown, step="sealed") == "pass\n"
    assert lines(capsys.readouterr().err) == ["> sealed", "✓ sealed  0:00  12 rows"]
    assert (tmp_path / ".lockstep/sealed.log").read_text() == "sealed: 12 rows\n"
