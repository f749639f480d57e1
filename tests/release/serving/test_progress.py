"""Progress: a line every few seconds where there is no terminal, a bar where there is one."""

import io
import re
import sys
import time

import pytest

from release.serving import progress
from release.serving.probes import context
from release.serving.progress import Progress


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.1)
    monkeypatch.setattr(context, "_TICK", 0.05)


@pytest.mark.slow
def test_a_phase_without_a_terminal_prints_how_far_it_is_and_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("test rows", 9, "row") as bar:
        for _ in range(9):
            time.sleep(0.03)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"test rows: \d of 9 rows, \d+\.\d\d rows/s, 00:00(, done)?", line) for line in lines), (
        lines
    )
    assert lines[-1].startswith("test rows: 9 of 9 rows")
    assert lines[-1].endswith("done")


@pytest.mark.slow
def test_a_server_that_keeps_still_does_not_make_the_lines_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert context.together(2, [0.0, 0.5], lambda seconds: time.sleep(seconds), "test rows", "row") == [None, None]
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("test rows: 1 of 2 rows") for line in lines) >= 2


def test_bytes_are_counted_as_bytes_and_what_has_no_total_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("unpack", 3_000_000, "B") as one, Progress("pull", unit="B") as other, Progress("start") as third:
        time.sleep(0.15)
        one.update(1_500_000)
        other.update(2_000_000)
        third.tick()
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"unpack: 1\.50MB of 3\.00MB, .*B/s, 00:00", lines[0]), lines
    assert re.match(r"pull: 2\.00MB, .*B/s, 00:00", lines[1])
    assert lines[2] == "start: 00:00, still going"


def test_a_short_phase_prints_nothing_and_a_phase_that_is_interrupted_is_not_called_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("probes", 2, "prompt") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""
    bar = Progress("probes", 2, "prompt").__enter__()
    time.sleep(0.15)
    bar.update()
    bar.__exit__(KeyboardInterrupt)
    assert "done" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("test rows", 2, "row") as bar:
        time.sleep(0.15)
        bar.update(2)
    assert "test rows: 100%" in screen.getvalue()


def test_results_come_in_the_order_of_the_items_whichever_is_answered_first() -> None:
    def ask(number: int) -> int:
        time.sleep(0.02 * (7 - number))
        return number

    assert context.together(4, range(7), ask, "x") == list(range(7))


def test_a_bug_in_asking_is_raised_and_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        context.together(2, [1, 0], lambda n: 1 // n, "x")
