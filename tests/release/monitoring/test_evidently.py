"""Evidently's page of a window, written by the real Evidently in an environment of its own.

LOCKSTEP_EVIDENTLY names its Python; docs/how-to/monitoring.md#evidentlys-page says how to make one. Without it only the
refusals are tested: Evidently needs pandas < 3, which cannot be installed beside the pipeline's.
"""

import os
import re
import sys
from pathlib import Path

import pytest

from checks.process.errors import MachineRefused
from checks.stats.drift import Text
from release.monitoring import evidently_page
from release.monitoring.answers import Reference, ScoredAnswer
from tests import browser

pytestmark = pytest.mark.slow

PYTHON = "LOCKSTEP_EVIDENTLY"
OFFLINE = [ScoredAnswer(f"r{n}", f"show disk {n}", ("disk", "vm")[n % 2], f"g{n}") for n in range(60)]
WINDOW = [
    ScoredAnswer(f"w{n}", f"please show me the disk {n}", ("disk", "vm", "I cannot")[n % 3], f"g{n}") for n in range(60)
]
REFERENCE = Reference(
    prompts=[Text(each.id, each.prompt, each.id) for each in OFFLINE], answers=OFFLINE, labels=frozenset({"disk", "vm"})
)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("nowhere/python", r"nowhere/python: No such file or directory; run python3 -m venv \.lockstep/evidently && "),
        (sys.executable, r"ModuleNotFoundError: No module named 'evidently'; run python3 -m venv "),
    ],
)
def test_a_python_without_evidently_is_refused_with_the_command_that_makes_one(
    python: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(MachineRefused) as refused:
        evidently_page.write(Path(python), tmp_path / "page.html", WINDOW, REFERENCE)
    assert re.search(said, str(refused.value)), refused.value
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} is not set: it names a Python with Evidently")
def test_evidently_compares_the_window_with_the_answers_before_release(tmp_path: Path) -> None:
    page = tmp_path / "watch" / "production.html"
    evidently_page.write(Path(os.environ[PYTHON]), page, WINDOW, REFERENCE)
    text = page.read_text()
    assert re.findall(r'src="http[^"]*"', text) == [], "it is drawn without a network"
    assert "please show me" not in text
    shown = browser.drawn(page)
    for name in ("Share of Drifted Columns", "words of the prompt", "words of the answer", "answer declines", "label"):
        assert f">{name}<" in shown
