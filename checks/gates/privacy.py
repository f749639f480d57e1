"""privacy: no row that was trained on has personal data or a secret that a detector finds."""

import functools
from collections import Counter
from typing import ClassVar, Literal

from checks.data.personal_data import PersonalData
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, GateParams, Reads, failed
from checks.storage import layout

_SHOWN = 3  # rows that a finding names
_TRAIN = layout.SPLITS / "train.jsonl"


class PrivacyGate(PersonalData, GateKind):
    """No train row has personal data or a secret, found again in the rows themselves."""

    reads: ClassVar[Reads] = "rows"
    rank: ClassVar[int] = 55

    kind: Literal["privacy"]

    def impossible(self, name: str, params: GateParams) -> str | None:
        """``prepare.personal_data`` must refuse before training all that the gate would refuse after it."""
        before, place = params.personal_data, f"gates.{name}"
        if before is None:
            return (
                f"prepare.personal_data: is not written, so rows that gate {name!r} refuses would be trained on first|"
                f"write it, with detectors and allow of {place}"
            )
        if missed := [detector for detector in self.detectors if detector not in before.detectors]:
            return f"prepare.personal_data.detectors: lacks {', '.join(missed)}, which {place} has|add it there"
        if extra := [text for text in before.allow if text not in self.allow]:
            return f"prepare.personal_data.allow: {extra[0]!r} is not in {place}.allow|write it in both or in neither"
        return None

    def check(self, case: Case) -> Finding:
        """Pass when no train row has a finding. A reason says kinds and sources, and no word of what was found."""
        case.evidence.hold(layout.TRAIN_REPORT, _TRAIN)
        rows = case.evidence.train
        if not rows:
            return failed(case.name, self, f"no evidence: {_TRAIN} has no rows")
        kinds, sources = Counter[str](), list[str]()
        find = functools.cache(self.find)  # Many rows share one instruction.
        for row in rows:
            kinds_of_row = [
                finding.kind for text in (row.request, *row.further) for finding in find(text)
            ]
            kinds.update(kinds_of_row)
            if kinds_of_row:
                sources.append(row.source)
        summary = f"{len(sources)} of {len(rows)} train rows have personal data or a secret"
        if sources:
            more = f" and {len(sources) - _SHOWN} more" if len(sources) > _SHOWN else ""
            counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
            summary += f": {counts}; {', '.join(sources[:_SHOWN])}{more}"
        return Finding(
            gate=case.name, kind=self.kind, status="fail" if sources else "pass", reason=summary,
            metric="rows_with_personal_data", value=len(sources), bound=0, n=len(rows),
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return what was looked for, and what would take it out of the rows."""
        return Explained(
            f"is the train split free of what these detectors find: {', '.join(self.detectors)}?",
            "by rule: detectors look at every text of every train row, and one finding is enough; they find no names "
            "and no postal addresses",
            "one row with a finding" if finding.status == "pass"
            else "mask-personal-data or drop-personal-data in prepare.rules, and another training; or what is nobody's "
            f"in {place}.allow and prepare.personal_data.allow",
            f"{_TRAIN}, docs/how-to/privacy.md",
        )  # fmt: skip
