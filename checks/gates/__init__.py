"""Evidence and policy to a verdict: one module a kind of gate.

A gate that has no evidence fails. A break in the chain of digests fails every gate: what the
evidence is about is then unknown. Gates that test are decided together, after Holm's correction:
docs/reference/gates.md.
"""

from collections.abc import Mapping
from typing import assert_never

from checks import digest, multiple
from checks.chain import MAKING, Evidence
from checks.gate_kinds import (
    BudgetGate,
    ContaminationGate,
    DataGate,
    Gate,
    ImprovesGate,
    LicenseGate,
    NonInferiorGate,
    ParityGate,
    SliceGate,
    ThresholdGate,
)
from checks.gates import budget, contamination, data, paired, parity, slices, threshold
from checks.gates import license as licensing
from checks.gates.asked import Asked, Test, failed, gap
from checks.gates.sample import NoEvidence, Sample
from checks.params import Params
from checks.verdict import Finding, Verdict, combine


def policy_digest(gates: Mapping[str, Gate]) -> str:
    """Digest of the gates section."""
    return digest.of_json({name: gate.model_dump(mode="json") for name, gate in gates.items()})


def judge(params: Params, evidence: Evidence) -> Verdict:
    """Ask every gate of ``params``; the verdict binds all digests of ``evidence``."""
    sample = Sample(evidence, params.evaluate.scorers)
    findings = _decided({name: _answer(name, gate, params, evidence, sample) for name, gate in params.gates.items()})
    return Verdict(
        status=combine(findings),
        model=evidence.reports.parity.merged if evidence.reports.parity else None,
        policy=policy_digest(params.gates),
        judged=evidence.judged,
        findings=findings,
    )


def _answer(name: str, gate: Gate, params: Params, evidence: Evidence, sample: Sample) -> Asked:
    if evidence.breaks:
        more = f" (and {len(evidence.breaks) - 1} more)" if len(evidence.breaks) > 1 else ""
        return failed(name, gate, f"the evidence is about different bytes: {evidence.breaks[0]}{more}")
    # Whatever the gate asks: a verdict on a model whose making is not on record is none.
    if missing := gap(evidence, MAKING):
        return failed(name, gate, missing)
    try:
        return _asked(name, gate, params, evidence, sample)
    except NoEvidence as reason:
        return failed(name, gate, str(reason))


def _asked(name: str, gate: Gate, params: Params, evidence: Evidence, sample: Sample) -> Asked:
    match gate:
        case ThresholdGate():
            return threshold.ask(name, gate, sample)
        case ImprovesGate() | NonInferiorGate():
            return paired.ask(name, gate, evidence, sample)
        case SliceGate():
            return slices.ask(name, gate, evidence, sample)
        case ParityGate():
            return parity.ask(name, gate, evidence)
        case DataGate():
            return data.ask(name, gate, evidence)
        case ContaminationGate():
            return contamination.ask(name, gate, evidence)
        case LicenseGate():
            return licensing.ask(name, gate, params, evidence)
        case BudgetGate():
            return budget.ask(name, gate, evidence)
        case _:
            assert_never(gate)


def _decided(asked: Mapping[str, Asked]) -> tuple[Finding, ...]:
    """The findings, in order: what waits for Holm's correction gets it, over the claims of each direction."""
    tests = {name: answer for name, answer in asked.items() if isinstance(answer, Test)}
    better = _corrected(tests, {name: test.p for name, test in tests.items()})
    worse = _corrected(tests, {name: test.p_worse for name, test in tests.items() if test.p_worse is not None})
    return tuple(
        answer.decide(better[name], worse.get(name)) if isinstance(answer, Test) else answer
        for name, answer in asked.items()
    )


def _corrected(tests: Mapping[str, Test], p_values: Mapping[str, float]) -> dict[str, float]:
    """Each gate's p-value after Holm's correction; gates that make one claim count once."""
    claims = {name: (tests[name].claim or name) for name in p_values}
    distinct = {claims[name]: p for name, p in p_values.items()}
    corrected = dict(zip(distinct, multiple.holm(list(distinct.values())), strict=True))
    return {name: corrected[claim] for name, claim in claims.items()}
