"""The kinds of gate that params.yaml may name, as strict models; ``checks.gates`` asks them."""

import math
from statistics import NormalDist
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from checks.evidence import Earlier
from checks.sections import Agreement, Bound, Fraction, Section, Share, Strings

# Models that were released before: named by git, not by this evaluation.
EARLIER: tuple[Earlier, ...] = get_args(Earlier)

Metric = Annotated[str, Field(description="one of evaluate.scorers")]
Against = Annotated[str, Field(description="base, main, champion, or one of evaluate.baselines")]
Confidence = Annotated[float, Field(gt=0.5, lt=1, description="of a one-sided bound")]


class ThresholdGate(Section):
    """The interval's bound, not the point, must clear ``at_least`` (or stay under ``at_most``)."""

    kind: Literal["threshold"]
    metric: Metric
    at_least: float | None = None
    at_most: float | None = None
    confidence: Confidence
    resolution: Annotated[
        float,
        Field(
            ge=1e-4, lt=1, description="half-width that the two-sided interval must not exceed; sets the rows needed"
        ),
    ]

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs exactly one of at_least and at_most|write one of them")
        return self

    @property
    def rows_needed(self) -> int:
        """Rows for a half-width of ``resolution`` at worst (p = 1/2, normal approximation): z² / 4r².

        No fewer do where rows come in groups: the gate itself then asks for effective rows.
        """
        z = NormalDist().inv_cdf((1 - self.confidence) / 2)
        return math.ceil(z * z / (4 * self.resolution**2))


class ImprovesGate(Section):
    """Better than a reference on the same rows, by more than ``margin``."""

    kind: Literal["improves"]
    metric: Metric
    against: Against
    margin: Annotated[float, Field(ge=0, lt=1, description="0: better at all")]
    confidence: Confidence


class NonInferiorGate(Section):
    """Not worse than a reference on the same rows by ``margin`` or more."""

    kind: Literal["non_inferior"]
    metric: Metric
    against: Against
    margin: Fraction
    confidence: Confidence


class SliceGate(Section):
    """In no slice worse than a reference by ``margin`` or more."""

    kind: Literal["slice"]
    metric: Metric
    against: Against
    margin: Fraction
    confidence: Confidence
    min_rows: Annotated[int, Field(ge=1, description="slices with fewer rows are judged together, as one")]


class DataGate(Section):
    """Every expectation on the splits held, about these splits."""

    kind: Literal["data"]


class ParityGate(Agreement):
    """Merged and adapter agree on real prompts."""

    kind: Literal["parity"]


class ContaminationGate(Section):
    """Rows of the test split that training has seen, or nearly."""

    kind: Literal["contamination"]
    ngram: Annotated[int, Field(ge=1, description="words in a row that count as seen; shorter prompts count whole")]
    max_ngram_share: Annotated[Share, Field(description="share of test rows with such a run of words in train")]
    shingle: Annotated[int, Field(ge=1, le=20, description="characters in a shingle of the normalised prompt")]
    similarity: Annotated[float, Field(gt=0, le=1, description="Jaccard similarity that makes a near-duplicate")]
    max_near_duplicate_share: Annotated[Share, Field(description="share of test rows with a near-duplicate in train")]


class LicenseGate(Section):
    """Base, data and adapter may be shipped together."""

    kind: Literal["license"]
    allow: Annotated[Strings, Field(min_length=1, description="SPDX identifiers, or the table's own names")]
    adapter: Annotated[str, Field(description="the licence that the fine-tuned weights are shipped under")]
    commercial: Annotated[bool, Field(description="whether the model is used commercially")]


class BudgetGate(Section):
    """How large the model may be; a bound that is not written is not asked.

    Every figure follows from digests. What a clock measured decides no verdict: see ``checks.params.TrainBudget``.
    """

    kind: Literal["budget"]
    parameters_millions: Bound = None
    artifact_mb: Annotated[Bound, Field(description="the merged directory, 10^6 bytes")] = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        asked = self.model_dump(exclude={"kind"})
        if all(bound is None for bound in asked.values()):
            raise ValueError(f"asks nothing|write at least one of {', '.join(asked)}")
        return self


PairedGate = ImprovesGate | NonInferiorGate | SliceGate
Gate = Annotated[
    ThresholdGate
    | ImprovesGate
    | NonInferiorGate
    | SliceGate
    | DataGate
    | ParityGate
    | ContaminationGate
    | LicenseGate
    | BudgetGate,
    Field(discriminator="kind"),
]
