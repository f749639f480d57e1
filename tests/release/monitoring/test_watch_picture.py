"""The picture of a window of production: it fits a phone, and can be read in light and dark mode."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from checks.formats.watch_report import WatchFinding, WatchReport
from release.monitoring import picture
from tests import browser

DIGEST = f"sha256:{'1' * 64}"
SINCE = datetime(2026, 3, 2, tzinfo=UTC)
LONG = "the window has 12 different prompts, and at least 100 are needed to compare them with the training data " * 2
FINDINGS: list[dict[str, Any]] = [
    {"name": "availability", "kind": "objective", "status": "pass", "unit": "share", "value": 0.99, "low": 0.97, "high": 1.0, "bound": 0.95},
    {"name": "valid labels", "kind": "proxy", "status": "fail", "unit": "share", "value": 0.8, "low": -0.18, "high": -0.05, "reference": 0.95},
    {"name": "prompts", "kind": "drift", "status": "inconclusive"},
]  # fmt: skip
WIDE = """
addEventListener("load", () => {
  const svg = document.querySelector("svg"), texts = [...svg.querySelectorAll("text")];
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  document.title = JSON.stringify([
    texts.length, texts.filter((each) => each.getBoundingClientRect().right > innerWidth).map((each) => each.textContent),
    Math.min(...texts.map((each) => parseFloat(getComputedStyle(each).fontSize) * scale)),
  ]);
});
"""


@pytest.fixture(scope="module")
def drawn() -> str:
    report = WatchReport(
        environment="production", since=SINCE, until=SINCE + timedelta(days=7), version="v0.1.0", model=DIGEST,
        commit="1" * 40, status="inconclusive", alpha=0.02, confidence=0.95, traffic=DIGEST, reference={}, requests=12_345,
        prompts=2_400, labelled=0, costs=None, notes=(),
        findings=tuple(WatchFinding(reason=LONG, **each) for each in FINDINGS),
    )  # fmt: skip
    return picture.draw(report)


@pytest.mark.parametrize("mode", [0, 1], ids=browser.MODES)
def test_every_colour_of_text_has_contrast_in_both_modes(drawn: str, mode: int) -> None:
    colours = dict(re.findall(r"\.([a-z]+) \{ (?:fill|color): (#[0-9a-f]{6})", drawn.split("@media")[mode]))
    for name in ("ink", "quiet", "pass", "fail", "inconclusive"):
        assert browser.contrast(colours[name], colours["ground"]) >= 4.5, name


@pytest.mark.slow
def test_on_a_phone_no_text_is_cut_off_or_too_small_to_read(drawn: str, tmp_path: Path) -> None:
    page = f"<!doctype html><body style='margin:0'>{drawn}</body>"
    texts, cut, smallest = json.loads(browser.told(page, WIDE, browser.WIDTHS["phone"], tmp_path))
    assert texts > 3 * len(FINDINGS)
    assert (cut, smallest >= 10.5) == ([], True), smallest
