"""Scores predictions against references in [0, 1], with the scorers of params.yaml.

All scorers are pure: the same two texts always give the same score (``checks.scorers`` has one file for each). White
space around a prediction or reference is ignored.

A row that was answered several times has one score by each metric: the mean of its draws, which is called after its
scorer, the lowest (a share of rows that are right in all draws, known as pass^k) and the highest (pass@k).
"""

import math
from collections.abc import Sequence

from checks.kinds.scorer import SCORERS, Scorer
from checks.process.errors import ParamsRefused
from checks.storage import digest

IN_ALL, IN_ANY = " in all draws", " in any draw"


def score(scorer: Scorer, prediction: str, reference: str) -> float:
    """Score one answer. Raises ParamsRefused if the scorer cannot be used (regex) or returns no score."""
    value = scorer.score(prediction.strip(), reference.strip())
    if not (isinstance(value, float) and 0 <= value <= 1):
        raise ParamsRefused(
            f"evaluate.scorers: {scorer.kind} gave {value!r}, which is no float from 0 to 1",
            "repair that scorer",
        )
    return value


def metrics(scorers: Sequence[Scorer], draws: int) -> dict[str, Scorer]:
    """Return the metrics of rows that are answered ``draws`` times, and the scorer of each."""
    ends = ("", IN_ALL, IN_ANY) if draws > 1 else ("",)
    return {f"{scorer.kind}{end}": scorer for scorer in scorers for end in ends}


def score_draws(metric: str, scorer: Scorer, answers: Sequence[str], reference: str) -> float:
    """Score all answers to one row by one of ``metrics``. Raises ParamsRefused as ``score``."""
    scores = [score(scorer, answer, reference) for answer in answers]
    if metric.endswith(IN_ALL):
        return min(scores)
    return max(scores) if metric.endswith(IN_ANY) else math.fsum(scores) / len(scores)


def digest_of(used: Sequence[Scorer]) -> str:
    """Digest of the scorers' settings, in order, which identifies how an evaluation was scored.

    It covers the code of scorers in users' packages. Raises MachineRefused if that code cannot be hashed.
    """
    settings = [scorer.model_dump(mode="json") for scorer in used]
    outside = SCORERS.plugins(scorer.kind for scorer in used)
    if not outside:
        return digest.of_json(settings)
    return digest.of_json(
        {
            "scorers": settings,
            "plugins": {name: package.sha256 for name, package in outside.items()},
        }
    )
