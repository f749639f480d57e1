"""The interface of a kind of gate: a subclass of ``GateKind``, in one file of ``checks/gates`` or of a user's package.

The file has everything that Lockstep knows of the kind: its parameters with the direction in which each is stricter
(``sections.stricter``), its decision (``check``) and its explanation (``explain``). ``checks.config.params`` imports
the interface, so no kind imports ``checks.config.params``: what it may read of the parameters is ``GateParams``.
"""

import abc
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from checks.data.personal_data import PersonalData
from checks.formats.evidence import Evidence
from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Verdict
from checks.kinds.registry import Registry, Unfit, tag
from checks.kinds.suite import SuiteKind
from checks.records.sections import Name, Section, stricter
from checks.storage import digest, layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metric = Annotated[
    str,
    Field(description="one of evaluate.scorers, or of the suite's metrics; human: people's labels"),
]
# Floors of every policy, the first one too: below them a gate asks nothing.
Confidence = Annotated[
    float, Field(ge=0.8, lt=1, description="of a one-sided bound"), stricter("higher")
]
Loss = Annotated[float, Field(gt=0, le=0.5)]
Reads = Literal["no rows", "rows", "answers"]

ALONE = "(before Holm's correction)"


@dataclass(frozen=True)
class DecisionParams:
    """The parameters that a gate may read when it decides.

    The stage gate tracks these alone (dvc.yaml). If a kind read another parameter, DVC would not notice a change of it,
    and the verdict would not hold. ``licenses``: of the base and of every source of rows, by its place in params.yaml;
    None: not known.
    """

    suites: Mapping[str, SuiteKind]
    licenses: Mapping[str, str | None]


@dataclass(frozen=True)
class GateParams:
    """The parameters that say whether a gate can ever be decided.

    ``scored``: the kinds of evaluate.scorers. ``test_rows``: validate.min_rows.test. ``quantised``: whether the model
    ships with fewer bits. ``thinks``: whether there is ``base.thinking``.
    """

    suites: Mapping[str, SuiteKind]
    scored: Sequence[str]
    baselines: Sequence[str]
    test_rows: int
    personal_data: PersonalData | None
    quantised: bool
    thinks: bool


class Scores(Protocol):
    """The scores of each model, in one order of samples; ``groups`` and ``slices`` say where each sample belongs."""

    groups: "NDArray[np.intp]"
    slices: tuple[str, ...]

    def scores(self, model: str, metric: str) -> "NDArray[np.float64]":
        """Return the scores of ``model`` by ``metric``. Raises NoEvidence where there are none."""


class TestScores(Scores, Protocol):
    """The scores of the test rows (``checks.decision.judging.Sample``)."""

    def of(
        self, suite: str | None, metric: str | None = None, against: str | None = None
    ) -> Scores:
        """Return the samples of ``suite`` that ``metric`` scores, or of the test rows, without a suite.

        ``against``: the reference that they are compared with. Raises NoEvidence where the suite has no scores.
        """


@dataclass(frozen=True)
class Case:
    """The input of a gate's decision. ``name``: the gate's name in params.yaml; ``sample``: the scores of the test
    rows.
    """

    name: str
    params: DecisionParams
    evidence: Evidence
    sample: TestScores


@dataclass(frozen=True)
class Test:
    """The result of a gate that is decided by p-values, before Holm's correction over the verdict.

    ``p``: of the hypothesis that must be rejected to pass; ``p_worse``, if the kind uses it: of the hypothesis that the
    candidate is not worse, which must be rejected to fail. ``decide`` makes the finding from both, corrected.
    ``claim``: what is tested; gates with the same claim count as one in the correction. None: no other gate has it.
    """

    p: float
    p_worse: float | None
    decide: Callable[[float, float | None], Finding]
    claim: Hashable = None


CheckResult = Finding | Test


class Explained(NamedTuple):
    """How a kind explains one finding, by lines."""

    asks: str  # the question, with the gate's own numbers
    decided: str  # how the answer was reached
    change: str  # Says what would change the answer.
    look: str  # where to look


class GateKind(Section, abc.ABC):
    """The parameters of a gate in params.yaml, and its behaviour.

    ``reads``: what it needs of the test rows: no rows, the rows themselves, or the models' answers. Under the policy of
    another commit, a gate is skipped if what it reads of that commit's rows is missing here. ``rank``: the position of
    the kind in lists; kinds of the same rank are sorted by name.
    """

    reads: ClassVar[Reads] = "answers"
    rank: ClassVar[int] = 100

    kind: str

    @property
    def shares(self) -> int:
        """Among how many models the error of every test is divided; see ``gates.decided_at``."""
        return 1

    @abc.abstractmethod
    def check(self, case: Case) -> CheckResult:
        """Decide. Raises NoEvidence if the evidence lacks what the gate needs; the gate then fails with that reason.

        Only evidence about this model gets here: a break in the chain of digests fails every gate before.
        """

    @abc.abstractmethod
    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Explain ``finding``, the gate's own in ``verdict``. ``place``: the gate's path in params.yaml."""

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Why the gate called ``name`` can never be decided with ``params``, as "path: problem|fix"; None if it can."""
        return None


class ScoreGate(GateKind, abc.ABC):
    """A kind that asks about scores: of the test rows, or of the samples of a suite, where ``suite`` names one.

    Most suites are witnessed: no gate computes their scores again (``SuiteKind.recomputed``). A gate without ``suite``
    does not mention it, so that its policy has the same digest as before there were suites.
    """

    # Whether the gate asks metrics that have no scale, of which less is better.
    unscaled: ClassVar[bool] = False
    asks_people: ClassVar[bool] = False  # whether it can ask people's comparisons of two models

    if TYPE_CHECKING:
        metric: str
        confidence: float

    suite: Annotated[Name | None, Field(description="one of suites; null: the test rows")] = None

    @model_serializer(mode="wrap")
    def _without_no_suite(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in plain(self).items()
            if value is not None or name not in ("suite", "assisted_by", "mid_p")
        }

    @property
    def asked_of(self) -> str:
        """Return what an explanation calls the samples."""
        return "test rows" if self.suite is None else f"samples of suite {self.suite}"

    @property
    def answers_at(self) -> str:
        """Return the folder or file with what each sample got, for a person who looks."""
        return (
            layout.PREDICTIONS.as_posix()
            if self.suite is None
            else f"{layout.SUITES}/{self.suite}.jsonl"
        )

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Return the metric must be scored."""
        if self.suite is None:
            return not_scored(name, self.metric, params)
        suite = params.suites.get(self.suite)
        if suite is None:
            known = (
                f"use one of {', '.join(params.suites)}"
                if params.suites
                else "there is none: add it to suites"
            )
            return f"gates.{name}.suite: {self.suite!r} is no suite|{known}"
        if suite.draw is not None or suite.evidence == "judge":
            return self._not_people(name, suite)
        if self.metric not in suite.scales:
            return (
                f"gates.{name}.metric: suite {self.suite} has no {self.metric!r}|use one of "
                f"{', '.join(suite.scales)}"
            )
        if (suite.scales[self.metric] is None) != self.unscaled:
            has, other = ("a", "non_inferior") if self.unscaled else ("no", suite.asked_by)
            return (
                f"gates.{name}.metric: {self.metric} of suite {self.suite} has {has} scale, and kind {self.kind} asks "
                f"others|use kind {other}"
            )
        return None

    def _not_people(self, name: str, suite: SuiteKind) -> str | None:
        """Why this gate cannot ask a suite that a judge or people answer; None: it asks people."""
        if suite.draw is not None and self.metric == HUMAN:
            if self.asks_people:
                return None
            return f"gates.{name}.kind: {self.kind} asks no comparisons by people|use kind improves or non_inferior"
        return (
            f"gates.{name}.metric: {self.metric} of suite {self.suite} is the mean of a judge, and a judge that likes "
            "long answers passes a worse model|ask people, and let the judge assist: a suite of kind pairwise, metric: "
            f"{HUMAN}, assisted_by: judge"
        )


def failed(name: str, gate: GateKind, reason: str) -> Finding:
    """A finding that fails because evidence is missing or invalid."""
    return Finding(gate=name, kind=gate.kind, status="fail", reason=reason)


def not_scored(name: str, metric: str, params: GateParams) -> str | None:
    """For ``GateKind.impossible``: why ``metric`` of the gate ``name`` is not scored; None if it is."""
    if metric in params.scored:
        return None
    return (
        f"gates.{name}.metric: {metric!r} is not scored|use one of {', '.join(params.scored)}, "
        "or add it to evaluate.scorers"
    )


def figure(value: float) -> float:
    """A rounded figure, so that the last digits of another machine do not change the finding."""
    return round(value, 6)


def percent(confidence: float) -> str:
    """A confidence as it is shown: 95%, 99.75%."""
    return f"{100 * confidence:.5g}%"


def small(p: float) -> float:
    """A p-value to three digits, however small."""
    return float(f"{p:.3g}")


def corrected(level: float, p: float, p_holm: float) -> float:
    """Return the level at which ``p`` decides as ``p_holm`` does at ``level``: bounds at it agree with the decision."""
    return level * p / p_holm if p > 0 else level


def held_back(level: float, p: float, p_holm: float) -> float:
    """The level that a plan is made for: the gate's own, or what Holm's correction leaves if only that prevents a pass.

    Without the correction no more rows would be needed, so a plan for the gate alone would say nothing.
    """
    return corrected(level, p, p_holm) if p <= level < p_holm else level


def explain_test(finding: Finding, verdict: Verdict, confidence: float, refuted: str) -> str:
    """How a test decided; ``refuted`` is the hypothesis that its p belongs to."""
    if finding.p is None:
        return "without a test: it was never asked, for the reason above"
    # Gates with the same test against the same model have the same result, and count as one.
    fields = ("kind", "suite", "metric", "bound", "value", "low", "high", "p")
    asked = (other for other in verdict.findings if other.p is not None)
    tests = len({tuple(getattr(other, field) for field in fields) for other in asked})
    return (
        f"by {finding.method}, one-sided, each group of rows one cluster; p is that {refuted}, corrected over "
        f"the {tests} tests of this verdict, and passes at {1 - confidence:.3g} or less"
    )


def explain_rows(finding: Finding) -> str:
    """How many rows are needed, as the start of a sentence; empty if the finding has no such number."""
    if not finding.rows_needed:
        return ""
    groups = finding.groups_needed
    rows = f"{finding.rows_needed} rows" + (
        f" in {groups} groups like these" if groups else " like these"
    )
    return f"about {rows} would decide {ALONE}; "


def _name(kind: type[GateKind]) -> str:
    if kind.reads not in get_args(Reads):
        raise Unfit(f"reads {kind.reads!r}, which is none of {', '.join(get_args(Reads))}")
    return tag(kind)


GATES: Registry[GateKind] = Registry("lockstep.gates", GateKind, _name, hyphen="_")
Gate = Annotated[GateKind, GATES]


def policy_digest(gates: Mapping[str, Gate]) -> str:
    """Digest of the gates section."""
    return digest.of_json({name: gate.model_dump(mode="json") for name, gate in gates.items()})


def decided_at(gates: Mapping[str, Gate], looks: int = 1) -> dict[str, Gate]:
    """Return the gates with the confidence at which they decide.

    A gate of kind ``looks`` divides the error of every test among the models that the test split may judge
    (Bonferroni): 95 % for 20 models is 99.75 % for each. The same models are asked the samples of suites, and people
    label their answers, so those tests are divided, too. ``looks``: the number
    of models where no gate says it.
    """
    shares = max([looks, *(gate.shares for gate in gates.values())])
    return {
        name: gate.model_copy(update={"confidence": 1 - (1 - gate.confidence) / shares})
        if shares > 1 and isinstance(gate, ScoreGate) and "confidence" in type(gate).model_fields
        else gate
        for name, gate in gates.items()
    }
