"""The reasons of questions about answers."""

import pytest

from checks.config.monitor import Monitor
from release.monitoring.answers import ScoredAnswer, _rate


def _answers(right: int, count: int) -> list[ScoredAnswer]:
    return [ScoredAnswer(f"{i}", f"prompt {i}", "", f"user {i}", float(i < right)) for i in range(count)]


@pytest.mark.parametrize(
    ("right", "status", "said"),
    [
        (33, "pass", "0.825 on 40 answers, 0.750 before release: not lower by 0.1 (lower bound "),
        (28, "inconclusive", "0.700 on 40 answers, 0.750 before release: a loss of 0.1 is neither shown nor ruled out (bounds "),
        (20, "inconclusive", "0.500 on 40 answers, 0.750 before release: lower by 0.1 (upper bound -0.1"),
    ],
)  # fmt: skip
def test_a_lower_mean_is_described_as_its_bounds_have_it(right: int, status: str, said: str) -> None:
    """Before Holm's correction, which decides on an alarm."""
    question = _rate(
        "quality", _answers(right, 40), lambda answer: answer.score or 0.0, _answers(150, 200), Monitor(margin=0.1)
    )
    assert question.finding.status == status
    assert question.finding.reason.startswith(said)
