"""Writes Evidently's page: figures of prompts and answers in a window, beside those before the release was served.

Evidently runs in its own environment, whose Python the caller names. It gets no text, only figures: lengths, the answer
if it is a known label, refusals and repetition. Its page decides nothing, because its thresholds for drift ignore the
number of requests and raise false alarms: docs/how-to/monitoring.md#evidentlys-page.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from checks.data import signals
from checks.process.errors import MachineRefused
from checks.process.text import redact
from release.monitoring import evidently_report
from release.monitoring.answers import Reference, ScoredAnswer

INSTALL = (
    "python3 -m venv .lockstep/evidently && .lockstep/evidently/bin/pip install "
    "'evidently>=0.7.23,<0.8' 'pandas<3'"
)
_SECONDS = 600
_OTHER = "(no label)"


def write(python: Path, path: Path, window: Sequence[ScoredAnswer], reference: Reference) -> None:
    """Write the page to ``path``, by the Evidently of ``python``. Raises MachineRefused if it cannot."""
    categorical = [
        "answer declines",
        "answer repeats itself",
        *(["label"] if reference.labels is not None else []),
    ]
    given = {
        "current": _columns(window, reference.labels), "reference": _columns(reference.answers, reference.labels),
        "categorical": categorical,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(Path(evidently_report.__file__).resolve()), str(path.resolve())]
    try:
        done = subprocess.run(
            command, input=json.dumps(given), env=os.environ | {"DO_NOT_TRACK": "1"}, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except OSError as error:
        raise MachineRefused(
            f"--evidently: {python}: {error.strerror or error}", f"run {INSTALL}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineRefused(
            f"--evidently: no page within {_SECONDS} s", "choose a shorter window"
        ) from error
    if done.returncode != 0:
        why = next(reversed(done.stderr.split("\n")[:-1]), f"exit code {done.returncode}")
        raise MachineRefused(f"--evidently: {python}: {redact(why)}", f"run {INSTALL}")


def _columns(
    side: Sequence[ScoredAnswer], labels: frozenset[str] | None
) -> dict[str, list[int | str]]:
    columns: dict[str, list[int | str]] = {
        "words of the prompt": [len(answer.prompt.split()) for answer in side],
        "words of the answer": [len(answer.answer.split()) for answer in side],
        "characters of the answer": [len(answer.answer) for answer in side],
        "answer declines": [str(signals.is_refusal(answer.answer)) for answer in side],
        "answer repeats itself": [str(signals.is_repetitive(answer.answer)) for answer in side],
    }
    if labels is not None:
        columns["label"] = [
            label if (label := answer.answer.strip()) in labels else _OTHER for answer in side
        ]
    return columns
