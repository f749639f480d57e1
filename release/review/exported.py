"""Compares an export of 8 or 4 bits with the 16-bit model that it was rounded from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from checks.formats.report import UNQUANTISED
from checks.formats.training_reports import Exported
from release.review.facts import Facts

if TYPE_CHECKING:
    from release.review.metrics import Score, SuiteScore


def export(facts: Facts) -> Exported | None:
    """How the candidate was quantised; None for one in 16 bits, or without an evaluation."""
    parity = facts.evidence.reports.parity if facts.evidence else None
    return parity.exported if parity and facts.evaluation else None


def table(
    facts: Facts, scores: "Mapping[str, Sequence[Score]]", suites: "Sequence[SuiteScore]"
) -> list[tuple[str, str, str]]:
    """Return bytes, scores and measured speed, each of the 16-bit model and of the export; empty without an export.

    ``scores`` and ``suites`` are those of ``release.review.metrics``.
    """
    exported, evaluation = export(facts), facts.evaluation
    parity = facts.evidence.reports.parity if facts.evidence else None
    if exported is None or evaluation is None or parity is None:
        return []
    size = sum(file.size for file in parity.files.values())
    rows = [("files, and memory for them", _megabytes(exported.size), _megabytes(size))]
    for scorer, others in scores.items():
        full = next((score for score in others if score.name == UNQUANTISED), None)
        ours = evaluation.models["candidate"].metrics[scorer]
        if full and full.figure:
            by = f" ({full.difference.value:+.3f})" if full.difference else ""
            rows.append((scorer, f"{full.figure.value:.3f}", f"{ours.value:.3f}{by}"))
    for suite in suites:
        if (mean := dict(suite.others).get(UNQUANTISED)) is not None:
            rows.append((f"{suite.suite}: {suite.metric}", f"{mean:.3f}", f"{suite.own:.3f}"))
    speeds = facts.answering.models if facts.answering else {}
    if UNQUANTISED in speeds and "candidate" in speeds:
        full_speed, speed = (
            f"{speeds[name].examples_per_second:.2f}" for name in (UNQUANTISED, "candidate")
        )
        rows.append(
            ("test rows a second in evaluate, which unpacks the weights", full_speed, speed)
        )
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
