"""Shows stages, and what runs them, as one line for each stage: what it does now, then its result.

The programs' own output (bars, logs of libraries, DVC) goes to .lockstep/VERB.log; of a stage that fails, its last
lines are shown. On a terminal the line of the running stage is written again and again. Elsewhere there are whole
lines: one when a stage begins, those that it says itself, one every half minute, one when it ends.
"""

import codecs
import os
import re
import sys
import time
from collections import deque
from pathlib import Path

import click

from checks.process.errors import MachineRefused
from checks.process.text import escape
from checks.storage import layout
from release.cli.wrapping import hanging, is_terminal

_LINE = re.compile(r"[^\r\n]*(?:\r?\n|\r(?=[^\n]))")  # a carriage return alone begins a line again
_BAR = re.compile(
    r"(?P<what>.*?):?\s*\d+%\|[^|]*\|\s*(?P<done>\S+)/(?P<total>\S+) \[[^<\]]*<?(?P<left>[\d:]*)"
)
_BEGINS = re.compile(r"Running stage '(\S+)':")
_SKIPPED = re.compile(r"(?:Stage )?'(\S+)' (didn't change|is cached)")
# DVC repeats with these words what the stage has said itself.
_DVC_FAILED = "ERROR: failed to reproduce"
_SPEAKER = re.compile(r"^[a-z]+: ")
_TAIL = 20  # lines of what failed
_SHOWN = 1_000  # characters of a line that may be shown; the log has all
_LONGEST = 1 << 16  # characters of a line in the log: what prints no end of line is broken there
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]+")
_MARKS = {
    "ok": ("✓", "green"),
    "failed": ("✗", "red"),
    "open": ("?", "yellow"),
    "same": ("=", None),
    "runs": (">", None),
}


class StageLines:
    """A ``Listener`` (release/adapters/listening.py) that writes these lines to standard error, and the log."""

    def __init__(self, root: Path, verb: str = "run", every: float = 30.0) -> None:
        self.terminal = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        # Seconds between two lines of a running stage where there is no terminal.
        self._every = every
        self._log_path = root / layout.STATE / f"{verb}.log"
        try:
            self._log_path.parent.mkdir(exist_ok=True)
            self._log_path.unlink(missing_ok=True)  # another run may still write its own
            self._log = self._log_path.open("wb")
        except OSError as error:
            raise MachineRefused(
                f"{self._log_path}: {error.strerror}",
                "let this user write there: the file keeps what the stages print; with -v there is none",
            ) from error
        self._drawn = ""  # The line of the running stage on the terminal.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open, self._name, self._step, self._seen = "", "", "", set[str]()
        self._begin("")

    def step(self, name: str) -> None:
        """The next program begins."""
        self._step = name
        self._begin(name)

    def hear(self, output: bytes) -> None:
        """Read what was printed, and show how far it is."""
        self._open += self._decoder.decode(output)
        while match := _LINE.match(self._open):
            self._open = self._open[match.end() :]
            self._read(match[0])
        if len(self._open) > _LONGEST:
            self._read(f"{self._open}\n")
            self._open = ""
        self._log.flush()
        self._look(self._open)
        self._show()

    def ended(self, code: int) -> None:
        """Write the result of the last stage."""
        if self._open:
            self._read(self._open + "\n")
        self._open = ""
        self._log.flush()
        if code == 0:
            self._finish()
        else:
            self._failed("interrupted" if code == 130 else "failed")

    def _begin(self, name: str, said: bool = True) -> None:
        self._name, self._began, self._now, self._result = name, time.monotonic(), "", ""
        self._lines, self._told = deque[str](maxlen=_TAIL), self._began
        if name and said and not self.terminal:
            self._write("runs", "", None)

    def _read(self, line: str) -> None:
        """One line, or what stood in it until a carriage return."""
        text = click.unstyle(line.strip())
        if line.endswith("\n") and text:
            self._log.write(f"{text}\n".encode())
        text = text[:_SHOWN]
        if self._step and self._name != self._step and text.startswith(f"{self._step}: "):
            self._finish()  # a stage inside this program, such as one of a sweep's trainings
            self._begin(self._step, said=False)
        if begins := _BEGINS.fullmatch(text):
            self._finish(around=self._name == self._step)
            self._begin(begins[1])
            self._seen.add(begins[1])
        elif skipped := _SKIPPED.match(text):
            self._finish(around=self._name == self._step)
            # A pipeline that runs again for new references passes a skipped stage once more.
            if skipped[1] not in self._seen:
                self._name = skipped[1]
                self._write(
                    "same",
                    "did not change" if skipped[2].startswith("didn't") else "from the cache",
                    None,
                )
                self._seen.add(skipped[1])
            self._begin("")
        elif text and not self._look(text) and line.endswith("\n") and not text.startswith("> "):
            self._lines.append(text)
            if text.startswith(f"{self._name}: "):
                # Print what the stage said before its result, such as where training goes on.
                if self._result and not self.terminal:
                    self._write("runs", self._result, time.monotonic() - self._began)
                self._now = self._result = text.removeprefix(f"{self._name}: ")

    def _look(self, text: str) -> bool:
        """Whether the line is a progress bar. A bar that is not full says what the stage does now."""
        # Matching takes the square of the length.
        match = _BAR.match(click.unstyle(text).strip()) if len(text) <= _SHOWN else None
        if match:
            left = f", {match['left']} left" if match["left"].strip("0:") else ""
            full = match["done"] == match["total"]
            self._now = (
                "" if full else f"{match['what']} {match['done']} of {match['total']}{left}".strip()
            )
        return match is not None

    def _finish(self, around: bool = False) -> None:
        """Write the result of this stage. ``around``: it is the program that runs the next stage, and goes on."""
        if self._name and any(line.startswith(_DVC_FAILED) for line in self._lines):
            self._failed("failed")
        elif self._name:
            last = self._lines[-1] if self._lines else ""
            outcome = self._result or _SPEAKER.sub("", last)
            decided = outcome.partition(":")[0] if self._name == "gate" else ""
            how = (
                "runs" if around else {"fail": "failed", "inconclusive": "open"}.get(decided, "ok")
            )
            self._write(
                how, _DIGEST.sub(r"\1", outcome.partition("; ")[0]), time.monotonic() - self._began
            )
        self._clear()
        self._name = ""

    def _failed(self, how: str) -> None:
        self._write("failed", how, time.monotonic() - self._began)
        own = [line for line in self._lines if line.startswith(f"{self._name}: ")]
        lines = [line for line in self._lines if not line.startswith(_DVC_FAILED)]
        for line in own if how == "interrupted" else lines or self._lines:
            click.echo(hanging(f"    {escape(line)}", sys.stderr), err=True)
        click.echo(hanging(f"    all that was printed: {self._log_path}", sys.stderr), err=True)
        self._name = ""

    def _show(self) -> None:
        """Write the line of the running stage again; without a terminal another line, if it is time."""
        seconds = time.monotonic() - self._began
        if self.terminal:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            line = self._line("runs", self._now, seconds)[: width - 1]
            if line != self._drawn:  # a terminal that is recorded or read aloud gets each line once
                sys.stderr.write(f"\r\x1b[K{line}")
                sys.stderr.flush()
                self._drawn = line
        elif self._name and time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            self._write("runs", self._now, seconds)

    def _write(self, how: str, text: str, seconds: float | None) -> None:
        self._clear()
        mark, colour = _MARKS[how]
        line = self._line(how, text, seconds)
        styled = click.style(mark, fg=colour) if colour else mark
        click.echo(hanging(line.replace(mark, styled, 1), sys.stderr), err=True)

    def _clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = ""

    def _line(self, how: str, text: str, seconds: float | None) -> str:
        time_taken = "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        return escape(
            f"  {_MARKS[how][0]} {self._name or 'dvc':<9} {time_taken:>6}  {text}".rstrip()
        )
