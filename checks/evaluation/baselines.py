"""The cheap baselines that ``evaluate.baselines`` can name, and what pages call them."""

from typing import Literal

Baseline = Literal["majority", "nearest", "naive-bayes"]

NAMES: dict[Baseline, str] = {
    "majority": "majority class",
    "nearest": "nearest training request",
    "naive-bayes": "Naive Bayes",
}
