"""budget: how large the model is, each figure that has a bound against it.

Every figure follows from the digests that the verdict names: the same model gives the same answer on every machine.
Times and money do not, and so are no part of it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.formats.evidence import Evidence
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads
from checks.records.sections import Bound, problems, stricter
from checks.storage import layout


class BudgetGate(GateKind):
    """Limits on the size of the model; a bound that is not written does not apply.

    Both figures follow from digests. Times decide no verdict: see ``checks.config.pipeline_params.TrainBudget``.
    """

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 90

    kind: Literal["budget"]
    parameters_millions: Annotated[
        Bound, Field(description="most parameters of the model, in millions"), stricter("lower")
    ] = None
    artifact_mb: Annotated[
        Bound,
        Field(description="largest size of the merged directory, in 10^6 bytes"),
        stricter("lower"),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        bounds = self.model_dump(exclude={"kind"})
        return problems(
            (not any(bounds.values()), f"asks nothing|write at least one of {', '.join(bounds)}")
        )

    def check(self, case: Case) -> Finding:
        """Pass when every figure that has a bound was measured and is within it.

        The finding's value is the figure that is nearest to its bound, or furthest beyond.
        """
        problems, within, measured = [], [], {}
        for metric, measure in _FIGURES.items():
            bound = getattr(self, metric)
            if bound is None:
                continue
            value = measure(case.evidence)
            if value <= 0:
                problems.append(f"{metric}: no evidence: a figure that it needs is zero or missing")
                continue
            measured[metric] = (value, bound)
            if value <= bound:
                within.append(f"{metric} {value:,.4g}, at most {bound:,.6g}")
            else:
                problems.append(f"{metric} {value:,.4g}, above {bound:,.6g}")
        tightest = max(
            measured, key=lambda metric: measured[metric][0] / measured[metric][1], default=None
        )
        return Finding(
            gate=case.name, kind=self.kind, status="fail" if problems else "pass",
            reason="; ".join((*problems, *within)),
            metric=tightest,
            value=round(measured[tightest][0], 6) if tightest else None,
            bound=measured[tightest][1] if tightest else None,
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Every bound that is written, and the figure that is nearest to its own."""
        bounds = self.model_dump(exclude={"kind"}, exclude_none=True)
        return Explained(
            f"does the model stay within {', '.join(f'{what} {bound:g}' for what, bound in bounds.items())}?",
            "by rule: every bound that is written holds, and what was not measured does not",
            "the figure that is missing" if finding.value is None
            else f"{place}.{finding.metric}: {finding.value:.4g} is the figure nearest to its bound, or furthest "
            "beyond",
            f"{layout.TRAIN_REPORT}, {layout.PARITY_REPORT}",
        )  # fmt: skip


# Fields of BudgetGate, and how each is measured. No model has no size: a figure of 0 was never measured.
_FIGURES: Mapping[str, Callable[[Evidence], float]] = {
    "parameters_millions": lambda evidence: (
        evidence.need(evidence.reports.train, layout.TRAIN_REPORT).base_parameters / 1e6
    ),
    "artifact_mb": lambda evidence: (
        sum(
            file.size
            for file in evidence.need(evidence.reports.parity, layout.PARITY_REPORT).files.values()
        )
        / 1e6
    ),
}
