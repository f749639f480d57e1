"""data: every expectation on the splits held, about these splits."""

from typing import ClassVar, Literal

from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads, failed
from checks.storage import layout


class DataGate(GateKind):
    """Every expectation on the splits held, about these splits."""

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 50

    kind: Literal["data"]

    def check(self, case: Case) -> Finding:
        """Pass when the data report is about these splits and nothing in it failed."""
        splits = (layout.SPLITS / f"{split}.jsonl" for split in layout.SPLIT_NAMES)
        case.evidence.hold(layout.PREPARE_REPORT, *splits)
        report = case.evidence.need(case.evidence.reports.data, layout.DATA_REPORT)
        broken = [e for e in report.expectations if not e.success]
        if broken:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            return failed(case.name, self, f"{broken[0].name}: {broken[0].observed}{more}")
        total = len(report.expectations)
        return Finding(
            gate=case.name,
            kind=self.kind,
            status="pass",
            reason="its one expectation holds" if total == 1 else f"all {total} expectations hold",
            n=sum(report.rows.values()),
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """One expectation that fails is enough."""
        return Explained(
            "did every expectation on the splits hold, as validate saw these very splits?",
            "by rule: one expectation that fails is enough",
            "one expectation that fails" if finding.status == "pass"
            else "rows fixed or dropped by a rule of prepare.rules, or another bound in validate",
            f"{layout.DATA_REPORT}, {layout.DATA_DOCS}/index.html",
        )  # fmt: skip
