"""Evidence and policy to a verdict.

A gate that has no evidence fails. A break in the chain of digests fails every gate: what the
evidence is about is then unknown.
"""

from collections.abc import Mapping

from checks import digest, layout, scoring, stats
from checks.chain import Evidence
from checks.params import DataGate, Gate, Params, ParityGate, ThresholdGate
from checks.verdict import Finding, Status, Verdict, combine


def policy_digest(gates: Mapping[str, Gate]) -> str:
    """Digest of the gates section."""
    return digest.of_json({name: gate.model_dump(mode="json") for name, gate in gates.items()})


def judge(params: Params, evidence: Evidence) -> Verdict:
    """Ask every gate of ``params``; the verdict binds all digests of ``evidence``."""
    findings = tuple(_finding(name, gate, params, evidence) for name, gate in params.gates.items())
    return Verdict(
        status=combine(findings),
        model=evidence.reports.parity.merged if evidence.reports.parity else None,
        policy=policy_digest(params.gates),
        judged=evidence.judged,
        findings=findings,
    )


def _finding(name: str, gate: Gate, params: Params, evidence: Evidence) -> Finding:
    if evidence.breaks:
        more = f" (and {len(evidence.breaks) - 1} more)" if len(evidence.breaks) > 1 else ""
        return _fail(name, gate, f"the evidence is about different bytes: {evidence.breaks[0]}{more}")
    match gate:
        case ThresholdGate():
            return _threshold(name, gate, params, evidence)
        case ParityGate():
            return _parity(name, gate, evidence)
        case DataGate():
            return _data(name, gate, evidence)


def _threshold(name: str, gate: ThresholdGate, params: Params, evidence: Evidence) -> Finding:
    for path in (layout.EVALUATION, layout.PREDICTIONS / "candidate.jsonl", layout.SPLITS / "test.jsonl"):
        if gap := evidence.gaps.get(path.as_posix()):
            return _fail(name, gate, f"no evidence: {gap}")
    scorer = next(s for s in params.evaluate.scorers if s.kind == gate.metric)
    # Scored again: a score written in a file is a claim.
    scores = [scoring.score(scorer, p.prediction, p.reference) for p in evidence.predictions]
    claimed = [p.scores.get(gate.metric) for p in evidence.predictions]
    wrong = next(
        (i for i, (a, b) in enumerate(zip(scores, claimed, strict=True)) if b is None or abs(a - b) > 1e-9), None
    )
    if not scores:
        return _fail(name, gate, "no evidence: there is no prediction")
    if wrong is not None:
        where = f"{layout.PREDICTIONS / 'candidate.jsonl'}:{wrong + 1}"
        return _fail(
            name, gate, f"{where}: claims {gate.metric} {claimed[wrong]}, scored again it is {scores[wrong]:g}"
        )
    # The question has one side, so the bound is one-sided: the end of a two-sided interval at 2c - 1.
    interval = stats.mean_interval(scores, [p.group for p in evidence.predictions], gate.confidence, sided=1)
    if gate.at_least is not None:
        bound, wanted = gate.at_least, f"at least {gate.at_least:g}"
        clear, point = interval.low >= bound, interval.value >= bound
        end = f"lower {gate.confidence:.0%} bound {interval.low:.3f}"
    else:
        assert gate.at_most is not None  # the parameters hold exactly one of the two
        bound, wanted = gate.at_most, f"at most {gate.at_most:g}"
        clear, point = interval.high <= bound, interval.value <= bound
        end = f"upper {gate.confidence:.0%} bound {interval.high:.3f}"
    status: Status
    if interval.n < gate.rows_needed:
        status = "inconclusive"
        reason = f"{interval.n} rows cannot resolve ±{gate.resolution:g}; {gate.rows_needed} would"
    elif clear:
        status, reason = "pass", f"{gate.metric} {interval.value:.3f}, {end}: {wanted}"
    elif point:
        status = "inconclusive"
        reason = f"{gate.metric} {interval.value:.3f} is {wanted}, but its {end} is not; more test rows would tell"
    else:
        status, reason = "fail", f"{gate.metric} {interval.value:.3f} is not {wanted} ({end})"
    # Rounded, so that another machine's last digit does not make the verdict another.
    return Finding(
        gate=name, kind=gate.kind, status=status, reason=reason, metric=gate.metric, bound=bound, n=interval.n,
        value=round(interval.value, 6), low=round(interval.low, 6), high=round(interval.high, 6),
    )  # fmt: skip


def _parity(name: str, gate: ParityGate, evidence: Evidence) -> Finding:
    report = evidence.reports.parity
    if report is None:
        return _fail(name, gate, f"no evidence: {evidence.gaps[layout.PARITY_REPORT.as_posix()]}")
    if report.positions == 0:
        return _fail(name, gate, f"no evidence: {layout.PARITY_REPORT} compared no token")
    problems = []
    if not report.max_logprob_diff <= gate.max_logprob_diff:
        problems.append(
            f"log-probabilities differ by up to {report.max_logprob_diff:.3f}, above {gate.max_logprob_diff:g}"
        )
    if not report.top1 >= gate.min_top1:
        problems.append(f"the best token agrees at {report.top1:.1%} of positions, below {gate.min_top1:.1%}")
    held = (
        f"merged and adapter differ by at most {report.max_logprob_diff:.3f} nats and agree on "
        f"{report.top1:.1%} of {report.positions} tokens"
    )
    return Finding(
        gate=name, kind=gate.kind, status="fail" if problems else "pass", reason="; ".join(problems) or held,
        metric="max_logprob_diff", value=report.max_logprob_diff, bound=gate.max_logprob_diff, n=report.positions,
    )  # fmt: skip


def _data(name: str, gate: DataGate, evidence: Evidence) -> Finding:
    splits = (layout.SPLITS / f"{split}.jsonl" for split in layout.SPLIT_NAMES)
    for path in (layout.PREPARE_REPORT, layout.DATA_REPORT, *splits):
        if gap := evidence.gaps.get(path.as_posix()):
            return _fail(name, gate, f"no evidence: {gap}")
    report = evidence.reports.data
    assert report is not None  # else it is a gap
    failed = [e for e in report.expectations if not e.success]
    rows = sum(report.rows.values())
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return _fail(name, gate, f"{failed[0].name}: {failed[0].observed}{more}")
    total = len(report.expectations)
    return Finding(gate=name, kind=gate.kind, status="pass", reason=f"all {total} expectations hold", n=rows)


def _fail(name: str, gate: Gate, reason: str) -> Finding:
    return Finding(gate=name, kind=gate.kind, status="fail", reason=reason)
