"""looks: how many models one test split has judged, and the error that this costs each test.

Whoever tries twenty equal models on the same rows finds one that passes in nearly half of all cases. So the error of
every test, those of suites included, is divided among ``most`` models in equal shares (Bonferroni's correction, as a
way to spend alpha), and models beyond ``most`` are not decided. docs/measurements/series.md has the simulated figures.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.looks import RowSketch
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads
from checks.storage import layout

_REFRESH = "take a new test split of fresh rows"
# The error that a sum of shares may have by rounding.
_ROUNDING = 1e-9
_SOON = 3  # models left when a finding begins to say what to do


class LooksGate(GateKind):
    """No more than ``most`` models are judged on one test split. Each gate's error is divided among them."""

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 75

    kind: Literal["looks"]
    # No direction is stricter: more models get a smaller share each.
    most: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="models that one test split may judge; each gets that share of a gate's error",
        ),
    ]

    @property
    def shares(self) -> int:
        """Among how many models the error is divided."""
        return self.most

    def check(self, case: Case) -> Finding:
        """Pass while this model is among the first ``most``; inconclusive beyond.

        The models judged before are those of reports/looks.json with another digest: the same model may be judged
        again. A model that another split judged counts by the share of rows that both splits have. A report that lists
        fewer models than git has is refused before (``release.record.looks``).
        """
        evidence = case.evidence
        looks = evidence.need(evidence.reports.looks, layout.LOOKS)
        parity = evidence.need(evidence.reports.parity, layout.PARITY_REPORT)
        evaluation = evidence.need(evidence.reports.evaluation, layout.EVALUATION)
        weights = dict[str, float]()
        shares = looks.shares(evaluation.test, RowSketch.of(evidence.test))
        for test, share in shares.items():
            weights |= {model: max(share, weights.get(model, 0.0)) for model in looks.models[test]}
        weights.pop(parity.merged, None)
        number = 1 + math.ceil(sum(weights.values()) - _ROUNDING)
        left = self.most - number
        summary = f"model {number} of {self.most} that this test split may judge"
        elsewhere = [
            share
            for model, share in weights.items()
            if share and model not in looks.models.get(evaluation.test, ())
        ]
        if elsewhere:
            summary += f" ({len(elsewhere)} were judged on other splits, with up to {max(elsewhere):.1%} of its rows)"
        if left < 0:
            summary += f": it is used up; {_REFRESH}"
        elif left <= _SOON:
            summary += f", {left} left; then {_REFRESH}"
        return Finding(
            gate=case.name, kind=self.kind, status="pass" if left >= 0 else "inconclusive", reason=summary,
            value=number, bound=self.most,
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """How models are counted, and what a larger number would cost."""
        return Explained(
            f"is this one of the first {self.most} models that are judged on this test split?",
            "by counting the models whose evaluation on it is recorded in git, and those of other splits by the share "
            f"of rows that both have; every test is decided at 1/{self.most} of the error that its confidence allows",
            f"a new test split; with a larger {place}.most on this one, the tests would err more often than allowed",
            layout.LOOKS.as_posix(),
        )
