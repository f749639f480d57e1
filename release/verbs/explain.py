"""gate --explain: what one gate asks, what was found and what would change it, for a reader who did not write it."""

from pathlib import Path
from typing import NamedTuple, assert_never

from checks import layout
from checks.errors import EvidenceRefused
from checks.gate_kinds import (
    BudgetGate,
    ContaminationGate,
    DataGate,
    Gate,
    ImprovesGate,
    LicenseGate,
    NonInferiorGate,
    PairedGate,
    ParityGate,
    SliceGate,
    ThresholdGate,
)
from checks.verdict import Finding, Verdict
from release.record.held import hold
from release.record.records import Records

_ALONE = "(before Holm's correction)"


class Explanation(NamedTuple):
    """Five lines for a reader, in order."""

    asks: str
    found: str
    decided: str
    change: str  # what would change the answer
    look: str  # where


class _Said(NamedTuple):
    """What differs from kind to kind: see Explanation."""

    asks: str
    decided: str
    change: str
    look: str


def explain(root: Path, name: str) -> Explanation:
    """Explain gate ``name`` of the verdict in ``root``, which must hold: raises as ``release.record.held.hold`` does.

    Raises EvidenceRefused for a name that no gate has, listing those there are.
    """
    held = hold(Records(root))
    gate = held.params.gates.get(name)
    if gate is None:
        raise EvidenceRefused(f"no gate is called {name!r}", f"name one of {', '.join(held.params.gates)}")
    return of(name, gate, held.verdict)


def of(name: str, gate: Gate, verdict: Verdict) -> Explanation:
    """Explain ``gate``, which is called ``name``, by its finding in ``verdict``."""
    finding = next(finding for finding in verdict.findings if finding.gate == name)
    place = f"gates.{name}"
    match gate:
        case ThresholdGate():
            said = _threshold(place, gate, finding, verdict)
        case ImprovesGate() | NonInferiorGate() | SliceGate():
            said = _paired(place, gate, finding, verdict)
        case DataGate():
            said = _data(finding)
        case ParityGate():
            said = _parity(place, gate, finding)
        case ContaminationGate():
            said = _contamination(place, gate)
        case LicenseGate():
            said = _license(place, gate)
        case BudgetGate():
            said = _budget(place, gate, finding)
        case _:
            assert_never(gate)
    look = f"{said.look}; {layout.VERDICT}; docs/gates.md"
    return Explanation(said.asks, _found(finding), said.decided, said.change, look)


def _found(finding: Finding) -> str:
    """The figures of a test; else the reason, which has them."""
    if finding.p is None:
        return f"{finding.status}: {finding.reason}"
    sign = "+" if finding.against else ""
    shown = f"{finding.value:{sign}.4f}, bounds {finding.low:{sign}.4f} and {finding.high:{sign}.4f}"
    against = f" against {finding.against}" if finding.against else ""
    where = f" in slice {finding.slice!r}" if finding.slice else ""
    flips = f", {finding.gained} gained and {finding.lost} lost" if finding.gained is not None else ""
    sees = "no difference" if finding.detectable is None else f"a difference of {finding.detectable:.4f}"
    return (
        f"{finding.status}: {finding.metric}{against}{where} {shown}, on {finding.n} rows{flips}; p {finding.p:.3g}, "
        f"after Holm's correction {finding.p_holm:.3g}; 80 % power sees {sees} {_ALONE}"
    )


def _test(finding: Finding, verdict: Verdict, confidence: float, refuted: str) -> str:
    """How a test decided; ``refuted`` is the hypothesis that its p is of."""
    if finding.p is None:
        return "without a test: it was never asked, for the reason above"
    tests = len({_claim(other) for other in verdict.findings if other.p is not None})
    return (
        f"by {finding.method}, one-sided, each group of rows one cluster; p is that {refuted}, corrected over "
        f"the {tests} tests of this verdict, and passes at {1 - confidence:.3g} or less"
    )


def _claim(finding: Finding) -> tuple[object, ...]:
    """What a test is of: gates that ask the same of the same model find the same, and are corrected for as one."""
    return (finding.kind, finding.metric, finding.bound, finding.value, finding.low, finding.high, finding.p)


def _rows(finding: Finding) -> str:
    if not finding.rows_needed:
        return ""
    groups = finding.groups_needed
    rows = f"{finding.rows_needed} rows" + (f" in {groups} groups like these" if groups else " like these")
    return f"about {rows} would tell {_ALONE}; "


def _threshold(place: str, gate: ThresholdGate, finding: Finding, verdict: Verdict) -> _Said:
    if gate.at_least is not None:
        field, wanted, refuted, end, way = "at_least", f"at least {gate.at_least:g}", "below", finding.low, "up to"
    else:
        field, wanted, refuted, end, way = "at_most", f"at most {gate.at_most:g}", "above", finding.high, "down to"
    bound = gate.at_least if gate.at_least is not None else gate.at_most
    return _Said(
        f"is the mean {gate.metric} over the test rows {wanted}, shown with {gate.confidence:.0%} confidence by rows "
        f"enough to know it to ±{gate.resolution:g} ({gate.rows_needed} independent ones)?",
        _test(finding, verdict, gate.confidence, f"the true mean is {refuted} {bound:g}"),
        "evidence, which is missing" if end is None
        else f"{_rows(finding)}these rows clear {place}.{field} {way} {end:.4g} {_ALONE}",
        f"{layout.SUMMARY}, {layout.PREDICTIONS}/candidate.jsonl",
    )  # fmt: skip


def _paired(place: str, gate: PairedGate, finding: Finding, verdict: Verdict) -> _Said:
    shown = f"shown with {gate.confidence:.0%} confidence"
    if isinstance(gate, ImprovesGate):
        by = f"by more than {gate.margin:g}" if gate.margin else "at all"
        asks = f"on the same test rows, is {gate.metric} better than that of {gate.against} {by}, {shown}?"
        refuted = f"the true difference is {gate.margin:g} or less"
    else:
        where = f"in each slice (those under {gate.min_rows} rows together), " if isinstance(gate, SliceGate) else ""
        asks = (
            f"{where}on the same test rows, is {gate.metric} not lower than that of {gate.against} by {gate.margin:g} "
            f"or more, {shown}?"
        )
        refuted = f"the true loss{' of some slice' if where else ''} is {gate.margin:g} or more"
    return _Said(
        asks,
        _test(finding, verdict, gate.confidence, refuted),
        _margin(place, gate, finding),
        f"{layout.COMPARISON}/differences.svg, {layout.PREDICTIONS}/candidate.jsonl beside "
        f"{finding.against or gate.against}.jsonl",
    )


def _margin(place: str, gate: PairedGate, finding: Finding) -> str:
    """Which margin these rows clear, or what lets the test be asked."""
    if finding.low is None:
        if finding.status == "pass":
            return f"another {gate.against} to compare with"
        return "what the reason names: the reference's evidence, the measured noise, or a margin above it"
    if isinstance(gate, ImprovesGate):
        if finding.low <= 0:
            return f"{_rows(finding)}these rows clear no {place}.margin: the lower bound is not above 0"
        return f"{_rows(finding)}these rows clear {place}.margin below {finding.low:.4g} {_ALONE}"
    if finding.low > 0:
        return f"{_rows(finding)}a candidate that is not shown to be better; as it is, every {place}.margin is cleared"
    about = "the rows of that slice" if finding.slice else "these rows"
    return f"{_rows(finding)}{about} clear {place}.margin above {-finding.low:.4g} {_ALONE}"


def _data(finding: Finding) -> _Said:
    return _Said(
        "did every expectation on the splits hold, as validate saw these very splits?",
        "by rule: one expectation that fails is enough",
        "one expectation that fails" if finding.status == "pass"
        else "rows mended or dropped by a rule of prepare.rules, or another bound in validate",
        f"{layout.DATA_REPORT}, {layout.DATA_DOCS}/index.html",
    )  # fmt: skip


def _parity(place: str, gate: ParityGate, finding: Finding) -> _Said:
    reach = "" if finding.value is None else f" ({finding.value:.4g} is reached)"
    return _Said(
        f"on real prompts, do merged model and adapter differ by at most {gate.max_logprob_diff:g} nats at every "
        f"token, and name the same likeliest token at {gate.min_top1:.1%} or more?",
        f"by rule: both bounds hold over all {finding.n or 0} tokens",
        f"{place}.max_logprob_diff{reach} or {place}.min_top1; more tokens: merge.parity.prompts",
        layout.PARITY_REPORT.as_posix(),
    )


def _contamination(place: str, gate: ContaminationGate) -> _Said:
    return _Said(
        f"do at most {gate.max_ngram_share:.1%} of the test rows share {gate.ngram} words in a row with a training "
        f"row, and are at most {gate.max_near_duplicate_share:.1%} alike to one (Jaccard of {gate.shingle}-character "
        f"shingles, {gate.similarity:g} or more)?",
        "by rule: both shares are counted over all test rows, against all training rows",
        "a lower prepare.near_duplicates.similarity, which keeps such rows in one split, or "
        f"{place}.max_ngram_share and {place}.max_near_duplicate_share",
        f"{layout.SPLITS}/test.jsonl beside train.jsonl",
    )


def _license(place: str, gate: LicenseGate) -> _Said:
    use = "used commercially" if gate.commercial else "used, though not commercially"
    return _Said(
        f"may base, data and an adapter under {gate.adapter} be shipped together and {use}, each under one of "
        f"{', '.join(gate.allow)}?",
        "by rule: each is known, allowed and compatible with the others, and no source says otherwise",
        f"another base or other data, or what {place} says of adapter, allow and commercial",
        f"{layout.FETCH_REPORT}, docs/licenses.md",
    )


def _budget(place: str, gate: BudgetGate, finding: Finding) -> _Said:
    bounds = gate.model_dump(exclude={"kind"}, exclude_none=True)
    return _Said(
        f"does the model stay within {', '.join(f'{what} {bound:g}' for what, bound in bounds.items())}?",
        "by rule: every bound that is written holds, and what was not measured does not",
        "the figure that is missing" if finding.value is None
        else f"{place}.{finding.metric}: {finding.value:.4g} is the figure nearest to its bound, or furthest beyond",
        f"{layout.TRAIN_REPORT}, {layout.PARITY_REPORT}",
    )  # fmt: skip
