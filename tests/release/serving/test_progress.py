"""Progress: a line every few seconds where there is no terminal, a bar where there is one."""

import io
import re
import sys
import time

import pytest

from release.serving import progress
from release.serving.probes import context


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.1)
    monkeypatch.setattr(context, "_TICK", 0.05)


@pytest.mark.slow
def test_a_phase_without_a_terminal_prints_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("test rows", 9, "row") as bar:
        for _ in range(9):
            time.sleep(0.03)
            bar.update()
    lines = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]
    assert len(lines) >= 2
    assert all(re.match(r"test rows: .* \d/9 \[", line) for line in lines), lines
    assert " 9/9 " in lines[-1]


@pytest.mark.slow
def test_a_server_that_keeps_still_does_not_make_the_lines_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert context.together(2, [0.0, 0.5], lambda seconds: time.sleep(seconds), "test rows", "row") == [None, None]
    lines = capsys.readouterr().err.split("\r")
    assert sum(line.startswith("test rows: ") and " 1/2 " in line for line in lines) >= 2


def test_bytes_are_counted_as_bytes_and_what_has_no_total_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        progress.progress("unpack", 3_000_000, "B") as one,
        progress.progress("pull", unit="B") as other,
        progress.progress("start") as third,
    ):
        time.sleep(0.15)
        one.update(1_500_000)
        other.update(2_000_000)
        third.update(0)
        printed = capsys.readouterr().err
    assert "1.50M/3.00M" in printed
    assert "pull: 2.00MB" in printed
    assert "start 00:00" in printed


def test_a_short_phase_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("probes", 2, "prompt") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress("test rows", 2, "row") as bar:
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
