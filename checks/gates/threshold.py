"""threshold: a mean's one-sided bound, not the point, must clear a number."""


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
