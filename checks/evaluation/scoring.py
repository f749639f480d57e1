"""Scores predictions against references in [0, 1], with the scorers of params.yaml.

All scorers are pure: the same two texts always give the same score (``checks.scorers`` has one file for each). White
space around a prediction or reference is ignored.
"""

from collections.abc import Sequence

from checks.kinds.scorer import SCORERS, Scorer
from checks.process.errors import ParamsRefused
from checks.storage import digest


def score(scorer: Scorer, prediction: str, reference: str) -> float:
    """Score one answer. Raises ParamsRefused if the scorer cannot be used (regex) or returns no score."""
    value = scorer.score(prediction.strip(), reference.strip())
    if not (isinstance(value, float) and 0 <= value <= 1):
        raise ParamsRefused(
            f"evaluate.scorers: {scorer.kind} gave {value!r}, which is no float from 0 to 1",
            "repair that scorer",
        )
    return value


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
