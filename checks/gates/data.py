"""data: every expectation on the splits held, about these splits."""

from checks import layout
from checks.chain import Evidence
from checks.gate_kinds import DataGate
from checks.gates.asked import failed, gap
from checks.verdict import Finding


def ask(name: str, gate: DataGate, evidence: Evidence) -> Finding:
    """Pass when the data report is about these splits and nothing in it failed."""
    splits = (layout.SPLITS / f"{split}.jsonl" for split in layout.SPLIT_NAMES)
    if missing := gap(evidence, (layout.PREPARE_REPORT, layout.DATA_REPORT, *splits)):
        return failed(name, gate, missing)
    report = evidence.reports.data
    assert report is not None  # else it is a gap
    broken = [e for e in report.expectations if not e.success]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return failed(name, gate, f"{broken[0].name}: {broken[0].observed}{more}")
    reason = f"all {len(report.expectations)} expectations hold"
    return Finding(gate=name, kind=gate.kind, status="pass", reason=reason, n=sum(report.rows.values()))
